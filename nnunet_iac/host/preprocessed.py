"""Preprocessed cases of a configuration, in whatever format nnU-Net has written them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class


def preprocessed_cases(folder: Path) -> list[str]:
    """Return the sorted names of the cases in a folder of preprocessed data, if there are any."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    return sorted(dataset_class(folder).get_identifiers(str(folder)))


def preprocessed_dataset(folder: Path, cases: Sequence[str]) -> Any:
    """Return nnU-Net's data set of some cases in a folder, which must have cases."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"{folder} has no preprocessed cases")
    return dataset_class(folder)(str(folder), list(cases))


def require_preprocessor(configuration: Any) -> None:
    """Check that this nnU-Net has the class that preprocesses for a configuration's manager."""
    if configuration.preprocessor_class is None:
        raise ValueError(
            "nnU-Net must have the preprocessor of the plans; it has no "
            f"{configuration.preprocessor_name}: install what the model was planned with"
        )


def dataset_class(folder: Path) -> Any:
    """Return nnU-Net's class that reads the format of a folder of preprocessed cases.

    Raises:
        ValueError: the folder has files of several formats, or of none that nnU-Net reads.
    """
    try:
        return infer_dataset_class(str(folder))
    except (AssertionError, LookupError) as error:
        raise ValueError(
            f"{folder} must have the cases of one of nnU-Net's formats and nothing else "
            f"({type(error).__name__}: {error}): move other files away"
        ) from error
