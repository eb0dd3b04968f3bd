"""Time nnU-Net's loader on the embedded cases, with and without a worker, into a file."""

import argparse
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess,
)

from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.stock_trainer import stock_trainer
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.training.batches import finish
from nnunet_iac.training.provenance import circumstances

BATCHES = 15


def main() -> None:
    """Plan the embedded data in a temporary folder, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    target = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            nnUNet_raw=str(files("nnunet_iac") / "data"),
            nnUNet_preprocessed=f"{folder}/preprocessed",
            nnUNet_results=f"{folder}/results",
        )
        write_json(target, measure())


def measure() -> dict[str, Any]:
    """Return the median seconds of loading and of a step."""
    extract_fingerprints([4], num_processes=1)
    plan_experiments([4])
    preprocess([4], configurations=("2d",), num_processes=(1,))
    folder = preprocessed_folder("4")
    plans, dataset = read_json(folder / "nnUNetPlans.json"), read_json(folder / "dataset.json")
    configuration = plans["configurations"]["2d"]
    configuration["batch_size"] = 12
    seconds = []
    for workers in (0, 1):
        with stock_trainer(plans, "2d", dataset, workers) as trainer:
            seconds.append(timed(trainer, workers))
    reading = seconds[0].pop("reading_s")
    return {
        **circumstances(),
        "batch_size": configuration["batch_size"],
        "patch_size": configuration["patch_size"],
        "reading_s": reading,
        "rows": [{"workers": workers, **row} for workers, row in enumerate(seconds)],
    }


def timed(trainer: Any, workers: int) -> dict[str, float]:
    """Return the seconds that a step waits and takes; without workers, those of reading alone."""
    training, validation = trainer.get_dataloaders()
    batches: list[Any] = []
    steps = {
        "wait_s": lambda: batches.append(next(training)),
        "step_s": lambda: trainer.train_step(batches.pop()),
    }
    seconds = interleaved(steps, BATCHES, "cpu")
    if workers == 0:
        training.data_loader.transforms = None
        reading = {"reading_s": training.data_loader.generate_train_batch}
        seconds |= interleaved(reading, BATCHES, "cpu")
    finish(training, validation)
    return seconds


if __name__ == "__main__":
    main()
