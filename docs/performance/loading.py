"""Time nnU-Net's loader on the embedded cases, with and without a worker, into a file."""

import argparse
import os
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

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
            nnUNet_n_proc_DA="1",
        )
        measured = measure(Path(folder))
    from nnunet_iac.runs.atomic import write_json

    write_json(target, measured)


def measure(folder: Path) -> dict[str, Any]:
    """Return the median seconds of loading and of a step."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    from nnunet_iac.training.cost import circumstances

    extract_fingerprints([4], num_processes=1)
    plan_experiments([4])
    preprocess([4], configurations=("2d",), num_processes=(1,))
    rows = [timed(folder, workers) for workers in (0, 1)]
    reading = rows[0].pop("reading_s")
    rows[1].pop("reading_s")
    return {
        **circumstances(),
        "batch_size": 12,
        "patch_size": rows[0].pop("patch_size"),
        "reading_s": reading,
        "rows": [{k: v for k, v in row.items() if k != "patch_size"} for row in rows],
    }


def timed(folder: Path, workers: int) -> dict[str, Any]:
    """Return seconds with a number of workers; without any, those of reading alone as well."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_iac.runs.atomic import read_json
    from nnunet_iac.training.batches import finish

    os.environ.update(nnUNet_n_proc_DA=str(workers))
    data = folder / "preprocessed" / "Dataset004_Hippocampus"
    plans = {**read_json(data / "nnUNetPlans.json"), "continue_training": False}
    plans["configurations"]["2d"]["batch_size"] = 12
    trainer: Any = nnUNetTrainer(
        plans, "2d", 0, read_json(data / "dataset.json"), torch.device("cpu")
    )
    trainer.initialize()
    training, validation = trainer.get_dataloaders()
    waits, steps = [], []
    for _ in range(BATCHES):
        started = time.perf_counter()
        batch = next(training)
        loaded = time.perf_counter()
        trainer.train_step(batch)
        waits.append(loaded - started)
        steps.append(time.perf_counter() - loaded)
    reading = []
    if workers == 0:
        training.data_loader.transforms = None
        for _ in range(BATCHES):
            started = time.perf_counter()
            training.data_loader.generate_train_batch()
            reading.append(time.perf_counter() - started)
    finish(training)
    finish(validation)
    return {
        "workers": workers,
        "wait_s": statistics.median(waits[3:]),
        "step_s": statistics.median(steps[3:]),
        "reading_s": statistics.median(reading) if reading else None,
        "patch_size": plans["configurations"]["2d"]["patch_size"],
    }


if __name__ == "__main__":
    main()
