"""The runs that a visit to a GPU machine makes through nnU-Net's commands: one on the CPU."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forked_commands import command, in_fork

FOLDER = Path(__file__).parents[2] / "docs" / "evidence" / "gpu"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("part_training")


@pytest.mark.slow
def test_a_run_from_the_saved_backbone_leaves_what_the_page_shows(
    part: Any, planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = part.Bench(part.Visit("cpu", quick=True), tmp_path)
    for name, value in bench.environment("prepare").items():
        monkeypatch.setenv(name, value)

    def run_command(
        words: list[str], environment: dict[str, str], log: Path, killed_in: object = None
    ) -> int:
        if words[0] == "nnUNetv2_plan_and_preprocess":
            planned.share(tmp_path / "preprocessed" / part.DATASET)
            return 0
        own = {"nnUNet_extTrainer": planned.environment["nnUNet_extTrainer"]}
        return in_fork(command(*words), {**environment, **own, "nnUNet_n_proc_DA": "0"}, log)

    monkeypatch.setattr(part, "run_command", run_command)
    bench.prepare()
    name = "random cell"
    found = bench.run(name, part.OTHERS[name][0])
    assert found["phases"] == {"finetune": 2}
    assert found["backbone_unchanged"]
    assert found["genotype"].startswith("v2 = ")
    assert 0 <= found["validation_dice"] <= 1
    end = bench.fold(name, part.DISCRETE) / part.FINAL
    assert part.difference(end, end) == {
        "same_cell": True,
        "equal_to_the_bit": True,
        "largest_difference": 0.0,
    }


def test_other_weights_and_other_cells_are_distinguished(part: Any, tmp_path: Path) -> None:
    def saved(name: str, **weights: torch.Tensor) -> Path:
        torch.save({"network_weights": weights}, tmp_path / name)
        return tmp_path / name

    first = saved("first", a=torch.zeros(2), b=torch.ones(1, dtype=torch.int64))
    near = saved("near", a=torch.tensor([0.0, 0.25]), b=torch.ones(1, dtype=torch.int64))
    found = part.difference(first, near)
    assert (found["same_cell"], found["equal_to_the_bit"]) == (True, False)
    assert found["largest_difference"] == 0.25
    found = part.difference(first, saved("other", c=torch.zeros(2)))
    assert (found["same_cell"], found["equal_to_the_bit"]) == (False, False)
    assert found["largest_difference"] is None


def test_a_command_is_killed_at_its_line_and_a_failed_one_shows_the_end_of_its_log(
    part: Any, tmp_path: Path
) -> None:
    bench = part.Bench(part.Visit("cpu", quick=True), tmp_path)
    code = "import time; print('now: Epoch 5', flush=True); time.sleep(60)"
    status = bench.command("killed", sys.executable, "-c", code, killed_in=part.KILLED_IN)
    assert status == -9
    with pytest.raises(RuntimeError, match=re.escape("ended with status 1: no data")):
        bench.command("failed", sys.executable, "-c", "import sys; sys.exit('no data')")
