"""Runs nnU-Net's commands in forks of this process, which imports nnU-Net once for all of them.

Each process of nnU-Net, and each worker of its pools, imports for seconds before it computes: most
of the time of a short study. A fork has everything imported. It must not use what forks lose: the
threads of torch, which this process therefore never starts and pools do without, and CUDA.
"""

import importlib
import multiprocessing
import os
import pkgutil
import runpy
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from multiprocessing.context import ForkContext, ForkProcess

import torch


def run_forked(
    words: Sequence[str], environment: Mapping[str, str], receive: Callable[[str], None]
) -> int:
    """Run a command of Python's in a fork, pass on its lines, and return its exit status."""
    reader, writer = os.pipe()
    task = command(*words)

    def run() -> None:
        os.close(reader)  # A command then fails, and does not wait, once nobody reads its lines.
        task()

    process = fork(run, environment, writer)
    os.close(writer)
    with open(reader, errors="replace") as output:
        for line in output:
            receive(line)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command(*words: str) -> Callable[[], object]:
    """Return the task of an installed command, or of `python -m`, with its arguments."""

    def run_module() -> None:
        sys.argv = list(words[2:])
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)

    def run_script() -> None:
        sys.argv = list(words)
        if status := main():
            sys.exit(status)

    if words[:2] == (sys.executable, "-m"):
        return run_module
    (script,) = entry_points(group="console_scripts", name=words[0])
    main = script.load()
    return run_script


def fork(task: Callable[[], object], environment: Mapping[str, str], output: int) -> ForkProcess:
    """Start a task with its output to a file descriptor, and pools that fork in turn."""

    def run() -> None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
        os.environ.update(environment)
        multiprocessing.get_context = lambda method=None: ForkContext()  # type: ignore[assignment]
        os.register_at_fork(after_in_child=_keep_to_one_thread)
        task()

    import_nnunet()
    process = ForkContext().Process(target=run)
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork; the forks here begin with commands, not with held locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


@cache
def import_nnunet() -> None:
    """Import what every command would import by itself: nnU-Net looks through all its trainers."""
    from nnunetv2.training import nnUNetTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch._dynamo", "matplotlib.pyplot"):
            importlib.import_module(name)
        for module in pkgutil.walk_packages(nnUNetTrainer.__path__, f"{nnUNetTrainer.__name__}."):
            importlib.import_module(module.name)


def _keep_to_one_thread() -> None:
    """Have torch start no threads: OpenMP would wait for those of the process that forked."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda number: None  # type: ignore[assignment]
