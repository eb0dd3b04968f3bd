"""Commands in forks of the tests' process, without what only takes time there."""

import multiprocessing
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import jaxtyping
import torch

from nnunet_iac.host.forks import command, fork

__all__ = ["command", "in_fork", "leave_out_what_takes_time"]

# Where fake tensors are the first that autograd sees, it fails in every fork that follows.
torch.ones(1, requires_grad=True).sum().backward()


class OneFork(ForkContext):
    """A context whose pools have one worker, which need not import anything."""

    def Pool(self, processes: int | None = None, *arguments: Any, **keywords: Any) -> Any:
        return super().Pool(1, *arguments, **keywords)


def in_fork(task: Callable[[], object], environment: Mapping[str, str], log: Path) -> int:
    """Run a task in its own process and return its exit status; the output goes to a file."""

    def run() -> None:
        _become_like_a_command()
        task()

    with log.open("w") as output:
        process = fork(run, environment, output.fileno())
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _become_like_a_command() -> None:
    """Undo what pytest set, and let torch have no threads; see `leave_out_what_takes_time`.

    Also left out are the check of shapes and the mirrored predictions that nnU-Net adds up.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities import utils

    warnings.resetwarnings()
    jaxtyping.config.update("jaxtyping_disable", True)
    multiprocessing.get_context = lambda method=None: OneFork()  # type: ignore[assignment]
    utils.Pool = OneFork().Pool  # Of twelve processes, for every list of files.
    torch.set_num_threads = lambda number: None  # type: ignore[assignment]
    nnUNetPredictor._internal_maybe_mirror_and_predict = lambda self, image: self.network(image)
    leave_out_what_takes_time(setattr)


def leave_out_what_takes_time(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Spare short runs the picture of the curves, and the estimate of memory, tested in tests/nn.

    Both take longer than all epochs of such a run. The picture is there, and empty.
    """
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    from nnunet_iac.nn.cost import StepMemory
    from nnunet_iac.training import memory

    def plot(_: Any, folder: str) -> None:
        Path(folder, "progress.png").write_bytes(b"empty")

    set_attribute(LocalLogger, "plot_progress_png", plot)
    set_attribute(memory, "run_memory", lambda *_, **__: StepMemory(0, 0, (), 0))
