"""The memory that a run is estimated to need before it starts, against what its steps take."""

from functools import partial
from pathlib import Path

from networks import networks
from visit import Rows, Visit

from nnunet_iac.benchmark.memory import STEPS, estimate_and_peak


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return two phases of every network, with and without activation checkpointing."""
    return {
        f"{phase}, {name}, activations {'computed again' if again else 'kept'}": partial(
            estimate_and_peak, workload, phase, again
        )
        for name, workload in networks(visit).items()
        for phase in STEPS
        for again in (False, True)
    }
