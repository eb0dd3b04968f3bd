"""Times nnU-Net's loading and augmentation of batches."""

import os
import statistics
import tempfile
import time
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.runs.atomic import read_json


def loading_seconds(dataset: str, configuration: str, plans: str, batches: int) -> float:
    """Return the median seconds that one worker of nnU-Net takes for a training batch of plans."""
    folder = preprocessed_folder(dataset)
    content = {**read_json(folder / f"{plans}.json"), "continue_training": False}
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as results:  # nnU-Net's trainer makes a folder in them.
        os.environ.update(nnUNet_results=results, nnUNet_n_proc_DA="0")
        try:
            description = read_json(folder / "dataset.json")
            device = torch.device("cpu")
            trainer: Any = nnUNetTrainer(content, configuration, "all", description, device)
            trainer.initialize()
            training, _ = trainer.get_dataloaders()  # Without workers, which would need an end.
            seconds = []
            for _ in range(batches + 1):  # The first one opens files.
                started = time.perf_counter()
                next(training)
                seconds.append(time.perf_counter() - started)
        finally:
            os.environ.clear()
            os.environ.update(before)
    return statistics.median(seconds[1:])
