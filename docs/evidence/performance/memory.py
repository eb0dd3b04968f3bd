"""Compare the estimated memory of search and finetuning steps with what they take: memory.json.

    python docs/evidence/performance/memory.py

Needs the plans nnUNetPlans and nnUNetResEncUNetMPlans of the data set 4.
"""

from itertools import product
from pathlib import Path
from typing import Any

from nnunet_iac.benchmark.step import finetune_step, fused_step
from nnunet_iac.benchmark.timing import peak_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import LARGEST_CELL, step_memory
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.space import OPERATIONS
from nnunet_iac.training.cost import circumstances

NETWORKS = (
    ("2d", "nnUNetPlans", 12),
    ("3d_fullres", "nnUNetPlans", 2),
    ("3d_fullres", "nnUNetResEncUNetMPlans", 2),
)
"""Configuration, plans and batch size."""
MEGABYTE = 2**20


STEPS = {
    "search": (fused_step, len(OPERATIONS)),
    "finetuning": (finetune_step, LARGEST_CELL),
}
"""By the phase; the finetuned cell is the one that keeps most."""


def row(workload: Workload, phase: str) -> dict[str, Any]:
    """Return estimate and peak of a phase's step."""
    network, (make, argument) = workload.supernet(), STEPS[phase]
    if phase == "finetuning":
        network.discretise(argument)
    shape = (workload.batch_size, workload.input_channels, *workload.patch_size)
    needed = step_memory(network, shape)
    recomputed = workload.settings.cell.activation_checkpointing
    return {
        "phase": phase,
        "batch": shape,
        "recomputed": recomputed,
        "estimated_mb": (needed.checkpointed if recomputed else needed.kept) / MEGABYTE,
        "peak_mb": peak_mb(make, workload, argument, device="cpu"),
    }


def main() -> None:
    """Measure both phases of every network with activations kept, and computed again."""
    rows = []
    for configuration, plans, batch_size in NETWORKS:
        planned = Workload.of_plans("4", configuration, plans, "cpu")
        for phase, recomputed in product(STEPS, (False, True)):
            settings = planned.settings.replace(activation_checkpointing=recomputed)
            workload = planned.resized(batch_size, None, None, settings)
            of = {"configuration": configuration, "plans": plans}
            rows.append({**of, **row(workload, phase)})
            print(rows[-1], flush=True)
    write_json(
        Path(__file__).with_name("memory.json"),
        {
            **circumstances(),
            "steps": rows,
        },
    )


if __name__ == "__main__":
    main()
