"""The memory that a run is estimated to need before it starts, against what its steps take."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import networks
from visit import Rows, Visit

from nnunet_iac.benchmark.step import finetune_step, fused_step
from nnunet_iac.benchmark.timing import peak_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import LARGEST_CELL, step_memory
from nnunet_iac.search.space import OPERATIONS


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return two phases of every network, with and without activation checkpointing."""
    return {
        f"{phase}, {name}, activations {'computed again' if again else 'kept'}": partial(
            row, workload, phase, again
        )
        for name, workload in networks(visit).items()
        for phase in ("search", "finetuning")
        for again in (False, True)
    }


def row(workload: Workload, phase: str, checkpointing: bool) -> dict[str, Any]:
    """Return the estimate for one step and its peak; finetuned is the cell that keeps most."""
    settings = workload.settings.replace(activation_checkpointing=checkpointing)
    workload = workload.resized(None, None, None, settings)
    network = workload.retrofit()
    if phase == "finetuning":
        network.discretise(LARGEST_CELL)
    shape = (workload.batch_size, workload.input_channels, *workload.patch_size)
    needed = step_memory(network, shape, torch.device(workload.device))
    del network
    step = (fused_step, workload, len(OPERATIONS))
    if phase == "finetuning":
        step = (finetune_step, workload, LARGEST_CELL)
    estimated = (needed.checkpointed if checkpointing else needed.kept) / 2**20
    measured = peak_mb(*step, device=workload.device)
    return {"estimated_mb": estimated, "peak_mb": measured, "batch": list(shape)}
