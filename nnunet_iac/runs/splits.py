"""nnU-Net's file of splits, checked before it is used."""

import reprlib
from collections.abc import Iterable
from pathlib import Path

from nnunet_iac.runs.atomic import read_json

SPLITS = "splits_final.json"

FOLDS, SPLIT_SEED = 5, 12345
"""As nnU-Net splits where there is no such file."""


def require_splits(path: Path, fold: int | str, preprocessed: Iterable[str]) -> None:
    """Check what nnU-Net reads of splits_final.json for a fold.

    Without the file nnU-Net makes one; `all` needs none, and a number beyond it gets a random
    split.
    """
    if fold != "all" and path.is_file():
        require_split(read_json(path), int(fold), preprocessed, str(path))


def require_split(folds: object, fold: int, cases: Iterable[str], name: str) -> None:
    """Check one fold of what nnU-Net's file of splits holds; `name` is what messages call it."""
    if not isinstance(folds, list):
        raise ValueError(
            f"{name} must be a list of folds, each with the lists train and val; got "
            f"{reprlib.repr(folds)}: correct it, or remove it and nnU-Net makes another"
        )
    for side in ("train", "val") if fold < len(folds) else ():
        split = folds[fold]
        listed = split.get(side) if isinstance(split, dict) else None
        if not isinstance(listed, list) or (side == "train" and not listed):
            raise ValueError(
                f"{name} must list cases under {side!r} of fold {fold}, and at least one under "
                f"'train'; got {reprlib.repr(listed)}: correct it, or remove it and nnU-Net makes "
                "another"
            )
        absent = sorted(set(map(str, listed)).difference(cases))
        if absent:
            raise ValueError(
                f"{name} must list preprocessed cases only; {absent[0]} under {side!r} of fold "
                f"{fold} is none: preprocess it, or take it out of the file"
            )
