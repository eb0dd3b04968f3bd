"""Panels that all figures of searches and comparisons share: their size, text and colours."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER

WIDTH = 4.6
"""Inches of every figure: few, so that its text stays legible where the page is narrow."""

LABEL_SIZE, SMALL_LABEL = 9, 8
"""Points of the text, and of the text inside a drawing."""

DOTS_PER_INCH = 200

AXIS_NAME: dict[str, Any] = {"loc": "left", "color": MUTED, "size": LABEL_SIZE}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "labelcolor": INK}


def empty_figure(height: float) -> Figure:
    """Return a figure without axes; its height is in inches."""
    size = (WIDTH, height)
    return Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")


def panels(height: float, *titles: str) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, at least one, one below the other on the same x."""
    figure = empty_figure(height)
    made = list(figure.subplots(len(titles) or 1, 1, sharex=True, squeeze=False).flat)
    for axes, title in zip(made, titles or [""], strict=True):
        bare_axes(axes)
        axes.spines["bottom"].set(visible=True, color=MUTED)
        axes.set_title(title, **AXIS_NAME)
    return figure, made


def bare_axes(axes: Axes) -> None:
    """Leave of the axes what is drawn and their numbers."""
    axes.set_facecolor("none")
    axes.tick_params(colors=MUTED, labelsize=LABEL_SIZE)
    axes.spines[:].set_visible(False)
