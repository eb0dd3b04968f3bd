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

    Also left out are the check of shapes, the mirrored predictions that nnU-Net adds up, and the
    10^8 voxels that it draws of every data set, however small, for the intensities' statistics.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities import utils

    warnings.resetwarnings()
    jaxtyping.config.update("jaxtyping_disable", True)
    multiprocessing.get_context = lambda method=None: OneFork()  # type: ignore[assignment]
    utils.Pool = OneFork().Pool  # Of twelve processes, for every list of files.
    torch.set_num_threads = lambda number: None  # type: ignore[assignment]
    nnUNetPredictor._internal_maybe_mirror_and_predict = lambda self, image: self.network(image)
    extractor = fingerprint_extractor.DatasetFingerprintExtractor
    begin = extractor.__init__

    def with_few_voxels(self: Any, *arguments: Any, **keywords: Any) -> None:
        begin(self, *arguments, **keywords)
        self.num_foreground_voxels_for_intensitystats = 1e4

    extractor.__init__ = with_few_voxels
    leave_out_what_takes_time(setattr)


def leave_out_what_takes_time(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Spare short runs pictures of curves and cells, and the estimate of memory.

    All take longer than the epochs of such a run. The pictures are there, and empty; tests/nn and
    tests/drawing have the tests of what is left out.
    """
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    from nnunet_iac.nn.cost import StepMemory
    from nnunet_iac.training import memory, recorder

    def plot(_: Any, folder: str) -> None:
        Path(folder, "progress.png").write_bytes(b"empty")

    set_attribute(LocalLogger, "plot_progress_png", plot)
    set_attribute(recorder, "draw_cell", lambda _, path, __: path.write_bytes(b"empty"))
    set_attribute(memory, "run_memory", lambda *_, **__: StepMemory(0, 0, (), 0))
