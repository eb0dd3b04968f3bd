"""nnU-Net's folders of raw data and results, and the environment of its commands."""

import os
import sys
from pathlib import Path

from nnunet_iac.host.trainer_lookup import TRAINER_VARIABLE, listed_folders, trainers_dir

RAW, RESULTS = "nnUNet_raw", "nnUNet_results"

UNLOGGED = {"nnUNet_wandb_enabled": "0"}
"""Variables without which every trainer that is made starts a run of Weights & Biases."""


def raw_folder(dataset: str) -> Path:
    """Return the folder of a raw data set."""
    folder = _folder(RAW, "raw data") / dataset
    if not (folder / "dataset.json").is_file():
        raise FileNotFoundError(f"the data set must be there; {folder}/dataset.json does not exist")
    return folder


def results_folder() -> Path:
    """Return the folder of results."""
    return _folder(RESULTS, "results")


def command_environment() -> dict[str, str]:
    """Return the environment in which nnU-Net's commands are found and find our trainers.

    Idle threads sleep: spinning ones would take the cores of other processes.
    """
    scripts = str(Path(sys.executable).parent)
    return {
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        TRAINER_VARIABLE: os.pathsep.join([str(trainers_dir()), *listed_folders()]),
    }


def _folder(variable: str, content: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise RuntimeError(
            f"the environment variable {variable} must name nnU-Net's folder of {content} and is "
            f"not set; run `export {variable}=/path/to/it`"
        )
    return Path(value)
