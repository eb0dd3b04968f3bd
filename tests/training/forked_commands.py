"""nnU-Net's commands in forks of this process, which has imported nnU-Net once for all of them."""

import importlib
import multiprocessing
import os
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import jaxtyping
import torch

# Where fake tensors are the first that autograd sees, it fails in every fork that follows.
torch.ones(1, requires_grad=True).sum().backward()


class OneFork(ForkContext):
    """A context whose pools have one worker, which need not import anything."""

    def Pool(self, processes: int | None = None, *arguments: Any, **keywords: Any) -> Any:
        return super().Pool(1, *arguments, **keywords)


def in_fork(task: Callable[[], object], environment: Mapping[str, str], log: Path) -> int:
    """Run a task in its own process and return its exit status; the output goes to a file."""

    def run() -> None:
        with log.open("w", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.stdout = sys.stderr = output
            _become_like_a_command()
            os.environ.update(environment)
            try:
                task()
            except Exception:
                traceback.print_exc()
                sys.exit(1)

    _import_what_commands_need()
    process = ForkContext().Process(target=run)
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork; the forks here begin with commands, not with held locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command(*words: str) -> Callable[[], object]:
    """Return the task of an installed command with its arguments."""
    (script,) = entry_points(group="console_scripts", name=words[0])
    main = script.load()

    def run() -> None:
        sys.argv = list(words)
        status = main()
        if status:
            sys.exit(status)

    return run


@cache
def _import_what_commands_need() -> None:
    """Import what every command would import by itself: nnU-Net looks through all its trainers."""
    from nnunetv2.training import nnUNetTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch._dynamo", "matplotlib.pyplot", "nnunet_iac.training.trainers"):
            importlib.import_module(name)
        for module in pkgutil.walk_packages(nnUNetTrainer.__path__, f"{nnUNetTrainer.__name__}."):
            importlib.import_module(module.name)


def _become_like_a_command() -> None:
    """Undo what pytest set, and let pools fork, for which torch must not have threads.

    What only takes time is left out: the check of shapes, the mirrored predictions that nnU-Net
    adds up, and the picture of its curves, which is empty.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    warnings.resetwarnings()
    jaxtyping.config.update("jaxtyping_disable", True)
    multiprocessing.get_context = lambda method=None: OneFork()  # type: ignore[assignment]
    torch.set_num_threads = lambda number: None  # type: ignore[assignment]
    nnUNetPredictor._internal_maybe_mirror_and_predict = lambda self, image: self.network(image)
    LocalLogger.plot_progress_png = lambda _, folder: Path(folder, "progress.png").write_bytes(b"")
