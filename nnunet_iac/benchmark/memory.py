"""The memory that a step is estimated to need, against what it takes."""

from collections.abc import Callable
from typing import Any

import torch

from nnunet_iac.benchmark.step import finetune_step, fused_step
from nnunet_iac.benchmark.timing import peak_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import LARGEST_CELL, step_memory
from nnunet_iac.search.space import OPERATIONS

STEPS: dict[str, tuple[Callable[..., Callable[[], Any]], Any]] = {
    "search": (fused_step, len(OPERATIONS)),
    "finetuning": (finetune_step, LARGEST_CELL),
}
"""By the phase; the finetuned cell is the one that keeps most."""


def estimate_and_peak(workload: Workload, phase: str, checkpointing: bool) -> dict[str, Any]:
    """Return the estimate for a step of a phase and its peak in MiB, and the shape of its batch."""
    settings = workload.settings.replace(activation_checkpointing=checkpointing)
    workload = workload.resized(None, None, None, settings)
    network, (make, argument) = workload.supernet(), STEPS[phase]
    if phase == "finetuning":
        network.discretise(LARGEST_CELL)
    shape = (workload.batch_size, workload.input_channels, *workload.patch_size)
    needed = step_memory(network, shape, torch.device(workload.device))
    del network
    return {
        "batch": list(shape),
        "estimated_mb": (needed.checkpointed if checkpointing else needed.kept) / 2**20,
        "peak_mb": peak_mb(make, workload, argument, device=workload.device),
    }
