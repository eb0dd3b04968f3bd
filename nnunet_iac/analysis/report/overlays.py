"""Slices of images with the contours of truth and prediction, and which cases a report shows."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from jaxtyping import Float, Int
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.evaluation import GroupComparison
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.case_scores import ScoredSummary
from nnunet_iac.analysis.scores.comparison import CaseRow
from nnunet_iac.drawing.figure_files import png_bytes
from nnunet_iac.runs.scores import case_id, read_summary

OVERLAY_DPI = 110
RAW_VARIABLE, PREPROCESSED_VARIABLE = "nnUNet_raw", "nnUNet_preprocessed"
NOT_FOUND = (
    "Images were not found: set nnUNet_raw to the folder they are in, and keep nnU-Net's "
    "validation folders."
)
TRUTH, PREDICTION = "#f0e442", "#56b4e9"
"""Contours on grey images; yellow and blue differ for every kind of colour vision."""


def fullest_slice(labels: Int[np.ndarray, "slices rows columns"]) -> int:
    """Return the index of the slice with the most foreground; of equal ones the first."""
    return int(np.argmax((labels > 0).sum(axis=(1, 2))))


def outlines(labels: Int[np.ndarray, "rows columns"]) -> Int[np.ndarray, "segments 2 2"]:
    """Return the pixel borders between different labels, as segments of two points (x, y).

    Pixel (row, column) covers the unit square from (column, row); what touches the image's border
    is closed there.
    """
    padded = np.pad(labels, 1)
    below, right = np.array([(0, 0), (1, 0)]), np.array([(0, 0), (0, 1)])
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    horizontal = np.stack([columns, rows], axis=-1)[:, None] + below
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    vertical = np.stack([columns, rows], axis=-1)[:, None] + right
    return np.concatenate([horizontal, vertical])


def overlays(
    image: Path, truth: Path, predictions: dict[str, Path]
) -> tuple[int, dict[str, bytes]]:
    """Return a slice (in SimpleITK's order), and its PNG by prediction.

    It is the one with the most truth; where that is empty, with the most of the predictions.
    """
    grey, aspect = _image(image)
    labels, predicted = _labels(truth), {name: _labels(path) for name, path in predictions.items()}
    index = fullest_slice(labels if labels.any() else sum(predicted.values(), labels))
    return index, {
        name: _slice_picture(grey[index], labels[index], found[index], aspect)
        for name, found in predicted.items()
    }


def data_uri(png: bytes) -> str:
    """Return a picture as the address that a page embeds."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _image(path: Path) -> tuple[Float[np.ndarray, "slices rows columns"], float]:
    """Return an image of two or three dimensions as slices, and a pixel's height by width."""
    image = SimpleITK.ReadImage(path)
    array = SimpleITK.GetArrayFromImage(image).astype(np.float64)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = array.mean(axis=-1)
    width, height = image.GetSpacing()[:2]
    return array.reshape(-1, *array.shape[-2:]), height / width


def _labels(path: Path) -> Int[np.ndarray, "slices rows columns"]:
    array = np.rint(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))).astype(np.int64)
    return array.reshape(-1, *array.shape[-2:])


def _slice_picture(
    grey: Float[np.ndarray, "rows columns"],
    truth: Int[np.ndarray, "rows columns"],
    predicted: Int[np.ndarray, "rows columns"],
    aspect: float,
) -> bytes:
    """Return a slice with both contours as PNG; `aspect` is a pixel's height by width."""
    rows, columns = grey.shape
    figure = Figure(figsize=(4, 4 * aspect * rows / columns))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    how: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
    low, high = np.percentile(grey, [1, 99])
    axes.imshow(grey, "gray", vmin=low, vmax=high, extent=(0, columns, rows, 0), **how)
    for labels, colour, lw in ((truth, TRUTH, 4), (predicted, PREDICTION, 1.8)):
        lines = LineCollection(list(outlines(labels)), colors=colour, lw=lw, capstyle="round")
        axes.add_collection(lines)
    return png_bytes(figure, OVERLAY_DPI)


@dataclass(frozen=True)
class CaseOverlay:
    """One case, its Dice before and after, their difference, and PNGs by `frozen` and `cells`.

    A Dice is None where prediction and truth are empty; the difference is then from the mean.
    """

    case: str
    frozen: float | None
    cells: float | None
    difference: float
    slice: int
    pictures: dict[str, bytes]


def case_overlays(comparisons: Sequence[GroupComparison]) -> tuple[tuple[CaseOverlay, ...], str]:
    """Return the first group's largest loss, middle and largest gain, or why none is shown."""
    one = next((c for c in comparisons if c.against.kind == "reference"), None)
    if one is None:
        return (), "No run has been compared with its backbone yet."
    rows = [row for row in one.paired.rows if row.difference is not None]
    rows.sort(key=lambda row: row.difference or 0.0)
    shown = [rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    found, reasons, absent = [], dict[str, None](), False
    for row in shown:
        try:
            overlay = _overlay(row, one.group.scored)
        except (RuntimeError, LookupError, ValueError) as error:
            reasons[f"An image could not be drawn: {error}"] = None
        else:
            found += [overlay] if overlay else []
            absent = absent or overlay is None
    return tuple(found), " ".join([*reasons, *([NOT_FOUND] if absent else [])])


def _overlay(row: CaseRow, runs: Sequence[Run]) -> CaseOverlay | None:
    """Return a case of the first run whose files are all there."""
    case = row.case
    for run in runs:
        if run.scores is None or run.reference is None:
            continue
        before, after = run.reference.dice.get(case), run.scores.dice.get(case)
        sides = {"frozen": run.reference.sources, "cells": run.scores.sources}
        files = {side: found for side, s in sides.items() if (found := _files(case, s))}
        if (before is None and after is None) or len(files) < len(sides):
            continue
        predictions, recorded = {side: f[0] for side, f in files.items()}, files["frozen"][1]
        truth = _truth_file(run.dataset, recorded)
        image = truth and _image_file(run.dataset, case, truth)
        if image and truth:
            index, pictures = overlays(image, truth, predictions)
            change = row.difference or 0.0
            if before is not None and after is not None:
                change = after - before
            return CaseOverlay(case, before, after, change, index, pictures)
    return None


def _files(case: str, sources: Sequence[ScoredSummary]) -> tuple[Path, Path] | None:
    """Return the prediction of a case that still lies beside its summary, and its truth."""
    for source in sources:
        scored = read_summary(source.summary).get(case)
        if scored is not None:
            prediction = source.summary.parent / scored.prediction.name
            return (prediction, scored.truth) if prediction.is_file() else None
    return None


def _truth_file(dataset: str, recorded: Path) -> Path | None:
    """Return the truth where it was, or in today's folders of nnU-Net."""
    candidates = [recorded]
    for kind, name in ((RAW_VARIABLE, "labelsTr"), (PREPROCESSED_VARIABLE, "gt_segmentations")):
        if folder := os.environ.get(kind):
            candidates.append(Path(folder) / dataset / name / recorded.name)
    return next((path for path in candidates if path.is_file()), None)


def _image_file(dataset: str, case: str, truth: Path) -> Path | None:
    """Return the first channel of a case in nnU-Net's raw data."""
    ending = truth.name.removeprefix(case_id(truth.name))
    set_folder = os.environ.get(RAW_VARIABLE)
    folders = [Path(set_folder)] if set_folder else []
    folders += [
        parent / RAW_VARIABLE for parent in truth.parents
    ]  # Its folders usually lie side by side.
    paths = (folder / dataset / "imagesTr" / f"{case}_0000{ending}" for folder in folders)
    return next((path for path in paths if path.is_file()), None)
