"""Seconds of steps, whole runs and predictions, by the verbs of `nnunet-iac benchmark`."""

from functools import partial
from pathlib import Path
from typing import Any

from networks import networks
from visit import Rows, Visit

from nnunet_iac.benchmark.report import Amounts, benchmark
from nnunet_iac.host.workload import Workload

TIMED_SIDE = 256
"""Voxels of a side of the patch that is predicted."""
CIRCUMSTANCES = ("date", "commit", "hardware", "versions", "waiting")
"""Entries of the file of the part that all rows share."""


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return the benchmarks, those behind the targets first."""
    sized = networks(visit)
    plain, residual = sized["plain 2-D"], sized["residual 2-D"]
    amounts = Amounts(repeats=1, cells=2) if visit.quick else Amounts(repeats=7, cells=5)
    side = plain.patch_size[0] if visit.quick else TIMED_SIDE
    images = [w.resized(1, (side, side), None, None) for w in (plain, residual)]
    return {
        "run, plain 2-D": partial(row, "run", plain, amounts),
        "inference, plain 2-D": partial(row, "inference", images[0], amounts),
        "step, plain 2-D": partial(row, "step", plain, amounts),
        "run, residual 2-D": partial(row, "run", residual, amounts),
        "inference, residual 2-D": partial(row, "inference", images[1], amounts),
        "step, plain 3-D": partial(row, "step", sized["plain 3-D"], amounts),
    }


def row(kind: str, workload: Workload, amounts: Amounts) -> dict[str, Any]:
    """Return what a benchmark measured."""
    measured = benchmark(kind, workload, amounts)
    return {key: value for key, value in measured.items() if key not in CIRCUMSTANCES}
