"""Commands in forks and processes: what is passed on, and what the pools of forks may do."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnunet_iac.host.forks import run_forked
from nnunet_iac.workflow import serial
from nnunet_iac.workflow.serial import Log, RunCommand, run_logged, run_process

MODULE = """
import multiprocessing, os, sys
import torch

def threads(asked):
    torch.set_num_threads(asked)
    return torch.get_num_threads()

if __name__ == "__main__":
    torch.set_num_threads(2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("workers have", *pool.map(threads, [2]), "thread")
    print(*sys.argv[1:], os.environ["OWN"], file=sys.stderr)
    sys.exit(3)
"""


def test_a_forked_command_gives_its_lines_and_status_and_its_workers_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forked_here.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    lines: list[str] = []
    words = [sys.executable, "-m", "forked_here", "a", "--b"]
    assert run_forked(words, {"OWN": "variable"}, lines.append) == 3
    assert lines == ["workers have 1 thread\n", "a --b variable\n"]


def test_a_study_starts_no_threads_that_its_forks_would_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(_: object) -> None:
        raise RuntimeError(f"{torch.get_num_threads()} thread")

    monkeypatch.setattr(serial, "require_ready", check)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="1 thread"):
        serial.run_serially(SimpleNamespace(), print)  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [run_forked, run_process])
def test_a_command_that_raises_fails_and_states_why(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_here.py").write_text("raise ValueError('the disk is full')")
    monkeypatch.syspath_prepend(str(tmp_path))
    lines: list[str] = []
    words = [sys.executable, "-m", "broken_here"]
    assert run(words, {"PYTHONPATH": str(tmp_path)}, lines.append) == 1
    assert "ValueError: the disk is full\n" in lines


def test_a_command_that_fails_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    def run(words: Sequence[str], environment: Mapping[str, str], hear: Log) -> int:
        hear("Epoch 3\n")
        hear("out of memory\n")
        return 7

    log, reported = tmp_path / "logs" / "run.log", list[str]()
    with pytest.raises(
        RuntimeError, match=r"train must succeed and exited with 7;.*\nEpoch 3\nout"
    ):
        run_logged(log, reported.append, run, ["train", "--c"])
    assert reported == ["    $ train --c", "      Epoch 3"]
    assert log.read_text() == "Epoch 3\nout of memory\n"
