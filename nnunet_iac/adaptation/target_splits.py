"""The splits of a target with few cases: by patient, and one for a single patient as well."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_iac.adaptation.target import Target
from nnunet_iac.host.patient_folds import patient_folds
from nnunet_iac.runs.atomic import content_of, read_json, write_json
from nnunet_iac.runs.splits import FOLDS, SPLITS
from nnunet_iac.search.patients import patient_of, shared_patients


def take_over_splits(folder: Path, target: Target, log: Callable[[str], None]) -> None:
    """Copy splits beside the raw data to the preprocessed ones, as nnU-Net's planning does.

    Others that are there count, and the log names them.
    """
    own, given = folder / SPLITS, target.raw / SPLITS
    if not own.is_file() and target.splits.is_file():
        write_json(own, read_json(target.splits))
    if given.is_file() and read_json(given) != read_json(own):
        log(f"WARNING: the splits in {own} count; those in {given} differ")


def write_splits(folder: Path, cases: Sequence[str], pattern: str | None) -> None:
    """Write splits by patient where nnU-Net would make none, or put a patient on both sides.

    Up to four patients are each left out once; more make five folds. A single one is trained on
    and not held back. Where every case is a patient nnU-Net makes five folds of five or more. A
    file that is there is kept, but for that of a single patient where there are more now.
    """
    path = folder / SPLITS
    patients = sorted({patient_of(case, pattern) for case in cases})
    nnunet_splits = len(patients) == len(cases) >= FOLDS
    if path.exists() and not (_is_of_one(read_json(path), pattern) and len(patients) > 1):
        return
    if nnunet_splits:
        path.unlink(missing_ok=True)
    elif len(patients) > 1:
        write_json(path, patient_folds(sorted(cases), pattern, min(FOLDS, len(patients))))
    else:
        write_json(path, [{"train": sorted(cases), "val": []}])


def _is_of_one(splits: Any, pattern: str | None) -> bool:
    """Return whether splits are those that are written for a single patient."""
    if not isinstance(splits, list) or [fold.get("val") for fold in splits] != [[]]:
        return False
    return len({patient_of(case, pattern) for case in splits[0]["train"]}) == 1


def require_separate_patients(path: Path, pattern: str | None) -> None:
    """Check that no fold of a file of splits, if there is one, has a patient on both sides."""
    if not path.is_file():
        return
    with content_of(path):
        for fold in read_json(path):
            if shared := shared_patients(fold["train"], fold["val"], pattern):
                raise ValueError(
                    f"a patient must not be on both sides of a fold; {shared[0]} is, in {path}: "
                    "correct it, or remove it and run the same command again"
                )


def split_cases(target: Target) -> set[str]:
    """Return the cases that splits name; all of the target where there are no splits yet."""
    splits = target.splits
    if not splits.is_file():
        return set(target.cases)
    with content_of(splits):
        return {case for fold in read_json(splits) for side in fold.values() for case in side}
