"""Dice per case from the summary.json that nnU-Net's validation and evaluation write."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.patients import patient_of


def foreground_dice(
    summary: Path, file_ending: str, patient_pattern: str | None = None
) -> dict[str, Any]:
    """Return mean and per-case foreground Dice of an nnU-Net summary.json.

    Per case the mean over classes; then the mean over a patient's cases, then over patients. A
    class absent from both prediction and truth is left out; None where nothing is left.
    """
    per_case = {}
    for row in read_json(summary)["metric_per_case"]:
        dice = [metrics["Dice"] for metrics in row["metrics"].values()]
        case = Path(row["prediction_file"]).name.removesuffix(file_ending)
        per_case[case] = _mean(dice)
    per_patient: dict[str, list[float | None]] = {}
    for case, value in per_case.items():
        per_patient.setdefault(patient_of(case, patient_pattern), []).append(value)
    mean = _mean(_mean(values) for values in per_patient.values())
    return {"mean": mean, "per_case": per_case}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [v for v in values if v is not None and not math.isnan(v)]
    return float(np.mean(present)) if present else None
