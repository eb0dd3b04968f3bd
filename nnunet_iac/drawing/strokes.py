"""The strokes of drawings: boxes, wires, arrows and text on a canvas with pixels as its unit."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER

Point = tuple[float, float]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, in hundredths of an inch from the upper left."""
    figure = Figure(figsize=(width / 100, height / 100), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def draw_text(
    axes: Axes, at: Point, text: str, size: float = 10, colour: str = INK, **kw: Any
) -> None:
    """Write text centred at a point, or as matplotlib's arguments place it."""
    alignment = {"ha": "center", "va": "center_baseline", "zorder": 7}
    axes.text(*at, text, size=size, color=colour, **{**alignment, **kw})


def draw_lines(
    axes: Axes, middle: Point, lines: Sequence[str], size: float = 10, **kw: Any
) -> None:
    """Write lines one by one, so that each is centred in any font."""
    x, y = middle
    for number, line in enumerate(lines):
        draw_text(axes, (x, y + (number - (len(lines) - 1) / 2) * 1.6 * size), line, size, **kw)


def draw_box(axes: Axes, middle: Point, size: Point, edge: str = INK, fill: str = PAPER) -> Patch:
    """Draw a rounded box, opaque and tinted with `fill`; "none" lets everything through."""
    (x, y), (width, height) = middle, size
    layers = [("none", edge, 1.0)]
    if fill != "none":
        layers = [(PAPER, "none", 1.0), (fill, "none", 0.2), *layers]
    for face, line, alpha in layers:
        box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, fc=face, ec=line)
        box.set(boxstyle="round,pad=0,rounding_size=6", alpha=alpha, linewidth=1.4, zorder=4)
        axes.add_patch(box)
    return box


def draw_wire(
    axes: Axes, points: Sequence[Point], arrow: bool = False, colour: str = MUTED
) -> None:
    """Draw a line through points, with a head at its end where it is an arrow."""
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=colour, lw=1.6, zorder=1, solid_joinstyle="round")
    if arrow:
        draw_arrow(axes, points[-2], points[-1], colour, 1.6)


def draw_arrow(axes: Axes, start: Point, end: Point, colour: str, width: float) -> None:
    """Draw an arrow with a filled head."""
    shape: dict[str, Any] = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 1, "zorder": 3}
    shape |= {"arrowstyle": "-|>,head_length=4.5,head_width=2.6", "joinstyle": "miter"}
    axes.add_patch(FancyArrowPatch(start, end, color=colour, lw=width, **shape))
