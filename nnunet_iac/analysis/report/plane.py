"""The figure of what methods gain on a target and forget on its source, one point per method."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunet_iac.analysis.scores.comparison import PairedComparison
from nnunet_iac.analysis.scores.comparisons import Comparisons
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, write_figure
from nnunet_iac.drawing.panels import LEGEND, panels

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999")
"""Okabe and Ito's, without those that are faint on white, and a grey."""

MARKERS = ("o", "s", "^", "D", "v")
"""As many as share no divisor with the colours, so that 35 methods differ."""

LEGEND_ROW = 0.2
"""Inches."""


@dataclass(frozen=True)
class PlanePoint:
    """A method against its backbone: on the target, and on the source (forgetting)."""

    name: str
    target: PairedComparison
    source: PairedComparison


def plane(points: Sequence[PlanePoint]) -> Figure:
    """Return the differences of Dice from the backbone, the target's across, the source's up.

    The lines are 95 % bootstrap intervals over patients; the backbone lies where both axes are 0.
    """
    figure, (axes,) = panels(4.0 + LEGEND_ROW * (len(points) + 1))
    _cross(axes)
    styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    keys = [_key("the backbone", marker="o", mfc=PAPER, mec=INK)]
    for point, (colour, marker) in zip(points, styles, strict=False):
        x, y = point.target.difference, point.source.difference
        for compared, is_target in ((point.target, True), (point.source, False)):
            if compared.interval is not None:
                ends = [compared.interval.low, compared.interval.high]
                line = (ends, [y, y]) if is_target else ([x, x], ends)
                axes.plot(*line, color=colour, lw=1.2, alpha=0.7, zorder=2)
        axes.plot([x], [y], marker, color=colour, ms=7, zorder=3)
        keys.append(_key(point.name, marker=marker, color=colour))
    figure.legend(handles=keys, loc="outside lower left", **LEGEND)
    return figure


def write_plane(folder: Path, made: Comparisons) -> list[Path]:
    """Write plane.png of the methods that adapt a model; return its path, nothing if none does."""
    gained = {c.labels[1]: c for c in made.comparisons if c.labels[0] not in made.controls}
    points = [
        PlanePoint(made.names.get(label, label), gained[label], lost)
        for lost in made.forgetting
        if (label := lost.labels[1]) in gained
    ]
    if not points:
        return []
    write_figure(plane(points), path := folder / "plane.png")
    return [path]


def _cross(axes: Axes) -> None:
    """Draw the axes through the backbone, and name what lies where."""
    for line in (axes.axhline, axes.axvline):
        line(0, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.plot([0], [0], "o", mfc=PAPER, mec=INK, ms=7, zorder=3)
    axes.spines["left"].set(visible=True, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("target: Dice minus the backbone's", color=MUTED)
    axes.set_ylabel("source: Dice minus the backbone's", color=MUTED)
    axes.margins(0.08)


def _key(name: str, **style: Any) -> Line2D:
    return Line2D([], [], ls="", label=name, **style)
