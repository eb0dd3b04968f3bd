"""The search by direct evaluation: candidates side by side are what they are alone."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.genotype_source import find_genotype
from nnunet_iac.runs.scores import VALIDATION_SUMMARY
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.health import parameter_free_share
from nnunet_iac.search.settings import Settings
from nnunet_iac.workflow.study_file import read_study
from nnunet_iac.workflow.study_plans import fold_folder

FILE = Path(__file__).parents[2] / "docs" / "evidence" / "search" / "halving.py"
GENOTYPE = {"genotype": "cells/small-convolutions-{seed}.json", "finetune_epochs": 1}
STUDY = {
    "name": "direct",
    "device": "cpu",
    "datasets": [{"dataset": "4"}],
    "backbones": {"small": {"plans": "small"}},
    "settings": {
        **{"warmup_epochs": 1, "search_epochs": 7},
        **{"iterations_per_epoch": 2, "val_iterations_per_epoch": 1},
    },
    "methods": {"halving-convolutions": {"as": "random", "settings": GENOTYPE}},
}


@pytest.fixture(scope="module")
def halving() -> ModuleType:
    specification: Any = importlib.util.spec_from_file_location("halving", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def contest(halving: ModuleType, unet: nn.Module, count: int) -> Any:
    settings = Settings(finetune_lr=0.01)
    found = [halving.Candidate(random_genotype(seed), unet, settings) for seed in range(count)]
    for candidate in found:  # The gates are open, so that cells differ.
        for name, weight in candidate.implants.named_parameters():
            if name.endswith("gate"):
                weight.data.fill_(0.5)
    return halving.Contest(unet, found)


def of_batch(outputs: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return (outputs[0].mean(dim=0) - target).square().mean()


def test_candidates_side_by_side_score_and_learn_as_each_does_alone(
    halving: ModuleType, tiny_unet: Callable[..., Any]
) -> None:
    images, target = torch.randn(2, 2, 16, 16), torch.randn(3, 16, 16)
    unet = tiny_unet(deep_supervision=True)
    together = contest(halving, unet, 3)
    encoded = []
    unet.encoder.register_forward_hook(lambda *_: encoded.append(1))
    losses = together.losses(images, target, of_batch)
    assert len(encoded) == 1
    torch.stack(losses).sum().backward()
    for seed in range(3):
        own = tiny_unet(deep_supervision=True)
        alone = halving.Contest(own, contest(halving, own, 3).candidates[seed : seed + 1])
        (loss,) = alone.losses(images, target, of_batch)
        loss.backward()
        torch.testing.assert_close(loss, losses[seed])
        both = (c.candidates[i].implants for c, i in ((alone, 0), (together, seed)))
        for a, b in zip(*(each.parameters() for each in both), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    assert len({round(loss.item(), 6) for loss in losses}) == 3


def test_the_half_with_the_lower_loss_stays_until_one_is_left(halving: ModuleType) -> None:
    assert halving.rounds(16) == [16, 8, 4, 2]
    assert halving.halved("abcd", [[3, 0], [1, 1], [5, 5], [0, 0]]) == ["d", "b"]


def test_patients_that_are_held_out_are_not_used_in_training(halving: ModuleType) -> None:
    cases = [f"patient{n}_{frame}" for n in range(8) for frame in (1, 2)]
    trained, away = halving.held_out(cases, r"patient\d+")
    assert away == ["patient0_1", "patient0_2", "patient4_1", "patient4_2"]
    assert sorted(trained + away) == cases


def test_a_run_of_a_study_keeps_the_winners_weights_and_what_led_to_it(
    halving: ModuleType,
    in_process: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(halving, "CANDIDATES", 4)
    monkeypatch.setattr(halving, "HELD_OUT_BATCHES", 2)
    started: dict[str, torch.Tensor] = {}
    begin = halving.HalvingTrainer.start_run

    def start_run(trainer: Any) -> None:
        begin(trainer)
        state = trainer.unet.implants.state_dict()
        started.update({name: tensor.clone() for name, tensor in state.items()})

    def validate(trainer: Any) -> None:
        write_json(Path(trainer.output_folder, VALIDATION_SUMMARY), {})

    monkeypatch.setattr(halving.HalvingTrainer, "start_run", start_run)
    monkeypatch.setattr(halving.HalvingTrainer, "perform_actual_validation", validate)
    file = in_process.path / "direct.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    halving.main(file)
    name = capsys.readouterr().out.strip()
    halving.main(file, name)
    capsys.readouterr()
    halving.main(file)
    assert capsys.readouterr().out.strip() == ""  # It has ended.

    cell = in_process.path / "cells" / "small-convolutions-0.json"
    log, found = read_json(cell.with_suffix(".log.json")), find_genotype(cell)
    assert [len(scores) for scores in log["rounds"]] == [4, 2]
    final = log["rounds"][-1]
    assert str(found) == min(final, key=lambda genotype: sum(final[genotype]))
    assert parameter_free_share(found) == 0
    known = torch.load(cell.with_suffix(".pth"), weights_only=True)
    assert started.keys() == known.keys()
    assert all(torch.equal(tensor, known[name]) for name, tensor in started.items())
    assert any(tensor.any() for name, tensor in known.items() if name.endswith("gate"))
    study = read_study(file)
    record = RunFolder.of_fold(fold_folder(study, study.runs[name]))
    assert record.read_genotype() == found
    phases = record.read_cost().phases
    assert (phases["search"].epochs, phases["finetune"].epochs) == (log["epochs"], 1)
