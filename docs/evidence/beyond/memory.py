"""Compare the estimated memory of a search step with what it takes, into memory.json.

    python docs/evidence/beyond/memory.py

Needs the plans nnUNetPlans and nnUNetResEncUNetMPlans of the data set 4.
"""

from pathlib import Path

from nnunet_iac.benchmark.step import fused_step
from nnunet_iac.benchmark.timing import peak_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import step_memory
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


def main() -> None:
    """Measure every network with its activations kept, and computed again."""
    rows = []
    for configuration, plans, batch_size in NETWORKS:
        planned = Workload.of_plans("4", configuration, plans, "cpu")
        for recomputed in (False, True):
            settings = planned.settings.replace(activation_checkpointing=recomputed)
            workload = planned.resized(batch_size, None, None, settings)
            shape = (batch_size, workload.input_channels, *workload.patch_size)
            reckoned = step_memory(workload.supernet(), shape)
            rows.append(
                {
                    "configuration": configuration,
                    "plans": plans,
                    "batch": shape,
                    "recomputed": recomputed,
                    "reckoned_mb": (reckoned.checkpointed if recomputed else reckoned.kept)
                    / MEGABYTE,
                    "peak_mb": peak_mb(fused_step, workload, len(OPERATIONS), device="cpu"),
                }
            )
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
