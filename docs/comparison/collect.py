"""Gather what the runs of one data set scored and cost; write a result file beside this script.

    python docs/comparison/collect.py DATASET WORKSPACE [PATIENT_PATTERN]

DATASET is the data set's name, such as Dataset004_Hippocampus; the rest as for `runs.py`.
"""

import sys
from datetime import date
from pathlib import Path
from typing import Any

from runs import BACKBONE, CONFIGURATION, FOLD, PLANS, SEEDS, WAYS, Workspace

from nnunet_iac.analysis.report.run import Run, read_run
from nnunet_iac.runs.atomic import read_json, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Write DATASET.json."""
    pattern = sys.argv[3] if len(sys.argv) > 3 else None
    workspace = Workspace(Path(sys.argv[2]).resolve(), sys.argv[1], pattern)
    runs = {
        name: [
            read_run(workspace.model(way.trainer, f"{name}_{seed}") / f"fold_{FOLD}")
            for seed in SEEDS
        ]
        for name, way in WAYS.items()
    }
    first = runs["lth"][0]
    require_frozen([run for group in runs.values() for run in group])
    configuration = read_json(workspace.preprocessed / f"{PLANS}.json")["configurations"]
    described = configuration[CONFIGURATION]
    assert first.reference is not None
    write_json(
        HERE / f"{workspace.dataset}.json",
        {
            "dataset": workspace.dataset,
            "date": date.today().isoformat(),
            "hardware": first.cost.hardware,
            "versions": first.cost.versions,
            "commit": first.cost.commit,
            "patient_pattern": pattern,
            "training_cases": len(read_json(first.record.split_file)["training"]),
            "features_per_stage": described["architecture"]["arch_kwargs"]["features_per_stage"],
            "batch_size": described["batch_size"],
            "patch_size": described["patch_size"],
            "backbone": BACKBONE,
            "backbone_hash": first.backbone.before,
            "settings": {name: WAYS[name].settings for name in WAYS},
            "iterations_per_epoch": first.settings.schedule.iterations_per_epoch,
            "reference": {
                "dice": first.reference.dice,
                **vars(first.cost.networks["backbone"]),
            },
            "methods": {name: [told(run) for run in group] for name, group in runs.items()},
        },
    )


def require_frozen(runs: list[Run]) -> None:
    """Check that all runs began with the same tensors and learned from as many batches."""
    assert len({run.backbone.before for run in runs}) == 1
    assert len({run.epochs * run.settings.schedule.iterations_per_epoch for run in runs}) == 1
    for run in runs:
        kept = run.backbone.unchanged
        if run.method == "continued decoder":
            kept = run.backbone.encoder_before == run.backbone.encoder_after is not None
        assert kept or run.method == "continued", f"{run.fold_folder} does not prove what it froze"


def told(run: Run) -> dict[str, Any]:
    """Return what the page needs of a run."""
    assert run.scores is not None
    return {
        "method": run.method,
        "epochs": run.epochs,
        "search_epochs": run.search_epochs,
        "seconds": run.seconds,
        **vars(run.cost.networks["final"]),
        "genotype": None if run.genotype is None else str(run.genotype),
        "dice": run.scores.dice,
    }


if __name__ == "__main__":
    main()
