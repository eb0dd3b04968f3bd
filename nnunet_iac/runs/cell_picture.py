"""Pictures of the cell: the found one, and where cells sit in a U-Net."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.transforms import Affine2D

from nnunet_iac.runs.atomic import replacing
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INPUT_NODES, INTERMEDIATE_NODES, OPERATIONS

Point = tuple[float, float]

INK, MUTED, PAPER = "#1f2328", "#6e7781", "#ffffff"
"""Text and nodes, wires and remarks, background; a page may replace them by its own."""

OPERATION_COLOURS = {
    "identity": "#8c8c8c",
    "max_pool_3x3": "#e69f00",
    "avg_pool_3x3": "#d55e00",
    "sep_conv_3x3": "#56b4e9",
    "sep_conv_5x5": "#0072b2",
    "dil_conv_3x3": "#cc79a7",
    "dil_conv_5x5": "#009e73",
}
"""Okabe and Ito's colours, which the colour-blind can tell apart; one hue range per family."""

FROZEN, TRAINED = "#0072b2", "#d55e00"

_FAMILIES = (
    ("identity", "identity", "-", 1.4),
    ("max_pool", "max pooling", (0, (1, 1.2)), 2.6),
    ("avg_pool", "average pooling", (0, (2.6, 0.9, 1, 0.9)), 2.6),
    ("sep_conv", "separable convolution", "-", 2.6),
    ("dil_conv", "dilated separable convolution", (0, (2.6, 1.1)), 2.6),
)
"""Prefix of the operations, name, line style and line width of every family."""

_EXAMPLE = Genotype.from_codes([3, 1, -1, 4, 0, 5, -1, -1, 3, -1, 2, -1, 6, -1])


def operation_label(operation: str) -> str:
    """Return an operation's name for people, with spaces and a multiplication sign."""
    return re.sub(r"(?<=\d)x(?=\d)", "\N{MULTIPLICATION SIGN}", operation.replace("_", " "))


def svg_document(figure: Figure, title: str) -> str:
    """Return a figure as SVG: the same text every time, with its text as text and no date."""
    buffer = StringIO()
    absent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nnunet-iac"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Title": title, **absent})
    return buffer.getvalue()


def cell_svg(genotype: Genotype, output_nodes: int = 4) -> str:
    """Return the picture of `draw_cell` as SVG."""
    return svg_document(_cell_figure(genotype, output_nodes), _cell_title(genotype))


def draw_cell(genotype: Genotype, path: Path, output_nodes: int = 4) -> None:
    """Draw a cell into an SVG or PNG file, by its suffix.

    Every node has a row and a column. It is taken from its row, downwards into the columns of the
    nodes that use it, so no wire meets a label and every genotype has the same layout.

    Args:
        genotype: the cell.
        path: the file, replaced atomically.
        output_nodes: R, how many of the last nodes are concatenated.

    Raises:
        ValueError: another suffix than `.svg` or `.png`.
    """
    _require_suffix(path)
    _write(_cell_figure(genotype, output_nodes), path, _cell_title(genotype))


def draw_skip_connection(path: Path) -> None:
    """Draw a U-Net with a cell in every skip connection, and one cell enlarged beside it.

    Raises:
        ValueError: another suffix than `.svg` or `.png`.
    """
    _require_suffix(path)
    figure, axes = _canvas(1036, 510)
    _draw_unet(axes)
    _draw_enlarged(axes)
    _draw_key(axes, 480)
    _write(figure, path, "A frozen U-Net whose skip connections run through cells")


def _require_suffix(path: Path) -> None:
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"a picture's file name must end in .svg or .png; got {path.name!r}")


def _write(figure: Figure, path: Path, title: str) -> None:
    with replacing(path) as temporary:
        if path.suffix == ".svg":
            temporary.write_text(svg_document(figure, title), encoding="utf-8")
        else:
            metadata = {"Title": title, "Software": None}
            FigureCanvasAgg(figure).print_figure(temporary, dpi=200, metadata=metadata)


def _cell_title(genotype: Genotype) -> str:
    return "Cell: " + "; ".join(str(genotype).splitlines())


# --- one cell --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Where the parts of a cell stand: a row per node, a column per intermediate node."""

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
        """Where the rows of the output nodes meet the concatenation."""
        return self.x(INTERMEDIATE_NODES[-1]) + 0.6 * self.column

    def tap(self, choice: Choice, genotype: Genotype) -> float:
        """Return where an edge goes down: the later source on the left, so the two never cross."""
        source, target = choice.edge
        others = [c.edge.source for c in genotype.choices if c.edge.target == target]
        return self.x(target) + (self.lane if source == min(others) else -self.lane)


def _cell_figure(genotype: Genotype, output_nodes: int) -> Figure:
    figure, axes = _canvas(922, 520)
    grid = _Grid(180, 36, 141, 96, 36, (66, 38), 15)
    names = (("encoder", "skip"), ("upsampled", "decoder"))
    for node, lines in zip(INPUT_NODES, names, strict=True):
        y = grid.y(node)
        _box(axes, (69, y), (124, 44))
        _text(axes, (24, y), f"v{node}", weight="bold")
        _lines(axes, (84, y), lines)
        _draw_projection(axes, (131, grid.start), y)
    _draw_graph(axes, grid, genotype, output_nodes)
    for choice in genotype.choices:
        words = operation_label(choice.operation).rsplit(" ", maxsplit=1)
        middle = (grid.tap(choice, genotype), _chip_y(grid, choice.edge.target))
        _lines(axes, middle, words if words[-1][0].isdigit() else [" ".join(words)], size=9)
    for node in INTERMEDIATE_NODES:
        _text(axes, (grid.x(node) - 24, grid.y(node)), f"v{node}", weight="bold", ha="right")
    y = _draw_concat(axes, grid, output_nodes)
    _draw_projection(axes, (grid.end + 24, 857), y, arrow=True)
    _box(axes, (886, y), (58, 44))
    _lines(axes, (886, y), ("new", "skip"), weight="bold")
    _draw_legend(axes, (20, grid.y(4) - 76))
    return figure


def _draw_graph(axes: Axes, grid: _Grid, genotype: Genotype, output_nodes: int) -> None:
    """Draw rows, edges and sums; the edges bridge the rows that they only cross."""
    for node in (*INPUT_NODES, *INTERMEDIATE_NODES):
        ends = [grid.tap(c, genotype) for c in genotype.choices if c.edge.source == node]
        ends += [grid.end] if node in INTERMEDIATE_NODES[-output_nodes:] else []
        if ends:
            _wire(axes, [(grid.x(node), grid.y(node)), (max(ends), grid.y(node))])
    for choice in genotype.choices:
        _draw_edge(axes, grid, choice, grid.tap(choice, genotype))
    for node in INTERMEDIATE_NODES:
        _sum(axes, (grid.x(node), grid.y(node)), grid.radius)


def _draw_edge(axes: Axes, grid: _Grid, choice: Choice, x: float) -> None:
    """Draw one edge: down from the source's row, through its operation, into the sum."""
    source, target = choice.edge
    colour = OPERATION_COLOURS[choice.operation]
    style, width = _stroke(choice.operation)
    middle, half = _chip_y(grid, target), grid.chip[1] / 2
    line = [grid.y(source), middle - half]
    axes.plot([x, x], [line[0] + 6, line[1]], color=PAPER, lw=8, zorder=2, solid_capstyle="butt")
    axes.plot([x, x], line, color=colour, lw=width, ls=style, zorder=3, solid_capstyle="butt")
    axes.plot([x], line[:1], "o", color=MUTED, ms=5.5, zorder=4)
    box = _box(axes, (x, middle), grid.chip, edge=colour, fill=colour)
    box.set_gid(f"edge-{choice.edge.name}-{choice.operation}")
    side = 1 if x > grid.x(target) else -1
    goal = (grid.x(target) + side * 0.62 * grid.radius, grid.y(target) - 0.82 * grid.radius)
    _arrow(axes, (x, middle + half), goal, colour, width)


def _sum(axes: Axes, middle: Point, radius: float) -> None:
    """Draw a plus in a circle."""
    (x, y), arm = middle, 0.5 * radius
    axes.add_patch(Circle(middle, radius, facecolor=PAPER, edgecolor=INK, lw=1.6, zorder=5))
    axes.plot([x - arm, x + arm], [y, y], color=INK, lw=1.6, zorder=6)
    axes.plot([x, x], [y - arm, y + arm], color=INK, lw=1.6, zorder=6)


def _draw_projection(axes: Axes, ends: Point, y: float, arrow: bool = False) -> None:
    """Draw a wire from left to right through a box with the 1x1 convolution."""
    left, right = ends
    middle = (left + right - 6 * arrow) / 2
    _wire(axes, [(left, y), (middle - 17, y)])
    _wire(axes, [(middle + 17, y), (right, y)], arrow=arrow)
    _box(axes, (middle, y), (34, 26))
    _text(axes, (middle, y), operation_label("1x1"), size=9)


def _draw_concat(axes: Axes, grid: _Grid, output_nodes: int) -> float:
    """Draw the bar that concatenates the output nodes; return its middle."""
    top, bottom = grid.y(INTERMEDIATE_NODES[-output_nodes]), grid.y(INTERMEDIATE_NODES[-1])
    middle, height = (top + bottom) / 2, max(bottom - top + 44, 64)
    _box(axes, (grid.end + 12, middle), (24, height))
    _text(axes, (grid.end + 12, middle), "concat", rotation=90, va="center")
    return middle


def _draw_legend(axes: Axes, corner: Point) -> None:
    x, y = corner
    for prefix, name, style, width in _FAMILIES:
        colours = [OPERATION_COLOURS[o] for o in OPERATIONS if o.startswith(prefix)]
        for part, colour in enumerate(colours):
            ends = [x + 41 * part / len(colours), x + 41 * (part + 1) / len(colours)]
            axes.plot(ends, [y, y], color=colour, ls=style, lw=width, solid_capstyle="butt")
        _text(axes, (x + 52, y), name, size=9, colour=MUTED, ha="left")
        y += 24
    axes.plot([x + 20], [y], "o", color=MUTED, ms=5.5)
    _text(axes, (x + 52, y), "taken from this row", size=9, colour=MUTED, ha="left")


def _stroke(operation: str) -> tuple[Any, float]:
    return next((style, width) for p, _, style, width in _FAMILIES if operation.startswith(p))


def _chip_y(grid: _Grid, target: int) -> float:
    return grid.y(target) - 0.52 * grid.row


# --- cells in a U-Net ------------------------------------------------------------------------

_ENCODER, _CELL, _JOIN, _DECODER = 110, 248, 370, 456
_LEVELS = ((110, 60), (220, 48), (330, 36))
"""Middles of the columns, and middle and height of the levels of the small U-Net."""


def _draw_unet(axes: Axes) -> None:
    bottom = 424
    for x, name in ((_ENCODER, "encoder"), (_DECODER, "decoder")):
        _text(axes, (x, 30), name, weight="bold")
    for level, (y, height) in enumerate(_LEVELS):
        last = level + 1 == len(_LEVELS)
        below, half = (bottom, 0) if last else (_LEVELS[level + 1][0], _LEVELS[level + 1][1] / 2)
        for x in (_ENCODER, _DECODER):
            _frozen(axes, (x, y), (80, height))
        turn = [(_CELL - 52.0, below)] if last else []
        _wire(axes, [(_ENCODER, y + height / 2), (_ENCODER, below - half), *turn], arrow=True)
        _draw_skip(axes, y, (_CELL + 52 if last else _DECODER, below - half))
    _frozen(axes, (_CELL, bottom), (104, 32))
    y = _LEVELS[0][0]
    for left, word in ((12, "input"), (496, "output")):
        _wire(axes, [(left, y), (left + 58, y)], arrow=True)
        _text(axes, (left + 26, y - 14), word, size=9, colour=MUTED)
    for x, word in ((180, "skip"), (325, "new skip")):
        _text(axes, (x, y - 14), word, size=9, colour=MUTED)
    _text(axes, (_CELL + 53, y + 36), "up", size=9, colour=MUTED)


def _draw_skip(axes: Axes, y: float, below: Point) -> None:
    """Draw a level's way from encoder to decoder, and what comes up to it from `below`."""
    turn = y + 50
    _wire(axes, [(_ENCODER + 40, y), (_CELL - 38, y)], arrow=True)
    _wire(axes, [(_CELL + 38, y), (_JOIN - 8, y)], arrow=True)
    _wire(axes, [(_JOIN + 8, y), (_DECODER - 40, y)], arrow=True)
    corner = (_JOIN, below[1]) if below[0] < _JOIN else (below[0], turn)
    _wire(axes, [below, corner, (_JOIN, turn), (_JOIN, y + 22)], arrow=True)
    _wire(axes, [(_JOIN, turn), (_CELL, turn), (_CELL, y + 20)], arrow=True)
    axes.plot([_JOIN], [turn], "o", color=MUTED, ms=5.5)
    _box(axes, (_CELL, y), (76, 40), edge=TRAINED, fill=TRAINED)
    _text(axes, (_CELL, y), "cell", weight="bold")
    _box(axes, (_JOIN, y), (16, 44))


def _draw_enlarged(axes: Axes) -> None:
    """Draw an example cell in a panel, its operations without their names."""
    cell = (_CELL, _LEVELS[0][0] - 20)
    leader = [cell, (_CELL, 60), (586, 60)]
    axes.plot(*zip(*leader, strict=True), color=TRAINED, lw=1.4, ls=(0, (3, 2)))
    _box(axes, (805, 220), (438, 380), edge=TRAINED, fill="none")
    grid = _Grid(650, 100, 68, 58, 16, (24, 20), 10)
    _text(axes, (596, 56), "one cell, enlarged", weight="bold", ha="left")
    for node, word in zip(INPUT_NODES, ("skip", "up"), strict=True):
        _text(axes, (grid.start - 8, grid.y(node)), word, ha="right")
    _draw_graph(axes, grid, _EXAMPLE, 4)
    y = _draw_concat(axes, grid, 4)
    _wire(axes, [(grid.end + 24, y), (grid.end + 44, y)], arrow=True)
    _lines(axes, (grid.end + 64, y), ("new", "skip"))
    _box(axes, (609, 318), (24, 20), edge=MUTED, fill=MUTED)
    _text(axes, (632, 318), "one of seven operations", size=9, colour=MUTED, ha="left")
    _sum(axes, (609, 350), grid.radius)
    _text(axes, (632, 350), "sum of two edges", size=9, colour=MUTED, ha="left")


def _draw_key(axes: Axes, y: float) -> None:
    _frozen(axes, (88, y), (36, 26))
    _text(axes, (116, y), "frozen: the trained U-Net", ha="left")
    _box(axes, (356, y), (36, 26), edge=TRAINED, fill=TRAINED)
    _text(axes, (384, y), "trained: only the cells", ha="left")
    _box(axes, (614, y), (14, 30))
    _text(axes, (632, y), "concatenation of (up, new skip), as before", ha="left")


def _frozen(axes: Axes, middle: Point, size: Point) -> None:
    """Draw a box with a snow crystal."""
    _box(axes, middle, size, edge=FROZEN, fill=FROZEN)
    for turn in range(6):
        arm = Affine2D().rotate_deg(60 * turn).translate(*middle)
        for stroke in (((0, 0), (0, 9)), ((-3, 8), (0, 5), (3, 8))):
            x, y = arm.transform(stroke).T
            axes.plot(x, y, color=FROZEN, lw=1.2, zorder=6, solid_capstyle="round")


# --- strokes ---------------------------------------------------------------------------------


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, in hundredths of an inch from the upper left."""
    figure = Figure(figsize=(width / 100, height / 100), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def _text(axes: Axes, at: Point, text: str, size: float = 10, colour: str = INK, **kw: Any) -> None:
    alignment = {"ha": "center", "va": "center_baseline", "zorder": 7}
    axes.text(*at, text, size=size, color=colour, **{**alignment, **kw})


def _lines(axes: Axes, middle: Point, lines: Sequence[str], size: float = 10, **kw: Any) -> None:
    """Write lines one by one, so that each is centred in any font."""
    x, y = middle
    for number, line in enumerate(lines):
        _text(axes, (x, y + (number - (len(lines) - 1) / 2) * 1.6 * size), line, size, **kw)


def _box(axes: Axes, middle: Point, size: Point, edge: str = INK, fill: str = PAPER) -> Patch:
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


def _wire(axes: Axes, points: Sequence[Point], arrow: bool = False, colour: str = MUTED) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=colour, lw=1.6, zorder=1, solid_joinstyle="round")
    if arrow:
        _arrow(axes, points[-2], points[-1], colour, 1.6)


def _arrow(axes: Axes, start: Point, end: Point, colour: str, width: float) -> None:
    style = "-|>,head_length=4.5,head_width=2.6"
    shape: dict[str, Any] = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 1, "zorder": 3}
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, color=colour, lw=width, joinstyle="miter", **shape
        )
    )
