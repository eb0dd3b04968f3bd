"""Preprocessed cases of a configuration, in whatever format nnU-Net has written them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class


def preprocessed_cases(folder: Path) -> list[str]:
    """Return the sorted names of the cases in a folder of preprocessed data, if there are any."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    return sorted(infer_dataset_class(str(folder)).get_identifiers(str(folder)))


def preprocessed_dataset(folder: Path, cases: Sequence[str]) -> Any:
    """Return nnU-Net's data set of some cases in a folder, which must have cases."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"{folder} has no preprocessed cases")
    return infer_dataset_class(str(folder))(str(folder), list(cases))
