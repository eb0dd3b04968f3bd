"""The record of a run without nnU-Net: what it holds, writes and restores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import Observation, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES
from nnunet_iac.training import recorder as module
from nnunet_iac.training.loggers import log_numbers
from nnunet_iac.training.recorder import Recorder, Throttled, draw_progress

SETTINGS = Settings()
CELLS = {"trajectory.npz", "events.jsonl", "health.jsonl"}
ALL_RUNS = {"settings.json", "backbone.json", "cost.json"}


def _begun(folder: Path, has_cells: bool = True) -> Recorder:
    recorder = Recorder(SETTINGS, RunFolder(folder), lambda line: None, has_cells)
    recorder.begin(BackboneRecord("a.pth", "nnUNetTrainer", 0, "hash"), {"fold": 0})
    return recorder


def _filled(folder: Path) -> Recorder:
    recorder = _begun(folder)
    observation = Observation(1, torch.zeros(14, 7), torch.zeros(14))
    recorder.add_row(observation, idle(observation, SETTINGS.cell), seconds=2.0)
    recorder.add_health_event(HealthEvent(1, "non-finite", EDGES[3], "a test"))
    recorder.account("warmup", 2.0)
    recorder.add_network_cost("backbone", Cost(3, 4))
    recorder.write()
    return recorder


@pytest.mark.parametrize("has_cells", [True, False])
def test_a_run_without_cells_has_no_files_of_a_search(tmp_path: Path, has_cells: bool) -> None:
    _begun(tmp_path, has_cells)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == (ALL_RUNS | CELLS if has_cells else ALL_RUNS)


def test_what_ended_a_run_and_what_it_proved_outlive_its_checkpoint(tmp_path: Path) -> None:
    first = _begun(tmp_path)
    state = first.state_dict()
    first.add_backbone_facts(encoder_after="frozen")
    first.add_health_event(HealthEvent(2, "non-finite", None, "the loss"))
    first.add_health_event(HealthEvent(2, "plateau", None, "found again after it is resumed"))
    second = Recorder(SETTINGS, RunFolder(tmp_path), lambda line: None)
    second.load_state_dict(state)
    second.restore()
    assert second.folder.read_backbone().encoder_after == "frozen"
    assert [event.kind for event in second.folder.read_health()] == ["non-finite"]


def test_only_the_first_process_draws_the_last_progress(tmp_path: Path) -> None:
    drawn: list[str] = []
    logger = SimpleNamespace(plot_progress_png=Throttled(drawn.append))
    for rank in (0, 1):
        draw_progress(SimpleNamespace(local_rank=rank, logger=logger, output_folder=f"{rank}"))
    assert drawn == ["0"]


def test_a_record_is_restored_from_its_state(tmp_path: Path) -> None:
    first = _filled(tmp_path / "first")
    second = Recorder(SETTINGS, RunFolder(tmp_path / "second"), lambda line: None)
    state = first.state_dict()
    state["rows"] = [{**row, "a column of another version": 0} for row in state["rows"]]
    second.load_state_dict(state)
    second.restore()
    assert second.folder.read_backbone() == first.folder.read_backbone()
    assert second.folder.read_health() == first.folder.read_health()
    assert second.folder.read_cost().networks == {"backbone": Cost(3, 4)}
    a, b = (each.folder.read_trajectory() for each in (first, second))
    assert np.array_equal(a.alpha, b.alpha)
    assert b.seconds.tolist() == [2.0]


def test_damaged_files_are_named_when_they_are_written_again(tmp_path: Path) -> None:
    lines: list[str] = []
    recorder = _filled(tmp_path)
    recorder.log = lines.append
    recorder.folder.cost_file.write_text("{")
    recorder.restore()
    (line,) = [line for line in lines if "WARNING" in line]
    assert line.startswith("WARNING: cost.json is written again from the checkpoint")
    assert recorder.folder.read_cost().phases["warmup"].seconds == 2.0


def test_a_slow_function_is_called_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    throttled = Throttled(calls.append)
    for moment in (100.0, 130.0, 161.0, 200.0):
        now[0] = moment
        throttled(f"{moment}")
    assert calls == ["100.0", "161.0"]


def test_numbers_reach_every_additional_logger() -> None:
    class Logger:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def log(self, *arguments: Any) -> None:
            self.seen.append(arguments)

    loggers = [Logger(), Logger()]
    log_numbers(loggers, {"seconds": 2.0}, 5)
    assert [logger.seen for logger in loggers] == [[("iac/seconds", 2.0, 5)]] * 2
