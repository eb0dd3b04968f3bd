"""nnU-Net's file of splits, checked before it is used."""

import reprlib
from collections.abc import Iterable
from pathlib import Path

from nnunet_iac.runs.atomic import read_json


def require_splits(path: Path, fold: int | str, preprocessed: Iterable[str]) -> None:
    """Check what nnU-Net reads of splits_final.json for a fold.

    Args:
        path: of the file; without one nnU-Net makes one.
        fold: number; `all` needs no split, and one beyond the file gets a random split.
        preprocessed: all cases there are.

    Raises:
        ValueError: no list of folds, or a side without cases or with cases there are not.
    """
    if fold == "all" or not path.is_file():
        return
    folds = read_json(path)
    if not isinstance(folds, list):
        raise ValueError(
            f"{path} must be a list of folds, each with the lists train and val; got "
            f"{reprlib.repr(folds)}: correct it, or remove it and nnU-Net makes another"
        )
    for side in ("train", "val") if int(fold) < len(folds) else ():
        split = folds[int(fold)]
        cases = split.get(side) if isinstance(split, dict) else None
        if not isinstance(cases, list) or not cases:
            raise ValueError(
                f"{path} must list at least one case under {side!r} of fold {fold}; got "
                f"{reprlib.repr(cases)}: correct it, or remove it and nnU-Net makes another"
            )
        absent = sorted(set(map(str, cases)).difference(preprocessed))
        if absent:
            raise ValueError(
                f"{path} must list preprocessed cases only; {absent[0]} under {side!r} of fold "
                f"{fold} is none: preprocess it, or take it out of the file"
            )
