"""Figures of scores: every case before and after, and every comparison with its interval."""

import math
from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunet_iac.analysis.report.evaluation import GroupComparison
from nnunet_iac.analysis.scores.comparison import CaseRow, PairedComparison
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER
from nnunet_iac.drawing.panels import LEGEND, panels

GAIN, LOSS = "#0072b2", "#d55e00"
"""Blue and vermilion differ for every kind of colour vision; markers show the same by shape."""

NAME_WIDTH = 31
"""Characters up to which the name of a comparator is on one line."""

LABELLED_CASES = 30
"""Up to so many cases have a row with their name; more are ranked side by side without names."""


def paired_dots(comparison: PairedComparison, a: str = "before", b: str = "with cells") -> Figure:
    """Return the Dice of every case on both sides, named `a` and `b`, ordered by what changed."""
    rows = sorted((row for row in comparison.rows if row.difference is not None), key=_difference)
    named = len(rows) <= LABELLED_CASES
    figure, axes = _axes(0.9 + 0.2 * len(rows) if named else 3.4)
    for place, row in enumerate(rows):
        colour, mark = _gain_or_loss(_difference(row))
        sides = [math.nan if dice is None else dice for dice in (row.a, row.b)]  # Not drawn.
        line = (sides, [place, place]) if named else ([place, place], sides)
        axes.plot(*line, color=colour, lw=1.4, zorder=1)
        marks = ("o", PAPER, MUTED), (mark, colour, colour)
        for value, (marker, face, edge) in zip(sides, marks, strict=True):
            at = ([value], [place]) if named else ([place], [value])
            axes.plot(*at, marker, ms=5 if named else 4, mfc=face, mec=edge, mew=1, zorder=2)
    if named:
        axes.set_yticks(range(len(rows)), [row.case for row in rows])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel("Dice", color=MUTED)
    else:
        axes.set(xlabel=f"{len(rows)} cases, from the largest loss to the largest gain", xticks=[])
        axes.set_ylabel("Dice", color=MUTED)
    axes.xaxis.label.set_color(MUTED)
    _key(figure, a, b)
    return figure


def forest(comparisons: Sequence[GroupComparison]) -> Figure:
    """Return every comparison as its mean difference with the 95 % interval, zero marked."""
    figure, axes = _axes(0.75 + 0.52 * len(comparisons))
    for place, paired in enumerate(one.paired for one in comparisons):
        marks = {"better": ("^", GAIN), "worse": ("v", LOSS)}
        marker, colour = marks.get(paired.verdict, ("o", MUTED))
        if paired.interval is not None:
            ends = [paired.interval.low, paired.interval.high]
            axes.plot(ends, [place, place], color=colour, lw=2)
        axes.plot([paired.difference], [place], marker, color=colour, ms=7)
    axes.axvline(0, color=INK, lw=0.8)
    against = [fill(f"against {c.against.name}", NAME_WIDTH) for c in comparisons]
    names = [f"{c.group.name}\n{other}" for c, other in zip(comparisons, against, strict=True)]
    axes.set_yticks(range(len(comparisons)), names)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlabel("difference of mean Dice\nright of zero: cells better", color=MUTED)
    return figure


def _gain_or_loss(difference: float) -> tuple[str, str]:
    """Return colour and marker of a change."""
    if difference == 0:
        return MUTED, "o"
    return (GAIN, "^") if difference > 0 else (LOSS, "v")


def _difference(row: CaseRow) -> float:
    assert row.difference is not None
    return row.difference


def _axes(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = panels(height)
    axes.spines["left"].set(visible=True, color=MUTED)
    axes.tick_params(labelcolor=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _key(figure: Figure, a: str, b: str) -> None:
    marks = [
        Line2D([], [], ls="", marker="o", mfc=PAPER, mec=MUTED, label=a),
        Line2D([], [], ls="", marker="^", color=GAIN, label=f"{b}: gain"),
        Line2D([], [], ls="", marker="v", color=LOSS, label=f"{b}: loss"),
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=3, handletextpad=0.2, **LEGEND)
