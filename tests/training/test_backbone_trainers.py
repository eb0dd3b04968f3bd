"""The ordinary trainings of stage I, as nnU-Net makes them from the plans of a user."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_iac.cli import main
from nnunet_iac.host import training_length

Make = Callable[..., Any]

PAPERS = "nnUNetTrainerAdamNoDeepSupervision_200epochs"


def planned_as_in_the_paper(in_process: Any, *settings: str) -> str:
    """Write the plans `paper`, which an earlier test may have left behind; return their name."""
    (in_process.preprocessed / "paper.json").unlink(missing_ok=True)
    words = ["plan", "-d", "4", "-c", "2d", "-p", "small", "-o", "paper", "--protocol", "paper"]
    assignments = ["--set", *settings] if settings else []
    assert main([*words, "--encoder", "mobilenetv3_large", *assignments]) == 0
    return "paper"


@pytest.mark.parametrize(
    "name", [PAPERS, "nnUNetTrainerAdam_8epochs", "nnUNetTrainerAdam_80epochs"]
)
def test_adam_starts_at_a_thousandth_and_decays_as_nnunets_rate_does(
    make_trainer: Make, name: str
) -> None:
    trainer = make_trainer(name)
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert type(trainer.optimizer) is torch.optim.Adam
    assert group["lr"] == 1e-3
    trainer.lr_scheduler.step(trainer.num_epochs // 2)
    # nnU-Net's polynomial when half of the epochs are over: (1 - 1/2)^0.9 of the rate.
    assert group["lr"] == pytest.approx(1e-3 * 0.5**0.9)
    assert trainer.save_every == 10


def test_the_length_of_an_ordinary_training_is_known_without_training(
    in_process: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = str(in_process.preprocessed / "small.json")
    monkeypatch.setattr(sys, "argv", ["", plans, "2d", "nnUNetTrainerAdam_80epochs"])
    training_length.main()
    assert capsys.readouterr().out.splitlines()[-1] == "[80, 250]"


def test_the_papers_training_under_its_plans_is_the_papers_protocol(
    make_trainer: Make, in_process: Any
) -> None:
    trainer = make_trainer(PAPERS, planned_as_in_the_paper(in_process))
    trainer.initialize()
    assert trainer.num_epochs == 200
    assert trainer.configuration_manager.patch_size == [128, 128]
    assert trainer.batch_size == 128
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)  # As training starts.
    with torch.inference_mode():
        logits = trainer.network.eval()(torch.zeros(1, 1, 128, 128))
    assert torch.is_tensor(logits)
    assert logits.shape == (1, 3, 128, 128)


def test_a_step_of_the_papers_training_moves_every_weight_but_the_heads_that_are_not_run(
    make_trainer: Make, in_process: Any
) -> None:
    trainer = make_trainer(PAPERS, planned_as_in_the_paper(in_process))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    network = trainer.network.train()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    # nnU-Net gives one target where there is one output, and a list with deep supervision.
    batch = {"data": torch.randn(2, 1, 64, 64), "target": torch.randint(3, (2, 1, 64, 64)).float()}
    assert np.isfinite(trainer.train_step(batch)["loss"])
    unmoved = {n for n, weight in network.named_parameters() if torch.equal(weight, before[n])}
    lower = tuple(f"decoder.seg_layers.{level}." for level in range(4))  # The fifth is the output.
    assert unmoved == {name for name in before if name.startswith(lower)}


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ("nnUNetTrainerIACLTH", ()),
        ("nnUNetTrainerIAC", ()),
        ("nnUNetTrainerIACDiscrete", ("genotype=identity",)),
        ("nnUNetTrainerContinue", ()),
    ],
)
def test_under_the_papers_plans_a_backbone_of_the_papers_training_is_wanted(
    make_trainer: Make, in_process: Any, trainer: str, settings: tuple[str, ...]
) -> None:
    made = make_trainer(trainer, planned_as_in_the_paper(in_process, *settings))
    command = f"nnUNetv2_train 4 2d 0 -tr {PAPERS} -p paper\n"
    with pytest.raises(FileNotFoundError, match=command):
        made.on_train_start()
