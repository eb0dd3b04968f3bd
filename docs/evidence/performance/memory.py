"""Compare the estimated memory of search and finetuning steps with what they take: memory.json.

    python docs/evidence/performance/memory.py

Needs the plans nnUNetPlans and nnUNetResEncUNetMPlans of the data set 4.
"""

from itertools import product
from pathlib import Path

from nnunet_iac.benchmark.memory import STEPS, estimate_and_peak
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.training.provenance import circumstances

NETWORKS = (
    ("2d", "nnUNetPlans", 12),
    ("3d_fullres", "nnUNetPlans", 2),
    ("3d_fullres", "nnUNetResEncUNetMPlans", 2),
)
"""Configuration, plans and batch size."""


def main() -> None:
    """Measure both phases of every network with activations kept, and computed again."""
    rows = []
    for configuration, plans, batch_size in NETWORKS:
        workload = Workload.of_plans("4", configuration, plans, "cpu")
        workload = workload.resized(batch_size, None, None, None)
        for phase, recomputed in product(STEPS, (False, True)):
            of = {"configuration": configuration, "plans": plans, "phase": phase}
            found = estimate_and_peak(workload, phase, recomputed)
            rows.append({**of, "recomputed": recomputed, **found})
            print(rows[-1], flush=True)
    path = Path(__file__).with_name("memory.json")
    write_json(path, {**circumstances(), "steps": rows})


if __name__ == "__main__":
    main()
