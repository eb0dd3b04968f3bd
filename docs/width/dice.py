"""Train every width of a data set equally long, for docs/width.md.

    python docs/width/dice.py DATASET OUT.json [--folds 0,1,2,3,4] [--caps N,N,...] [-device cpu]
        [--patient-pattern RE]

DATASET is the id or name of a data set that nnU-Net has preprocessed for its 2d configuration.
Interrupted, it goes on where it was.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.plans import write_new
from nnunet_iac.training.cost import circumstances
from nnunet_iac.width.candidates import caps_of, features_of
from nnunet_iac.width.source import Source
from nnunet_iac.workflow.engine import run_study
from nnunet_iac.workflow.pareto import Pareto, study_name
from nnunet_iac.workflow.pareto_points import points
from nnunet_iac.workflow.study import REFERENCE

TRAINER = "nnUNetTrainerAdam_8epochs"
PLANS = "width"
BATCH_SIZE = 8


def main() -> None:
    """Plan, train and collect."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--caps")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--patient-pattern")
    given = parser.parse_args()
    folder = preprocessed_folder(given.dataset)
    plans = read_json(folder / "nnUNetPlans.json")
    plans["plans_name"] = PLANS
    plans["configurations"]["2d"]["batch_size"] = BATCH_SIZE
    write_new(folder / f"{PLANS}.json", plans)
    source = Source.of_plans(given.dataset, "2d", PLANS, TRAINER)
    caps = given.caps.split(",") if given.caps else caps_of(features_of(source.architecture))
    folds = tuple(int(fold) for fold in given.folds.split(","))
    settings = {"patient_pattern": given.patient_pattern} if given.patient_pattern else {}
    folder = given.out.with_suffix("")
    widths = tuple(int(cap) for cap in caps)
    pareto = Pareto(source, widths, (REFERENCE,), folds, settings, study_name(folder), given.device)
    page = run_study(pareto.write_study(folder), folder, None, None, [])
    runs = read_json(page.with_name("results.json"))["runs"]
    write_json(
        given.out,
        {
            "dataset": source.folder.name,
            **circumstances(),
            "device": given.device,
            "trainer": TRAINER,
            "batch_size": BATCH_SIZE,
            "folds": folds,
            "points": [asdict(point) for point in points(pareto, runs)],
        },
    )


if __name__ == "__main__":
    main()
