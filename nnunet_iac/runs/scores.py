"""Dice per case from the summary.json that nnU-Net's validation and evaluation write."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.patients import patient_of

SUMMARY = "summary.json"
VALIDATION_SUMMARY = Path("validation", SUMMARY)
"""Where nnU-Net writes the scores of a fold, in its folder."""

MEASURED_ON = "measured-on.json"
"""Written last beside a shared validation: all that its scores depend on."""


class CaseErrors(NamedTuple):
    """Numbers of classes of a case that are predicted without being there, or not found at all.

    Of several runs it is the mean.
    """

    false_positives: float
    misses: float


@dataclass(frozen=True)
class ScoredCase:
    """The entry of one case in nnU-Net's summary.

    Args:
        prediction: the file that was scored, where it lay then.
        truth: likewise, the file it was scored against.
        dice: per foreground class or region, such as "1" or "(1, 2)"; None where it is absent
            from both.
        truth_voxels: per foreground class, its size in the truth.
    """

    prediction: Path
    truth: Path
    dice: dict[str, float | None]
    truth_voxels: dict[str, int]

    @property
    def errors(self) -> CaseErrors:
        """The false positives and misses, whose Dice is 0."""
        wrong = [self.truth_voxels[name] > 0 for name, dice in self.dice.items() if dice == 0]
        return CaseErrors(wrong.count(False), wrong.count(True))


def read_summary(summary: Path, file_ending: str | None = None) -> dict[str, ScoredCase]:
    """Return the cases of an nnU-Net summary.json by their ids.

    The `file_ending` of the predictions is by default `.nii.gz`, or what follows the last dot.

    Raises:
        ValueError: not such a file, a case that is listed twice, or a Dice outside [0, 1].
    """
    cases: dict[str, ScoredCase] = {}
    document = read_json(summary)
    try:
        for row in document["metric_per_case"]:
            prediction = _path(row["prediction_file"])
            metrics = {k: m for k, m in row["metrics"].items() if k != "0"}
            case = case_id(prediction.name, file_ending)
            if case in cases:
                raise ValueError(f"{case} is listed twice")
            dice = {key: _dice(values["Dice"]) for key, values in metrics.items()}
            voxels = {key: int(values["n_ref"]) for key, values in metrics.items()}
            cases[case] = ScoredCase(prediction, _path(row["reference_file"]), dice, voxels)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{summary} must be nnU-Net's summary of a validation or evaluation; it is not "
            f"({type(error).__name__}: {error}): validate again with --val, or run "
            "nnUNetv2_evaluate_folder"
        ) from error
    return cases


def _path(text: str) -> Path:
    """Return a path that was written on this system, or on Windows."""
    return Path(PureWindowsPath(text).as_posix())


def case_id(file_name: str, file_ending: str | None = None) -> str:
    """Return the case of a prediction's file name."""
    if file_ending is None:
        file_ending = ".nii.gz" if file_name.endswith(".nii.gz") else Path(file_name).suffix
    return file_name.removesuffix(file_ending)


def labels_of(class_name: str) -> tuple[int, ...]:
    """Return the labels that a class of a summary consists of: (1,) of "1", (1, 2) of "(1, 2)"."""
    return tuple(map(int, re.findall(r"\d+", class_name)))


def foreground_dice(
    summary: Path, file_ending: str, patient_pattern: str | None = None
) -> dict[str, Any]:
    """Return mean and per-case foreground Dice of an nnU-Net summary.json, and `errors`.

    Per case the mean over classes; then the mean over a patient's cases, then over patients. A
    class absent from both prediction and truth is left out; None where nothing is left. `errors`
    are the `CaseErrors` of the cases that have any.
    """
    scored = read_summary(summary, file_ending)
    per_case = {case: mean_of_present(row.dice.values()) for case, row in scored.items()}
    mean = mean_of_present(patient_means(per_case, patient_pattern)[0].values())
    errors = {case: list(row.errors) for case, row in scored.items() if any(row.errors)}
    return {"mean": mean, "per_case": per_case, "errors": errors}


def patient_means(
    values: Mapping[str, float | None], pattern: str | None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return each patient's mean over its cases, and the cases left out for having no value.

    A regular expression's match in a case id is the patient; without one, the whole id.
    """
    per_patient: dict[str, list[float]] = {}
    for case, value in sorted(values.items()):
        if value is not None:
            per_patient.setdefault(patient_of(case, pattern), []).append(value)
    left_out = tuple(sorted(case for case, value in values.items() if value is None))
    return {p: sum(v) / len(v) for p, v in sorted(per_patient.items())}, left_out


def mean_of_present(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None where none is left."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _dice(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    if not 0 <= value <= 1:
        raise ValueError(f"a Dice of {value}")
    return float(value)
