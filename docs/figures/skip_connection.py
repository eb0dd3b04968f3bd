"""Draw docs/figures/cell-in-skip.png: a U-Net with cells in its skip connections, and one cell."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from nnunet_iac.drawing.cell_picture import Grid, draw_concat, draw_graph, draw_sum
from nnunet_iac.drawing.figure_files import MUTED, write_figure
from nnunet_iac.drawing.strokes import Point, canvas, draw_box, draw_lines, draw_text, draw_wire
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import INPUT_NODES

FROZEN, TRAINED = "#0072b2", "#d55e00"

_EXAMPLE = Genotype.from_codes([3, 1, -1, 4, 0, 5, -1, -1, 3, -1, 2, -1, 6, -1])

_ENCODER, _CELL, _JOIN, _DECODER = 110, 248, 370, 456
_LEVELS = ((110, 60), (220, 48), (330, 36))
"""Middles of the columns, and middle and height of the levels of the small U-Net."""


def skip_connection_figure() -> Figure:
    """Return a U-Net with a cell in every skip connection, and one cell enlarged beside it."""
    figure, axes = canvas(1036, 510)
    _draw_unet(axes)
    _draw_enlarged(axes)
    _draw_key(axes, 480)
    return figure


def _draw_unet(axes: Axes) -> None:
    bottom = 424
    for x, name in ((_ENCODER, "encoder"), (_DECODER, "decoder")):
        draw_text(axes, (x, 30), name, weight="bold")
    for level, (y, height) in enumerate(_LEVELS):
        last = level + 1 == len(_LEVELS)
        below, half = (bottom, 0) if last else (_LEVELS[level + 1][0], _LEVELS[level + 1][1] / 2)
        for x in (_ENCODER, _DECODER):
            _frozen(axes, (x, y), (80, height))
        turn = [(_CELL - 52.0, below)] if last else []
        draw_wire(axes, [(_ENCODER, y + height / 2), (_ENCODER, below - half), *turn], arrow=True)
        _draw_skip(axes, y, (_CELL + 52 if last else _DECODER, below - half))
    _frozen(axes, (_CELL, bottom), (104, 32))
    y = _LEVELS[0][0]
    for left, word in ((12, "input"), (496, "output")):
        draw_wire(axes, [(left, y), (left + 58, y)], arrow=True)
        draw_text(axes, (left + 26, y - 14), word, size=9, colour=MUTED)
    for x, word in ((180, "skip"), (325, "new skip")):
        draw_text(axes, (x, y - 14), word, size=9, colour=MUTED)
    draw_text(axes, (_CELL + 53, y + 36), "up", size=9, colour=MUTED)


def _draw_skip(axes: Axes, y: float, below: Point) -> None:
    """Draw a level's way from encoder to decoder, and what comes up to it from `below`."""
    turn = y + 50
    draw_wire(axes, [(_ENCODER + 40, y), (_CELL - 38, y)], arrow=True)
    draw_wire(axes, [(_CELL + 38, y), (_JOIN - 8, y)], arrow=True)
    draw_wire(axes, [(_JOIN + 8, y), (_DECODER - 40, y)], arrow=True)
    corner = (_JOIN, below[1]) if below[0] < _JOIN else (below[0], turn)
    draw_wire(axes, [below, corner, (_JOIN, turn), (_JOIN, y + 22)], arrow=True)
    draw_wire(axes, [(_JOIN, turn), (_CELL, turn), (_CELL, y + 20)], arrow=True)
    axes.plot([_JOIN], [turn], "o", color=MUTED, ms=5.5)
    draw_box(axes, (_CELL, y), (76, 40), edge=TRAINED, fill=TRAINED)
    draw_text(axes, (_CELL, y), "cell", weight="bold")
    draw_box(axes, (_JOIN, y), (16, 44))


def _draw_enlarged(axes: Axes) -> None:
    """Draw an example cell in a panel, its operations without their names."""
    cell = (_CELL, _LEVELS[0][0] - 20)
    leader = [cell, (_CELL, 60), (586, 60)]
    axes.plot(*zip(*leader, strict=True), color=TRAINED, lw=1.4, ls=(0, (3, 2)))
    draw_box(axes, (805, 220), (438, 380), edge=TRAINED, fill="none")
    grid = Grid(650, 100, 68, 58, 16, (24, 20), 10)
    draw_text(axes, (596, 56), "one cell, enlarged", weight="bold", ha="left")
    for node, word in zip(INPUT_NODES, ("skip", "up"), strict=True):
        draw_text(axes, (grid.start - 8, grid.y(node)), word, ha="right")
    draw_graph(axes, grid, _EXAMPLE, 4)
    y = draw_concat(axes, grid, 4)
    draw_wire(axes, [(grid.end + 24, y), (grid.end + 44, y)], arrow=True)
    draw_lines(axes, (grid.end + 64, y), ("new", "skip"))
    draw_box(axes, (609, 318), (24, 20), edge=MUTED, fill=MUTED)
    draw_text(axes, (632, 318), "one of seven operations", size=9, colour=MUTED, ha="left")
    draw_sum(axes, (609, 350), grid.radius)
    draw_text(axes, (632, 350), "sum of two edges", size=9, colour=MUTED, ha="left")


def _draw_key(axes: Axes, y: float) -> None:
    _frozen(axes, (88, y), (36, 26))
    draw_text(axes, (116, y), "frozen: the trained U-Net", ha="left")
    draw_box(axes, (356, y), (36, 26), edge=TRAINED, fill=TRAINED)
    draw_text(axes, (384, y), "trained: only the cells", ha="left")
    draw_box(axes, (614, y), (14, 30))
    draw_text(axes, (632, y), "concatenation of (up, new skip), as before", ha="left")


def _frozen(axes: Axes, middle: Point, size: Point) -> None:
    """Draw a box with a snow crystal."""
    draw_box(axes, middle, size, edge=FROZEN, fill=FROZEN)
    for turn in range(6):
        arm = Affine2D().rotate_deg(60 * turn).translate(*middle)
        for stroke in (((0, 0), (0, 9)), ((-3, 8), (0, 5), (3, 8))):
            x, y = arm.transform(stroke).T
            axes.plot(x, y, color=FROZEN, lw=1.2, zorder=6, solid_capstyle="round")


def main() -> None:
    """Write the picture."""
    path = Path(__file__).parent / "cell-in-skip.png"
    title = "A frozen U-Net whose skip connections run through cells"
    write_figure(skip_connection_figure(), path, 200, title)


if __name__ == "__main__":
    main()
