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

_ENCODER, _CELL, _SUM, _JOIN, _DECODER = 110, 238, 306, 384, 470
_LEVELS = ((110, 60), (220, 48), (330, 36))
"""Middles of the columns, and middle and height of the levels of the small U-Net."""


def skip_connection_figure() -> Figure:
    """Return a U-Net with a cell beside every skip, as by default, and one cell enlarged."""
    figure, axes = canvas(1130, 510)
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
    for left, word in ((12, "input"), (510, "output")):
        draw_wire(axes, [(left, y), (left + 58, y)], arrow=True)
        draw_text(axes, (left + 26, y - 14), word, size=9, colour=MUTED)
    for x, word in ((166, "skip"), (345, "new skip")):
        draw_text(axes, (x, y - 14), word, size=9, colour=MUTED)
    draw_text(axes, (_CELL + 53, y + 38), "up", size=9, colour=MUTED)


def _draw_skip(axes: Axes, y: float, below: Point) -> None:
    """Draw a level's way from encoder to decoder, and what comes up to it from `below`."""
    turn = y + 50
    over, split = y - 34, _CELL - 52
    draw_wire(axes, [(_ENCODER + 40, y), (_CELL - 38, y)], arrow=True)
    draw_wire(axes, [(split, y), (split, over), (_SUM, over), (_SUM, y - 9)], arrow=True)
    axes.plot([split], [y], "o", color=MUTED, ms=5.5)
    draw_wire(axes, [(_CELL + 38, y), (_SUM - 9, y)], arrow=True)
    draw_sum(axes, (_SUM, y), 9)
    draw_wire(axes, [(_SUM + 9, y), (_JOIN - 8, y)], arrow=True)
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
    leader = [cell, (_CELL, 52), (600, 52)]
    axes.plot(*zip(*leader, strict=True), color=TRAINED, lw=1.4, ls=(0, (3, 2)))
    draw_box(axes, (857, 220), (514, 380), edge=TRAINED, fill="none")
    grid = Grid(664, 100, 68, 58, 16, (24, 20), 10)
    draw_text(axes, (610, 56), "one cell, enlarged", weight="bold", ha="left")
    for node, word in zip(INPUT_NODES, ("skip", "up"), strict=True):
        draw_text(axes, (grid.start - 8, grid.y(node)), word, ha="right")
    draw_graph(axes, grid, _EXAMPLE, 4)
    y = draw_concat(axes, grid, 4)
    gate, end, top = (grid.end + 58, y), (grid.end + 104, y), grid.y(INPUT_NODES[0])
    draw_wire(axes, [(grid.end + 24, y), (end[0] - 10, y)], arrow=True)
    draw_box(axes, gate, (48, 30), edge=TRAINED, fill=TRAINED)
    draw_text(axes, gate, "× gate", size=9)
    draw_wire(axes, [(grid.start, top), (end[0], top), (end[0], y - 10)], arrow=True)
    draw_sum(axes, end, 10)
    draw_wire(axes, [(end[0] + 10, y), (end[0] + 32, y)], arrow=True)
    draw_lines(axes, (end[0] + 16, y + 34), ("new", "skip"))
    draw_box(axes, (623, 318), (24, 20), edge=MUTED, fill=MUTED)
    draw_text(axes, (646, 318), "one of seven operations", size=9, colour=MUTED, ha="left")
    draw_sum(axes, (623, 350), grid.radius)
    draw_text(axes, (646, 350), "sum of two tensors", size=9, colour=MUTED, ha="left")
    draw_box(axes, (623, 384), (28, 20), edge=TRAINED, fill=TRAINED)
    draw_text(axes, (623, 384), "gate", size=7)
    draw_text(axes, (646, 384), "a trained number, 0 at the start", size=9, colour=MUTED, ha="left")


def _draw_key(axes: Axes, y: float) -> None:
    _frozen(axes, (88, y), (36, 26))
    draw_text(axes, (116, y), "frozen: the backbone", ha="left")
    draw_box(axes, (356, y), (36, 26), edge=TRAINED, fill=TRAINED)
    draw_text(axes, (384, y), "trained: the cells", ha="left")
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
    title = "A frozen backbone with a cell beside every skip connection"
    write_figure(skip_connection_figure(), path, 200, title)


if __name__ == "__main__":
    main()
