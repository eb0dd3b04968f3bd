"""Output of a run while it trains: nnU-Net's log and logger, W&B and TensorBoard."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.multiprocessing
from interruption import run_until
from nnunetv2.training.logging import nnunet_logger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.annealing import cosine_power, polynomial
from nnunet_iac.training.loggers import TENSORBOARD_VARIABLE as VARIABLE
from nnunet_iac.training.loggers import tensorboard_wanted
from nnunet_iac.workflow.serial import PROGRESS

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
CONTROL = "nnUNetTrainerContinue"
EPOCHS = 9
SEARCH_EPOCHS = 7
"""Epochs of the search, of which the first is the warm-up."""

SEARCH_KEYS = ("iac/operations_left", "iac/edges_settled", "iac/entropy")
EVERY_EPOCH = ("iac/phase", "iac/seconds")

Make = Callable[..., Any]


class FakeConfig(dict[str, Any]):
    """As W&B's, it refuses to change a value."""

    def update(self, values: dict[str, Any]) -> None:  # type: ignore[override]
        for key, value in values.items():
            assert self.get(key, value) == value, key
        super().update(values)


class FakeSummary(dict[str, Any]):
    """Values that stand for the whole run; what is no part of training is set once."""

    def __setitem__(self, key: str, value: Any) -> None:
        assert key not in self or "val/" not in key, key
        super().__setitem__(key, value)


class FakeRun:
    """A W&B run that keeps what it is given."""

    def __init__(self) -> None:
        self.config = FakeConfig()
        self.summary = FakeSummary()
        self.history: list[tuple[str, Any, int]] = []
        self.step = 0

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step, "W&B ignores steps that lie behind"
        self.step = step
        self.history += [(key, value, step) for key, value in values.items()]

    def curve(self, key: str) -> list[tuple[int, Any]]:
        return [(step, value) for name, value, step in self.history if name == key]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeRun]:
    """Switch nnU-Net's W&B on, with a package that needs no network; return its runs by id."""
    runs: dict[str, FakeRun] = {}

    def init(project: str, dir: str, id: str | None, mode: str, resume: str) -> FakeRun:
        if id is None:
            id = f"{len(runs)}"
            runs[id] = FakeRun()
            latest = Path(dir) / "wandb" / "latest-run"
            latest.mkdir(parents=True)
            (latest / f"run-{id}.wandb").touch()
        else:
            assert resume == "allow"
            runs[id].step += 1  # W&B takes the last step for complete.
        return runs[id]

    fake = SimpleNamespace(init=init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(nnunet_logger, "wandb", fake)
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    return runs


def _control(workspace: Any, epochs: int = 3) -> str:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": epochs}
    plans: str = workspace.write_plans("control", **short)
    return plans


def _phase_lines(trainer: Any) -> list[str]:
    lines = Path(trainer.log_file).read_text().splitlines()
    return [line for line in lines if "Phase: " in line]


# --- the log -------------------------------------------------------------------------------------


def test_every_epoch_has_one_line_of_progress_and_the_demo_shows_it(make_trainer: Make) -> None:
    trainer = make_trainer(LTH)
    trainer.run_training()
    assert Path(trainer.log_file).read_text().count("This split has") == 1
    lines = _phase_lines(trainer)
    shown = [match.group(1) for line in lines if (match := PROGRESS.search(line.rstrip()))]
    assert [line.partition("; training ends about")[0] for line in shown] == [
        "Phase: warmup, 1 epoch done; 98 of 98 operations left, 0 of 14 edges settled; "
        "search ends after 7 epochs",
        *(
            f"Phase: search, {epoch} epochs done; {14 * (8 - epoch)} of 98 operations left, "
            "0 of 14 edges settled; search ends after 7 epochs"
            for epoch in range(2, 7)
        ),
        "Phase: search, 7 epochs done; 14 of 98 operations left, 14 of 14 edges settled; "
        "search finished",
        "Phase: finetune, 8 of 9 epochs done",
        "Phase: finetune, 9 of 9 epochs done; training finished",
    ]
    assert len(lines) == EPOCHS
    assert all(re.search(r"about .*\d\d:\d\d \(in \d.*\) at this pace", line) for line in lines[:8])


def test_the_pace_is_that_of_the_recent_epochs_of_the_same_phase(make_trainer: Make) -> None:
    trainer = make_trainer(LTH)
    fold = run_until(trainer, 3)
    logging = torch.load(fold / "checkpoint_latest.pth", weights_only=False)["logging"]
    # Epochs of 1000 s in the warm-up, of 3600 s and 7200 s in the search: 5400 s on average.
    resumed = make_trainer(LTH, resume=True)
    logging["epoch_start_timestamps"] = [0.0, 1000.0, 5000.0]
    logging["epoch_end_timestamps"] = [1000.0, 4600.0, 12200.0]
    phase = resumed.controller.phase
    times = logging["epoch_start_timestamps"], logging["epoch_end_timestamps"]
    assert resumed.run.recorder.pace(phase.value, *times) == 5400.0
    progress = resumed.controller.progress(phase, resumed.current_epoch)
    assert progress.ends == (EPOCHS, EPOCHS)


def test_the_control_logs_its_progress_too(make_trainer: Make, in_process: Any) -> None:
    trainer = make_trainer(CONTROL, _control(in_process))
    trainer.run_training()
    shown = [re.sub(r" about .*", "", line) for line in _phase_lines(trainer)]
    assert [line.partition("Phase: ")[2].rstrip() for line in shown] == [
        "continued, 1 of 3 epochs done; training ends",
        "continued, 2 of 3 epochs done; training ends",
        "continued, 3 of 3 epochs done; training finished",
    ]


# --- nnU-Net's logger, and W&B -------------------------------------------------------------------


def _require_one_value_per_epoch(trainer: Any, run: FakeRun, epochs: int) -> None:
    """Check nnU-Net's rule for its logger, and that W&B got the same."""
    curves = trainer.logger.get_checkpoint()
    assert {key: len(values) for key, values in curves.items()} == dict.fromkeys(curves, epochs)
    for key, values in curves.items():
        if key != "dice_per_class_or_region":
            assert run.curve(key) == list(enumerate(values)), key
    counts = Counter((key, step) for key, _, step in run.history)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("name", [LTH, FULL])
def test_every_phase_logs_each_value_once_an_epoch_and_the_search_its_own(
    make_trainer: Make,
    wandb: dict[str, FakeRun],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    trainer = make_trainer(name)
    trainer.run_training()
    (run,) = wandb.values()
    _require_one_value_per_epoch(trainer, run, EPOCHS)
    assert "logging issue" not in capsys.readouterr().out
    searching, all_epochs = list(range(SEARCH_EPOCHS)), list(range(EPOCHS))
    assert run.curve("iac/phase") == list(zip(all_epochs, [0, *[1] * 6, 2, 2], strict=True))
    assert all([step for step, _ in run.curve(key)] == all_epochs for key in EVERY_EPOCH)
    assert all([step for step, _ in run.curve(key)] == searching for key in SEARCH_KEYS)
    left = [value for _, value in run.curve("iac/operations_left")]
    assert left == ([98, 84, 70, 56, 42, 28, 14] if name == LTH else [98] * SEARCH_EPOCHS)
    compared = [step for step, _ in run.curve("iac/divergence")]
    assert compared == (searching[1:] if name == LTH else [])
    assert (Path(trainer.output_folder) / "progress.png").stat().st_size > 0


def test_the_learning_rate_that_is_logged_is_the_weights_one_in_every_phase(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans("rates", weights_lr=0.02, finetune_lr=0.003)
    trainer = make_trainer(LTH, plans)
    assert (trainer.initial_lr, trainer.weight_decay) == (0.02, 0.0)
    trainer.run_training()
    searched = [cosine_power(epoch, 7, 0.02, 1e-4, 2.0) for epoch in range(SEARCH_EPOCHS)]
    finetuned = [polynomial(epoch, 2, 0.003) for epoch in range(2)]
    assert trainer.logger.get_value("lrs", step=None) == searched + finetuned


def test_a_resumed_run_resumes_with_the_same_curves_in_wandb(
    make_trainer: Make, wandb: dict[str, FakeRun]
) -> None:
    run_until(make_trainer(LTH), 4)
    resumed = make_trainer(LTH, resume=True)
    resumed.run_training()
    (run,) = wandb.values()
    _require_one_value_per_epoch(resumed, run, EPOCHS)
    assert [step for step, _ in run.curve("iac/seconds")] == list(range(EPOCHS))
    assert run.config["iac"] == resumed.settings.to_mapping()
    assert run.config["hparas"]["initial_lr"] == resumed.settings.optimisation.weights_lr


def test_the_control_logs_each_value_once_an_epoch(
    make_trainer: Make, in_process: Any, wandb: dict[str, FakeRun]
) -> None:
    plans = _control(in_process)
    run_until(make_trainer(CONTROL, plans), 2)
    resumed = make_trainer(CONTROL, plans, resume=True)
    resumed.run_training()
    (run,) = wandb.values()
    _require_one_value_per_epoch(resumed, run, 3)
    assert run.curve("iac/phase") == [(0, 3), (1, 3), (2, 3)]
    assert run.config["hparas"]["initial_lr"] == resumed.settings.optimisation.finetune_lr


def test_the_references_score_is_not_logged_as_the_runs_own(
    make_trainer: Make, wandb: dict[str, FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = torch.multiprocessing.get_context("fork")
    monkeypatch.setattr(nnUNet.multiprocessing, "get_context", lambda _: fork)
    trainer = make_trainer(LTH)
    fold = run_until(trainer, 1)
    (run,) = wandb.values()
    trainer.perform_actual_validation()
    for key, folder in (("final_val", fold), ("reference_val", fold / "iac" / "reference")):
        scored = read_json(folder / "validation" / "summary.json")["foreground_mean"]["Dice"]
        assert run.summary[f"{key}/foreground_dice"] == scored
    assert not any(key.startswith("reference_val/class") for key in run.summary)


# --- TensorBoard ---------------------------------------------------------------------------------


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_without_being_asked_for_tensorboard_leaves_nothing(make_trainer: Make) -> None:
    trainer = make_trainer(LTH)
    run_until(trainer, 1)
    assert trainer.logger.loggers == []
    assert not (trainer.run.recorder.folder.path / "tensorboard").exists()


def test_tensorboard_holds_every_epoch_once_after_a_run_was_broken_off_and_resumed(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    broken = make_trainer(LTH)

    def break_off(outputs: list[dict]) -> None:
        if broken.current_epoch == 4:  # The epoch's learning rate and loss are written by now.
            raise InterruptedError
        type(broken).on_validation_epoch_end(broken, outputs)

    broken.on_validation_epoch_end = break_off
    with pytest.raises(InterruptedError):
        broken.run_training()
    folder = broken.run.recorder.folder.path / "tensorboard"
    assert [step for step, _ in _read(folder)["lrs"]] == [0, 1, 2, 3, 4]
    resumed = make_trainer(LTH, resume=True)
    resumed.run_training()
    scalars = _read(folder)
    curves = resumed.logger.get_checkpoint()
    for key in ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"):
        wanted = [(step, pytest.approx(value)) for step, value in enumerate(curves[key])]
        assert scalars.pop(key) == wanted, key
    for number in (1, 2):
        dice = scalars.pop(f"dice_per_class_or_region/class_{number}")
        assert [step for step, _ in dice] == list(range(EPOCHS))
    assert scalars.pop("iac/phase") == list(enumerate([0, *[1] * 6, 2, 2]))
    left = scalars.pop("iac/operations_left")
    assert left == list(enumerate([98, 84, 70, 56, 42, 28, 14]))
    assert scalars.pop("iac/edges_settled") == list(enumerate([0] * 6 + [14]))
    rows = resumed.run.recorder.rows
    means = [(row.epoch - 1, pytest.approx(row.divergence.mean(), rel=1e-5)) for row in rows[1:]]
    assert scalars.pop("iac/divergence") == means
    assert [step for step, _ in scalars.pop("iac/entropy")] == list(range(SEARCH_EPOCHS))
    seconds = scalars.pop("iac/seconds")
    assert seconds[:SEARCH_EPOCHS] == [
        (row.epoch - 1, pytest.approx(row.seconds, rel=1e-5)) for row in rows
    ]
    assert len(seconds) == EPOCHS
    assert scalars == {}


def test_a_new_start_moves_the_earlier_curves_aside_with_the_record(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "true")
    plans = _control(in_process)
    make_trainer(CONTROL, plans).run_training()
    second = make_trainer(CONTROL, plans)
    fold = run_until(second, 2)
    (aside,) = fold.glob("before_*")
    earlier = _read(aside / "iac" / "tensorboard")
    assert [step for step, _ in earlier["lrs"]] == [0, 1, 2]
    now = _read(fold / "iac" / "tensorboard")
    assert [step for step, _ in now["lrs"]] == [0, 1]
    assert now["iac/phase"] == [(0, 3), (1, 3)]


@pytest.mark.parametrize("value", ["yes", ""])
def test_another_value_of_the_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(RuntimeError, match=f"{VARIABLE} must be 0, 1.*; got '{value}'"):
        tensorboard_wanted()


@pytest.mark.parametrize("value", ["0", "false", "False"])
def test_tensorboard_can_be_declined(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert not tensorboard_wanted()


def test_tensorboard_that_is_not_installed_is_an_error_before_anything_is_written(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RuntimeError, match=rf"{VARIABLE}=1.*\.\[tensorboard\]"):
        make_trainer(LTH)
    assert not in_process.model(LTH, "small").exists()
