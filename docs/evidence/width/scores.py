"""Score a data set's candidate widths with many seeds, for docs/evidence/width.md.

    python docs/evidence/width/scores.py DATASET OUT.json [SEEDS [IMAGES]]

DATASET is the id or name of a data set that nnU-Net has preprocessed for its 2d configuration. The
file holds S of every seed and cap; interrupted, it resumes.
"""

import sys
from pathlib import Path

import numpy as np

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.width.candidates import candidates
from nnunet_iac.width.crops import central_crops, spread_cases
from nnunet_iac.width.sensitivity import prepared, sensitivities
from nnunet_iac.width.source import Source


def main() -> None:
    """Score, seed by seed."""
    dataset, path = sys.argv[1], Path(sys.argv[2])
    seeds, images = (int(word) for word in (*sys.argv[3:], "320", "8")[:2])
    source = Source.of_plans(dataset, "2d", "nnUNetPlans", "nnUNetTrainer")
    chosen = candidates(source.architecture)
    cases = spread_cases(source, 0, images)
    crops = central_crops(source, cases)
    measured = {
        "dataset": source.folder.name,
        "base_sha256": source.digest(),
        "cases": list(cases),
        "caps": [candidate.cap for candidate in chosen],
        "parameters": [cost.parameters for cost in source.costs(chosen)],
        "macs": [cost.macs for cost in source.costs(chosen)],
        "scores": [],
    }
    if path.is_file():
        before = read_json(path)
        if {**before, "scores": []} != measured:
            sys.exit(f"{path} was measured on something else; remove it")
        measured = before
    for seed in range(len(measured["scores"]), seeds):
        rows = (
            sensitivities(prepared(source.network(candidate.cap, seed), "cpu"), crops)
            for candidate in chosen
        )
        measured["scores"].append([round(float(np.mean(row)), 6) for row in rows])
        write_json(path, measured)
        print(f"{source.folder.name}: seed {seed + 1} of {seeds}", flush=True)


if __name__ == "__main__":
    main()
