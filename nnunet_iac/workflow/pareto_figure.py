"""The figure of widths and methods: Dice against parameters and against MACs."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER
from nnunet_iac.runs.atomic import replacing
from nnunet_iac.workflow.pareto import METHODS
from nnunet_iac.workflow.pareto_points import Point

WIDTH = 4.6
"""Inches: few, so that the text stays legible where the page is narrow."""

COLOURS = dict(zip(METHODS, (INK, MUTED, "#d55e00", "#0072b2", "#009e73"), strict=True))
MARKERS = dict(zip(METHODS, "ovsD^", strict=True))
"""Okabe and Ito's colours, and shapes besides."""

_SIZE = 9


def pareto_figure(points: Sequence[Point]) -> Figure:
    """Return Dice against parameters and MACs, a line per method over its widths.

    Bars are the 95 % bootstrap intervals over patients; the numbers are caps.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("a figure of widths needs a finished training; got none: train one first")
    shown = [method for method in METHODS if any(p.method == method for p in points)]
    figure = Figure(figsize=(WIDTH, 5.2), dpi=200, facecolor=PAPER, layout="constrained")
    panels = figure.subplots(2, 1, sharey=True)
    for axes, (name, label) in zip(
        panels, {"parameters": "parameters", "macs": "MACs of one patch"}.items(), strict=True
    ):
        for method in shown:
            own = sorted((p for p in points if p.method == method), key=lambda p: p.cap)
            costs = [getattr(point, name) for point in own]
            for cost, point in zip(costs, own, strict=True):
                if point.low is not None:
                    axes.plot(
                        [cost, cost],
                        [point.low, point.high],
                        color=COLOURS[method],
                        lw=1,
                        alpha=0.6,
                    )
                if method == shown[0]:
                    axes.annotate(
                        str(point.cap), (cost, point.dice), (-5, 3), textcoords="offset points",
                        color=MUTED, size=8, ha="right",
                    )  # fmt: skip
            axes.plot(
                costs, [point.dice for point in own], color=COLOURS[method], lw=1.4, ms=4.5,
                marker=MARKERS[method], label=method,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_facecolor("none")
        axes.tick_params(colors=MUTED, labelsize=_SIZE, which="both")
        axes.spines["bottom"].set_color(MUTED)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=MUTED, alpha=0.25, lw=0.6)
        axes.set_xlabel(label, color=MUTED, size=_SIZE)
        axes.set_title("mean Dice over patients", loc="left", color=MUTED, size=_SIZE)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False,
        fontsize=_SIZE, labelcolor=INK,
    )  # fmt: skip
    return figure


def draw_pareto(points: Sequence[Point], path: Path) -> None:
    """Draw `pareto_figure` into a PNG file, replaced atomically."""
    with replacing(path) as temporary:
        FigureCanvasAgg(pareto_figure(points)).print_figure(
            temporary, format="png", metadata={"Software": None}
        )
