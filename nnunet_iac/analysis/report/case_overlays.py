"""The cases that gained and lost most, as images with contours."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_iac.analysis.report.evaluation import Question
from nnunet_iac.analysis.report.overlays import overlays
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.case_scores import Source
from nnunet_iac.runs.scores import case_id, read_summary

DOTS_PER_INCH = 110


@dataclass(frozen=True)
class CaseOverlay:
    """One case under two predictions.

    Args:
        case: its id.
        frozen: its Dice before, of the run whose prediction is shown.
        cells: its Dice with the cells of that run.
        slice: which of its slices is shown.
        pictures: PNG by `frozen` and `cells`.
    """

    case: str
    frozen: float
    cells: float
    slice: int
    pictures: dict[str, bytes]


def case_overlays(questions: Sequence[Question]) -> tuple[tuple[CaseOverlay, ...], str]:
    """Return the largest loss, the middle and the largest gain, or why they cannot be shown.

    Of the first group that was compared with its frozen network.
    """
    question = next((q for q in questions if q.opponent == "reference"), None)
    if question is None:
        return (), "No run has been validated yet."
    rows = [row for row in question.comparison.rows if row.difference is not None]
    rows.sort(key=lambda row: row.difference or 0.0)
    shown = [rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    made: list[CaseOverlay | None] = []
    reasons: dict[str, None] = {}
    for row in shown:
        try:
            made.append(_overlay(row.case, question.group.scored))
        except (RuntimeError, LookupError, ValueError) as error:
            reasons[f"An image could not be drawn: {error}"] = None
    found = tuple(overlay for overlay in made if overlay is not None)
    if len(found) < len(made):
        reasons[
            "Images were not found: set nnUNet_raw to the folder they are in, and keep nnU-Net's "
            "validation folders."
        ] = None
    return found, " ".join(reasons)


def _overlay(case: str, runs: Sequence[Run]) -> CaseOverlay | None:
    """Return a case of the first run whose files are all there."""
    for run in runs:
        if run.scores is None or run.reference is None:
            continue
        before, after = run.reference.dice.get(case), run.scores.dice.get(case)
        sides = {"frozen": run.reference.sources, "cells": run.scores.sources}
        files = {side: _files(case, sources) for side, sources in sides.items()}
        predictions = {side: found[0] for side, found in files.items() if found is not None}
        recorded = next((found[1] for found in files.values() if found is not None), None)
        if before is None or after is None or recorded is None or len(predictions) < len(sides):
            continue
        truth = _truth(run.dataset, recorded)
        image = None if truth is None else _image(run.dataset, case, truth)
        if image is None or truth is None:
            continue
        index, pictures = overlays(image, truth, predictions, DOTS_PER_INCH)
        return CaseOverlay(case, before, after, index, pictures)
    return None


def _files(case: str, sources: Sequence[Source]) -> tuple[Path, Path] | None:
    """Return the prediction of a case that still lies beside its summary, and its truth."""
    for source in sources:
        scored = read_summary(source.summary).get(case)
        if scored is not None:
            prediction = source.summary.parent / scored.prediction.name
            return (prediction, scored.truth) if prediction.is_file() else None
    return None


def _truth(dataset: str, recorded: Path) -> Path | None:
    """Return the truth where it was, or in today's folders of nnU-Net."""
    candidates = [recorded]
    if raw := _folder("raw"):
        candidates.append(Path(raw) / dataset / "labelsTr" / recorded.name)
    if preprocessed := _folder("preprocessed"):
        candidates.append(Path(preprocessed) / dataset / "gt_segmentations" / recorded.name)
    return next((path for path in candidates if path.is_file()), None)


def _image(dataset: str, case: str, truth: Path) -> Path | None:
    """Return the first channel of a case in nnU-Net's raw data."""
    raw = _folder("raw")
    ending = truth.name.removeprefix(case_id(truth.name))
    folders = [Path(raw) / dataset] if raw else []
    # nnU-Net's three folders usually lie side by side.
    folders += [parent / "nnUNet_raw" / dataset for parent in truth.parents]
    paths = (folder / "imagesTr" / f"{case}_0000{ending}" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _folder(kind: str) -> str | None:
    """Return one of nnU-Net's folders, as its environment variable names it."""
    return os.environ.get(f"nnUNet_{kind}")
