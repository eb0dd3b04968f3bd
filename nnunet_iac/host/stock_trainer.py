"""nnU-Net's own trainer outside of a training, to time its data and its steps."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.host.folders import UNLOGGED
from nnunet_iac.host.plans import architecture_of, configuration_of


@contextmanager
def stock_trainer(
    plans: Mapping[str, Any], configuration: str, dataset: Mapping[str, Any], workers: int
) -> Iterator[Any]:
    """Return a context with nnU-Net's trainer on the CPU, initialised, whose results are deleted.

    `plans` and `dataset` are what plans and dataset.json contain.
    """
    architecture_of(configuration_of(plans, configuration))
    with (
        tempfile.TemporaryDirectory() as results,  # nnU-Net's trainer makes a folder in them.
        patch.dict(os.environ, nnUNet_results=results, nnUNet_n_proc_DA=str(workers), **UNLOGGED),
    ):
        content, device = {**plans, "continue_training": False}, torch.device("cpu")
        trainer: Any = nnUNetTrainer(content, configuration, "all", dataset, device)
        trainer.initialize()
        yield trainer
