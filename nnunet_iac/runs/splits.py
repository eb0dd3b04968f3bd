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

    Without the file nnU-Net makes one of five cases or more; `all` needs none, and a number beyond
    it gets a random split, which needs two cases.
    """
    if fold == "all":
        return
    cases = list(preprocessed)
    splits = read_json(path) if path.is_file() else None
    if splits is not None:
        require_split(splits, int(fold), cases, str(path))
    least = FOLDS if splits is None else 2 if int(fold) >= len(splits) else 1
    if len(cases) < least:
        raise ValueError(
            f"nnU-Net needs {least} cases to split them for fold {fold}, and {len(cases)} "
            f"{'is' if len(cases) == 1 else 'are'} preprocessed: train on fold all, or name the "
            f"cases of the fold in {path}"
        )


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
