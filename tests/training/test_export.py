"""Exported models: stock nnU-Net builds and runs them, and ONNX gives the same logits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import run_until
from torch import nn

from nnunet_iac.cli import main
from nnunet_iac.host.onnx_export import agreement, export_onnx, parity, predictor_of
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint, tensors_hash

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete"
SHORT = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 1}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "searched cell": (LTH, {"decoder_norms": "tuned"}),
    "convolution": (DISCRETE, {"genotype": "conv", **SHORT}),
    "nested skips": (DISCRETE, {"skip": "nested", **SHORT}),
    "U-Net trained on": ("nnUNetTrainerContinue", SHORT),
}

Make = Callable[..., Any]


def trained(make_trainer: Make, in_process: Any, way: str) -> Path:
    name, settings = WAYS[way]
    trainer = make_trainer(name, in_process.write_plans("exporting", **settings))
    trainer.run_training()
    return Path(trainer.output_folder)


def logits_of(fold: Path) -> torch.Tensor:
    image = np.random.default_rng(0).normal(size=(1, 1, 60, 50)).astype(np.float32)
    return predictor_of(fold).predict_sliding_window_return_logits(torch.from_numpy(image))


@pytest.mark.parametrize("way", WAYS)
def test_stock_nnunet_predicts_the_same_with_an_exported_model(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    fold = trained(make_trainer, in_process, way)
    before = logits_of(fold)
    target = tmp_path / "exports" / "nnUNetTrainer__cells__2d"
    assert main(["export", str(fold), "-o", str(target)]) == 0
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    monkeypatch.delenv("nnUNet_extTrainer")
    exported = predictor_of(target / "fold_0")
    assert exported.trainer_name == "nnUNetTrainer"
    assert torch.equal(logits_of(target / "fold_0"), before)
    weights = [read_checkpoint(f / FINAL)["network_weights"] for f in (fold, target / "fold_0")]
    assert tensors_hash(weights[0]) == tensors_hash(weights[1])
    plans = json.loads((target / "plans.json").read_text())
    assert plans["plans_name"] == "cells"
    assert not any("iac" in described for described in plans["configurations"].values())
    assert str(in_process.path) not in json.dumps(plans)


def test_an_onnx_file_has_the_logits_of_its_network_on_validation_cases(
    make_trainer: Make, in_process: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = trained(make_trainer, in_process, "searched cell")
    target = tmp_path / "exported"
    assert main(["export", str(fold), "-o", str(target), "--onnx", "--cases", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count(": same") == 1
    assert "Dice 1.000000" in said
    predictor = predictor_of(target / "fold_0")
    with torch.no_grad():
        predictor.network.decoder.seg_layers[-1].bias[0] += 0.01
    image = np.zeros((1, 1, 60, 50), np.float32)
    found = parity(predictor, target / "fold_0" / "network.onnx", "zeros", image)
    assert found.difference == pytest.approx(0.01, rel=0.01)
    assert not found.holds
    assert str(found).endswith("NOT THE SAME")


def test_what_onnx_does_not_know_is_named(tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x)

    with pytest.raises(RuntimeError, match=r"every operation .* without --onnx"):
        export_onnx(Unknown(), 1, (4, 4), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    make_trainer: Make, in_process: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "exported"
    trainer = make_trainer(LTH)
    run_until(trainer, 3)
    fold = Path(trainer.output_folder)
    wrong = {
        "plans.json does not exist": [str(tmp_path)],
        "none of": [str(fold)],
        "still searching": [str(fold), "-chk", "checkpoint_latest.pth"],
        "--cases must be at least 1": [str(fold), "--onnx", "--cases", "0"],
    }
    for message, words in wrong.items():
        assert main(["export", *words, "-o", str(target)]) == 2
        assert message in capsys.readouterr().err
        assert not target.exists()
    shutil.copyfile(fold / "checkpoint_latest.pth", fold / FINAL)
    target.mkdir()
    assert main(["export", str(fold), "-o", str(target)]) == 2
    assert "must go to a new folder" in capsys.readouterr().err


def test_agreement_is_the_mean_dice_of_labels_that_are_there() -> None:
    a, b = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert agreement(a, b) == pytest.approx(2 / 3)
    assert agreement(a, a) == agreement(np.zeros(3), np.zeros(3)) == 1
