"""Slices and contours of the pictures in reports."""

import numpy as np
import pytest

from nnunet_iac.analysis.report.overlays import fullest_slice, outlines
from nnunet_iac.analysis.report.page import duration


def test_fullest_slice_counts_every_class_once_and_prefers_the_first() -> None:
    labels = np.zeros((4, 3, 3), int)
    labels[1, 0, :2] = 1
    labels[2, 0, 0] = 9
    labels[3, 1, :2] = 2
    assert fullest_slice(labels) == 1


def _as_set(segments: np.ndarray) -> set[frozenset[tuple[int, ...]]]:
    return {frozenset(map(tuple, segment)) for segment in segments.tolist()}


def test_outline_of_one_pixel_is_its_square() -> None:
    labels = np.zeros((3, 4), int)
    labels[1, 2] = 1
    corners = [(2, 1), (3, 1), (3, 2), (2, 2)]
    sides = zip(corners, corners[1:] + corners[:1], strict=True)
    assert _as_set(outlines(labels)) == {frozenset(side) for side in sides}


def test_outline_is_closed_at_the_image_border_and_between_classes() -> None:
    assert len(outlines(np.ones((2, 3), int))) == 10
    assert frozenset({(1, 0), (1, 1)}) in _as_set(outlines(np.array([[1, 2]])))
    assert outlines(np.zeros((2, 3), int)).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 s"), (7384, "2 h 3 min")],
)
def test_duration_names_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
