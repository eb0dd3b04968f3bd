"""Train every width of a data set equally long, for docs/width.md.

    python docs/width/dice.py DATASET OUT.json [--folds 0,1,2,3,4] [--caps N,N,...] [-device cpu]

DATASET is the id or name of a data set that nnU-Net has preprocessed for its 2d configuration.
Interrupted, it goes on where it was.
"""

import argparse
import datetime
import os
import subprocess
import sys
from pathlib import Path

from nnunetv2.paths import nnUNet_results

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.plans import dataset_number, write_new
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.training.cost import provenance
from nnunet_iac.width.candidates import candidate, caps_of, features_of
from nnunet_iac.width.planning import plans_name, write_width
from nnunet_iac.width.source import Source

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
    given = parser.parse_args()
    planned = Source.of_plans(given.dataset, "2d", "nnUNetPlans", "nnUNetTrainer")
    plans = read_json(planned.folder / "nnUNetPlans.json")
    plans["plans_name"] = PLANS
    plans["configurations"]["2d"]["batch_size"] = BATCH_SIZE
    write_new(planned.folder / f"{PLANS}.json", plans)
    source = Source.of_plans(given.dataset, "2d", PLANS, "nnUNetTrainer")
    features = features_of(source.architecture)
    caps = [int(cap) for cap in given.caps.split(",")] if given.caps else caps_of(features)
    folds = [int(fold) for fold in given.folds.split(",")]
    ending = source.dataset["file_ending"]
    rows = []
    for cap in caps:
        write_width(source, cap)
        dice = {}
        for fold in folds:
            folder = train(source, plans_name(source, cap), fold, given.device)
            dice |= foreground_dice(folder / "validation" / "summary.json", ending)["per_case"]
        cost = source.cost(candidate(source.architecture, cap).cap)
        rows.append({"cap": cap, "parameters": cost.parameters, "macs": cost.macs, "dice": dice})
    measured = provenance()
    write_json(
        given.out,
        {
            "dataset": source.folder.name,
            "date": f"{datetime.date.today()}",
            "commit": measured.commit,
            "hardware": measured.hardware,
            "versions": measured.versions,
            "device": given.device,
            "trainer": TRAINER,
            "batch_size": BATCH_SIZE,
            "folds": folds,
            "rows": rows,
        },
    )


def train(source: Source, plans: str, fold: int, device: str) -> Path:
    """Train and validate a fold, unless that is done; return its folder."""
    results = Path(nnUNet_results) / source.folder.name
    folder = results / f"{TRAINER}__{plans}__2d" / f"fold_{fold}"
    if (folder / "validation" / "summary.json").is_file():
        return folder
    command = [
        *(Path(sys.executable).parent / "nnUNetv2_train", str(dataset_number(source.folder.name))),
        *("2d", str(fold), "-tr", TRAINER, "-p", plans, "-device", device),
        *(["--c"] if any(folder.glob("checkpoint_*.pth")) else []),
    ]
    environment = {
        "nnUNet_extTrainer": str(trainers_dir()),
        "nnUNet_def_n_proc": "1",
        **({"nnUNet_n_proc_DA": "0"} if device == "cpu" else {}),
    }
    print(f"{source.folder.name}: {plans}, fold {fold}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("a") as log:
        subprocess.run(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, check=True
        )
    return folder


if __name__ == "__main__":
    main()
