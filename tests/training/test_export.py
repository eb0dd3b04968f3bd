"""Exported models: stock nnU-Net builds and runs them, and ONNX gives the same logits."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import run_until
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_unets import as_older
from torch import nn
from torch._dynamo import OptimizedModule

from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.cli import main
from nnunet_iac.host import onnx_export
from nnunet_iac.host.export import Model, predict_command
from nnunet_iac.host.onnx_export import (
    Parity,
    agreement,
    export_fold,
    export_onnx,
    parity,
    predictor_of,
)
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.folding import fold_for_inference
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.controls import random_genotype

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete"
SHORT = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 1}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "searched cell": (LTH, {"trainable_part": "cells+norms"}),
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


def untrained(make_trainer: Make, plans: str, fold: int = 0) -> Path:
    """Return a fold that ends before it began, with a random cell and random weights."""
    trainer, generator = make_trainer(LTH, plans, fold=fold), torch.Generator().manual_seed(fold)
    trainer.initialize()
    trainer.unet.discretise(random_genotype(fold))
    for parameter in trainer.unet.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder = Path(trainer.output_folder)
    trainer.save_checkpoint(str(folder / FINAL))
    trainer.run.recorder.folder.write_split(trainer.run.cases)
    write_json(folder.parent / "plans.json", trainer.plans_manager.plans)
    write_json(folder.parent / "dataset.json", trainer.dataset_json)
    return folder


@pytest.fixture
def fold(make_trainer: Make, in_process: Any) -> Path:
    return untrained(make_trainer, in_process.write_plans("exporting"))


def edit(model: Path, **changes: Any) -> None:
    """Change what the plans of a model say of its configuration."""
    plans = read_json(model / "plans.json")
    plans["configurations"]["2d"].update(changes)
    write_json(model / "plans.json", plans)


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
    assert (plans["plans_name"], plans["exported_from"]) == ("cells", fold.parent.name)
    assert not any("iac" in config for config in plans["configurations"].values())
    assert str(in_process.path) not in json.dumps(plans)


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
def test_a_model_of_an_older_nnunet_is_retrofitted_predicts_and_is_exported(
    make_trainer: Make, in_process: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = read_json(in_process.preprocessed / "small.json")
    plans["configurations"]["2d"] = as_older(plans["configurations"]["2d"])
    write_json(in_process.preprocessed / "small.json", plans)
    stock = make_trainer("nnUNetTrainer")
    stock.initialize()
    stock.save_checkpoint(str(Path(stock.output_folder) / FINAL))
    of_plans = ["-d", "4", "-c", "2d", "-p", "small"]
    assert main(["plan", *of_plans, "-o", "ours", "--set", "genotype=random:0"]) == 0
    assert main(["xtiny", *of_plans, "--cap", "4"]) == 0
    timed = Workload.of_plans("4", "2d", "small", "cpu")
    assert {*timed.unet().state_dict()} == {*stock.network.state_dict()}
    narrow = make_trainer("nnUNetTrainerAdam_8epochs", "small_xtiny4")
    narrow.initialize()
    assert narrow.network.encoder.output_channels == [4, 4, 4]
    given = make_trainer("nnUNetTrainerIACDiscrete_2finetune", "ours")
    given.run_training()
    fold = Path(given.output_folder)
    before = logits_of(fold)
    assert main(["export", str(fold), "-o", str(tmp_path / "exported__P__2d")]) == 0
    assert torch.equal(logits_of(tmp_path / "exported__P__2d" / "fold_0"), before)
    stock_model = Path(stock.output_folder).parent
    for name in ("plans", "dataset"):
        shutil.copy(fold.parent / f"{name}.json", stock_model)
    own = SourceModel.at(stock_model).read()
    assert tensors_hash(own.weights) == given.run.recorder.backbone.before


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
    assert str(found).endswith("differs")


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
        "at least 1; got 0: give a number of validation cases": [
            str(fold),
            "--onnx",
            "--cases",
            "0",
        ],
    }
    for message, words in wrong.items():
        assert main(["export", *words, "-o", str(target)]) == 2
        assert message in capsys.readouterr().err
        assert not target.exists()
    shutil.copyfile(fold / "checkpoint_latest.pth", fold / FINAL)
    target.mkdir()
    assert main(["export", str(fold), "-o", str(target)]) == 2
    assert "must go to a new folder" in capsys.readouterr().err


def test_an_operation_that_onnx_does_not_know_leaves_nothing_in_the_way(
    fold: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.linalg.eigvalsh(x @ x.mT).sum()

    target = tmp_path / "exports" / "exported"
    words = ["export", str(fold), "-o", str(target), "--onnx", "--cases", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(
            onnx_export, "fold_for_inference", lambda network: nn.Sequential(Unknown(), network)
        )
        assert main(words) == 2
    assert "every operation of the network must be one that" in capsys.readouterr().err
    assert not list(target.parent.iterdir())
    assert main(words) == 0
    assert sorted(path.name for path in target.rglob("*.*")) == [
        FINAL,
        "dataset.json",
        "network.onnx",
        "plans.json",
    ]


def test_an_onnx_file_that_is_not_its_network_is_left_out_and_the_model_is_not(
    fold: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(network: Any) -> nn.Module:
        network = fold_for_inference(network)
        network.decoder.seg_layers[-1].bias.data += torch.tensor([0.0, 5.0, 0.0])
        return network

    monkeypatch.setattr(onnx_export, "fold_for_inference", changed)
    target = tmp_path / "exports" / "exported"
    assert main(["export", str(fold), "-o", str(target), "--onnx", "--cases", "2"]) == 1
    said = capsys.readouterr().out
    assert said.count(": differs\n") == 1
    assert "removed: network.onnx of fold_0, whose output differs from its network's" in said
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert [path.name for path in (target / "fold_0").iterdir()] == [FINAL]
    assert torch.equal(logits_of(target / "fold_0"), logits_of(fold))


def test_what_cannot_be_compared_with_its_onnx_file_is_refused_before_anything_is_written(
    fold: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def require_refused(message: str) -> None:
        assert main(["export", str(fold), "-o", str(target), "--onnx"]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert not target.exists()

    target, split = tmp_path / "exported", RunFolder.of_fold(fold).split_file
    edit(fold.parent, data_identifier="nowhere")
    require_refused(f"{tmp_path}/preprocessed/Dataset004_Hippocampus/nowhere does not exist")
    edit(fold.parent, data_identifier="nnUNetPlans_2d")
    split.rename(tmp_path / "split.json")
    require_refused(f"{split} does not exist: name the folder of the run itself")
    (tmp_path / "split.json").rename(split)
    with monkeypatch.context() as patch:
        patch.delenv("nnUNet_preprocessed")
        require_refused("nnUNet_preprocessed must name nnU-Net's folder")
    edit(fold.parent, previous_stage="3d_lowres")
    require_refused("the second stage of a cascade takes predictions of the first")


def test_a_network_that_its_trainer_builds_otherwise_is_refused(
    fold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(fold / FINAL)
    checkpoint["network_weights"]["encoder.norm.running_mean"] = torch.zeros(4)
    torch.save(checkpoint, fold / FINAL)
    assert main(["export", str(fold), "-o", str(tmp_path / "new")]) == 2
    assert "encoder.norm.running_mean among them" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["export", str(fold), "-chk", str(fold / FINAL), "-o", str(tmp_path / "new")]) == 2
    assert "as it is called in every fold" in capsys.readouterr().err


def test_the_command_for_a_cascade_asks_for_the_first_stages_predictions(
    fold: Path, tmp_path: Path
) -> None:
    for stage, words in ((None, ""), ("3d_lowres", " -prev_stage_predictions FOLDER")):
        edit(fold.parent, previous_stage=stage)
        printed = predict_command(Model.at(fold), tmp_path)
        assert printed.endswith(f"{tmp_path} -f 0 -i IMAGES -o OUT{words}")


def test_folds_with_different_cells_predict_together_after_export(
    make_trainer: Make, in_process: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prediction(model: Path) -> torch.Tensor:
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0, 1))
        image = np.random.default_rng(0).normal(size=(1, 1, 60, 50)).astype(np.float32)
        return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))

    plans = in_process.write_plans("exporting")
    model = untrained(make_trainer, plans).parent
    untrained(make_trainer, plans, fold=1)
    (model / "fold_3").mkdir()
    target = tmp_path / "exported"
    assert main(["export", str(model), "-o", str(target)]) == 0
    said = capsys.readouterr().out
    assert f"left out: fold_3, which has no {FINAL}\n" in said
    assert f"-m {target} -f 0 1 -i" in said
    assert sorted(path.name for path in target.glob("fold_*")) == ["fold_0", "fold_1"]
    weights = [read_checkpoint(fold / FINAL)["network_weights"] for fold in target.glob("fold_*")]
    assert not torch.equal(*(w["genotype_codes"] for w in weights))
    assert torch.equal(prediction(target), prediction(model))


def test_folds_that_are_not_of_one_structure_are_refused(
    make_trainer: Make, in_process: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(make_trainer, in_process.write_plans("exporting", min_channels=8)).parent
    untrained(make_trainer, in_process.write_plans("exporting", min_channels=4), fold=1)
    target = tmp_path / "exported"
    assert main(["export", str(model), "-o", str(target)]) == 2
    assert "min_channels is 4 in fold_1 and 8 in fold_0" in capsys.readouterr().err
    backbone = read_checkpoint(in_process.model("nnUNetTrainer", "small") / "fold_0" / FINAL)
    torch.save(backbone, model / "fold_1" / FINAL)
    assert main(["export", str(model), "-o", str(target)]) == 2
    assert "implant is None in fold_1 and 'cell' in fold_0" in capsys.readouterr().err
    assert not target.exists()


def test_a_target_that_names_another_configuration_is_refused(
    fold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "nnUNetTrainer__cells__3d_fullres"
    assert main(["export", str(fold), "-o", str(target)]) == 2
    assert "2d; got 3d_fullres: call it nnUNetTrainer__cells__2d" in capsys.readouterr().err
    assert not target.exists()


def test_a_predictor_has_the_plain_network_where_compilation_is_asked_for(
    fold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_compile", "true")
    assert not isinstance(predictor_of(fold).network, OptimizedModule)


def test_what_rounding_is_depends_on_the_size_of_the_logits() -> None:
    assert Parity("small", difference=9e-4, scale=0.1, dice=1).holds
    assert not Parity("small", difference=2e-3, scale=0.1, dice=1).holds
    large = Parity("large", difference=2e-3, scale=25, dice=1)
    assert str(large) == (
        "large: logits of up to 25 differ by at most 0.002 (limit 0.025), Dice 1.000000: same"
    )
    assert not Parity("other labels", difference=0, scale=25, dice=0.99).holds
    assert not Parity("infinite", difference=math.inf, scale=math.inf, dice=1).holds


def test_regions_with_an_ignored_label_are_compared_on_images_of_several_channels(
    in_process: Any,
    tiny_unet: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dataset = {
        "channel_names": {"0": "MRI", "1": "smooth"},
        "labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }
    plans = PlansManager(read_json(in_process.preprocessed / "small.json"))
    network = tiny_unet(2, deep_supervision=False).eval()
    head = network.decoder.seg_layers[-1]
    head.weight, head.bias = nn.Parameter(head.weight[:2]), nn.Parameter(head.bias[:2])
    known = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    names = (dataset, "nnUNetTrainer", None)
    known.manual_initialization(network, plans, plans.get_configuration("2d"), None, *names)
    monkeypatch.setattr(onnx_export, "predictor_of", lambda fold: known)
    predictor, path = export_fold(tmp_path)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        onnx_export, "agreement", lambda *labels: seen.extend(labels) or agreement(*labels)
    )
    image = np.random.default_rng(0).normal(size=(2, 1, 60, 50)).astype(np.float32)
    assert parity(predictor, path, "regions", image).holds
    assert [np.unique(labels).tolist() for labels in seen] == [[0, 1, 2]] * 2


def test_agreement_is_the_mean_dice_of_labels_that_are_there() -> None:
    a, b = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert agreement(a, b) == pytest.approx(2 / 3)
    assert agreement(a, a) == agreement(np.zeros(3), np.zeros(3)) == 1
