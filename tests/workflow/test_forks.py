"""Commands in forks: what is passed on, and what their pools may do."""

import sys
from pathlib import Path

import pytest

from nnunet_iac.workflow.forks import run_forked

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


def test_a_forked_command_that_raises_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_here.py").write_text("raise ValueError('the disk is full')")
    monkeypatch.syspath_prepend(str(tmp_path))
    lines: list[str] = []
    assert run_forked([sys.executable, "-m", "broken_here"], {}, lines.append) == 1
    assert "ValueError: the disk is full\n" in lines
