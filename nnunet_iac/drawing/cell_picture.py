"""The picture of a cell: its nodes, edges and operations."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nnunet_iac.drawing.figure_files import (
    INK,
    MUTED,
    PAPER,
    svg_document,
    write_figure,
)
from nnunet_iac.drawing.strokes import (
    Point,
    canvas,
    draw_arrow,
    draw_box,
    draw_lines,
    draw_text,
    draw_wire,
)
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INPUT_NODES, INTERMEDIATE_NODES, OPERATIONS

OPERATION_COLOURS = {
    "identity": "#8c8c8c",
    "max_pool_3x3": "#e69f00",
    "avg_pool_3x3": "#d55e00",
    "sep_conv_3x3": "#56b4e9",
    "sep_conv_5x5": "#0072b2",
    "dil_conv_3x3": "#cc79a7",
    "dil_conv_5x5": "#009e73",
}
"""Okabe and Ito's colours, which colour-blind people can distinguish; one hue range per family."""

_FAMILIES = (
    ("identity", "identity", "-", 1.4),
    ("max_pool", "max pooling", (0, (1, 1.2)), 2.6),
    ("avg_pool", "average pooling", (0, (2.6, 0.9, 1, 0.9)), 2.6),
    ("sep_conv", "separable convolution", "-", 2.6),
    ("dil_conv", "dilated separable convolution", (0, (2.6, 1.1)), 2.6),
)
"""Prefix of the operations, name, line style and line width of every family."""


def operation_label(operation: str) -> str:
    """Return an operation's name for people, with spaces and a multiplication sign."""
    return re.sub(r"(?<=\d)x(?=\d)", "\N{MULTIPLICATION SIGN}", operation.replace("_", " "))


def cell_svg(genotype: Genotype, output_nodes: int = 4) -> str:
    """Return the picture of `draw_cell` as SVG."""
    return svg_document(cell_figure(genotype, output_nodes), _cell_title(genotype))


def draw_cell(genotype: Genotype, path: Path, output_nodes: int = 4) -> None:
    """Draw a cell into an SVG or PNG file, by its suffix, with the last R nodes concatenated.

    Every node has a row and a column. It is taken from its row, downwards into the columns of the
    nodes that use it, so no wire meets a label and every genotype has the same layout.
    """
    write_figure(cell_figure(genotype, output_nodes), path, 200, _cell_title(genotype))


def _cell_title(genotype: Genotype) -> str:
    return "Cell: " + "; ".join(str(genotype).splitlines())


@dataclass(frozen=True)
class Grid:
    """Places of the parts of a cell: a row per node, a column per intermediate node."""

    start: float
    top: float
    column: float
    row: float
    lane: float
    chip: tuple[float, float]
    radius: float

    def x(self, node: int) -> float:
        """Return the middle of an intermediate node's column; inputs end at `start`."""
        return self.start if node in INPUT_NODES else self.start + (node - 1.4) * self.column

    def y(self, node: int) -> float:
        """Return the height of a node's row; the input rows need no room for operations."""
        return self.top + 0.64 * self.row * min(node, 1) + self.row * max(node - 1, 0)

    @property
    def end(self) -> float:
        """The places at which the rows of the output nodes meet the concatenation."""
        return self.x(INTERMEDIATE_NODES[-1]) + 0.6 * self.column

    def tap(self, choice: Choice, genotype: Genotype) -> float:
        """Return where an edge goes down: the later source on the left, so the two never cross."""
        source, target = choice.edge
        others = [c.edge.source for c in genotype.choices if c.edge.target == target]
        return self.x(target) + (self.lane if source == min(others) else -self.lane)


def cell_figure(genotype: Genotype, output_nodes: int) -> Figure:
    """Return the figure of `draw_cell`."""
    figure, axes = canvas(922, 520)
    grid = Grid(180, 36, 141, 96, 36, (66, 38), 15)
    names = (("encoder", "skip"), ("upsampled", "decoder"))
    for node, lines in zip(INPUT_NODES, names, strict=True):
        y = grid.y(node)
        draw_box(axes, (69, y), (124, 44))
        draw_text(axes, (24, y), f"v{node}", weight="bold")
        draw_lines(axes, (84, y), lines)
        _draw_projection(axes, (131, grid.start), y)
    draw_graph(axes, grid, genotype, output_nodes)
    for choice in genotype.choices:
        words = operation_label(choice.operation).rsplit(" ", maxsplit=1)
        middle = (grid.tap(choice, genotype), _chip_y(grid, choice.edge.target))
        draw_lines(axes, middle, words if words[-1][0].isdigit() else [" ".join(words)], size=9)
    for node in INTERMEDIATE_NODES:
        draw_text(axes, (grid.x(node) - 24, grid.y(node)), f"v{node}", weight="bold", ha="right")
    y = draw_concat(axes, grid, output_nodes)
    _draw_projection(axes, (grid.end + 24, 857), y, arrow=True)
    draw_box(axes, (886, y), (58, 44))
    draw_lines(axes, (886, y), ("new", "skip"), weight="bold")
    _draw_legend(axes, (20, grid.y(4) - 76))
    return figure


def draw_graph(axes: Axes, grid: Grid, genotype: Genotype, output_nodes: int) -> None:
    """Draw rows, edges and sums; the edges bridge the rows that they only cross."""
    for node in (*INPUT_NODES, *INTERMEDIATE_NODES):
        ends = [grid.tap(c, genotype) for c in genotype.choices if c.edge.source == node]
        ends += [grid.end] if node in INTERMEDIATE_NODES[-output_nodes:] else []
        if ends:
            draw_wire(axes, [(grid.x(node), grid.y(node)), (max(ends), grid.y(node))])
    for choice in genotype.choices:
        _draw_edge(axes, grid, choice, grid.tap(choice, genotype))
    for node in INTERMEDIATE_NODES:
        draw_sum(axes, (grid.x(node), grid.y(node)), grid.radius)


def _draw_edge(axes: Axes, grid: Grid, choice: Choice, x: float) -> None:
    """Draw one edge: down from the source's row, through its operation, into the sum."""
    source, target = choice.edge
    colour = OPERATION_COLOURS[choice.operation]
    style, width = _stroke(choice.operation)
    middle, half = _chip_y(grid, target), grid.chip[1] / 2
    line = [grid.y(source), middle - half]
    axes.plot([x, x], [line[0] + 6, line[1]], color=PAPER, lw=8, zorder=2, solid_capstyle="butt")
    axes.plot([x, x], line, color=colour, lw=width, ls=style, zorder=3, solid_capstyle="butt")
    axes.plot([x], line[:1], "o", color=MUTED, ms=5.5, zorder=4)
    box = draw_box(axes, (x, middle), grid.chip, edge=colour, fill=colour)
    box.set_gid(f"edge-{choice.edge.name}-{choice.operation}")
    side = 1 if x > grid.x(target) else -1
    goal = (grid.x(target) + side * 0.62 * grid.radius, grid.y(target) - 0.82 * grid.radius)
    draw_arrow(axes, (x, middle + half), goal, colour, width)


def draw_sum(axes: Axes, middle: Point, radius: float) -> None:
    """Draw a plus in a circle."""
    (x, y), arm = middle, 0.5 * radius
    axes.add_patch(Circle(middle, radius, facecolor=PAPER, edgecolor=INK, lw=1.6, zorder=5))
    axes.plot([x - arm, x + arm], [y, y], color=INK, lw=1.6, zorder=6)
    axes.plot([x, x], [y - arm, y + arm], color=INK, lw=1.6, zorder=6)


def _draw_projection(axes: Axes, ends: Point, y: float, arrow: bool = False) -> None:
    """Draw a wire from left to right through a box with the 1x1 convolution."""
    left, right = ends
    middle = (left + right - 6 * arrow) / 2
    draw_wire(axes, [(left, y), (middle - 17, y)])
    draw_wire(axes, [(middle + 17, y), (right, y)], arrow=arrow)
    draw_box(axes, (middle, y), (34, 26))
    draw_text(axes, (middle, y), operation_label("1x1"), size=9)


def draw_concat(axes: Axes, grid: Grid, output_nodes: int) -> float:
    """Draw the bar that concatenates the output nodes; return its middle."""
    top, bottom = grid.y(INTERMEDIATE_NODES[-output_nodes]), grid.y(INTERMEDIATE_NODES[-1])
    middle, height = (top + bottom) / 2, max(bottom - top + 44, 64)
    draw_box(axes, (grid.end + 12, middle), (24, height))
    draw_text(axes, (grid.end + 12, middle), "concat", rotation=90, va="center")
    return middle


def _draw_legend(axes: Axes, corner: Point) -> None:
    x, y = corner
    for prefix, name, style, width in _FAMILIES:
        colours = [OPERATION_COLOURS[o] for o in OPERATIONS if o.startswith(prefix)]
        for part, colour in enumerate(colours):
            ends = [x + 41 * part / len(colours), x + 41 * (part + 1) / len(colours)]
            axes.plot(ends, [y, y], color=colour, ls=style, lw=width, solid_capstyle="butt")
        draw_text(axes, (x + 52, y), name, size=9, colour=MUTED, ha="left")
        y += 24
    axes.plot([x + 20], [y], "o", color=MUTED, ms=5.5)
    draw_text(axes, (x + 52, y), "taken from this row", size=9, colour=MUTED, ha="left")


def _stroke(operation: str) -> tuple[Any, float]:
    return next((style, width) for p, _, style, width in _FAMILIES if operation.startswith(p))


def _chip_y(grid: Grid, target: int) -> float:
    return grid.y(target) - 0.52 * grid.row
