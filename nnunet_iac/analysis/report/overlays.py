"""Slices of images with the contours of truth and prediction."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import SimpleITK
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

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
    image: Path, truth: Path, predictions: dict[str, Path], dpi: int = 200
) -> tuple[int, dict[str, bytes]]:
    """Return the slice with the most truth, and its picture under every prediction, as PNG.

    The slices are those of the image's first axis in SimpleITK's order (its last in the file).

    Args:
        image: the case's first channel.
        truth: its labels.
        predictions: files by name.
        dpi: of the pictures, which are four inches wide.

    Raises:
        RuntimeError: a file cannot be read.
    """
    grey, aspect = _image(image)
    labels = _labels(truth)
    index = fullest_slice(labels)
    return index, {
        name: _slice_picture(grey[index], labels[index], _labels(path)[index], aspect, dpi)
        for name, path in predictions.items()
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
    dpi: int,
) -> bytes:
    """Return a slice with both contours as PNG; `aspect` is a pixel's height by width."""
    rows, columns = grey.shape
    figure = Figure(figsize=(4, 4 * aspect * rows / columns))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    low, high = np.percentile(grey, [1, 99])
    extent = (0, columns, rows, 0)
    axes.imshow(
        grey, "gray", vmin=low, vmax=high, interpolation="nearest", extent=extent, aspect="auto"
    )
    for labels, colour, lw in ((truth, TRUTH, 4), (predicted, PREDICTION, 1.8)):
        axes.add_collection(
            LineCollection(list(outlines(labels)), colors=colour, lw=lw, capstyle="round")
        )
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
