"""Figures of searches: how their cells converge, and what they choose.

Text is `INK` or `MUTED` on `PAPER`, so that a page can put its own colours in their place. What
would take thousands of paths is an image inside the figure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nnunet_iac.analysis.trajectories import emergence, similarity
from nnunet_iac.analysis.trajectories.emergence import (
    TOPS,
    Moment,
    SearchRecord,
    require_epochs,
)
from nnunet_iac.analysis.trajectories.similarity_figures import MANY
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, operation_label
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER
from nnunet_iac.drawing.panels import (
    LABEL_SIZE,
    LEGEND,
    SMALL_LABEL,
    WIDTH,
    bare_axes,
    empty_figure,
    panels,
)
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    Edge,
    edges_into,
)

LINES, DOTS = "#56b4e9", "#d55e00"
"""Single searches or edges (Okabe and Ito); what sums them up is drawn in `INK`."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def convergence_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return the cosine of every epoch's Theta to the last one's (paper, Fig. 5).

    Of several searches a thin line each, and their median, in which one that has ended stays at 1.
    """
    require_epochs(searches)
    figure, (axes,) = panels(2.6, "cosine to the last \N{GREEK CAPITAL LETTER THETA}")
    vectors = [similarity.continuous_vectors(search.trajectory) for search in searches]
    _draw_curves(axes, searches, [similarity.convergence(vector) for vector in vectors])
    axes.set_ylim(top=1.03)
    _finish_timeline(figure, [axes], searches)
    return figure


def importance_figure(search: SearchRecord) -> Figure:
    """Return the share p of every operation on every edge over time (paper, Fig. 3).

    A column for the node that an edge enters, a row for the one it leaves. Its name is bold if the
    cell keeps it; below stands its final operation, in brackets where it merely leads.
    """
    require_epochs([search])
    figure = empty_figure(1.45 * WIDTH)
    sources = range(INTERMEDIATE_NODES[-1])
    grid = figure.add_gridspec(len(sources), len(INTERMEDIATE_NODES))
    share, kept = emergence.shares(search.trajectory), emergence.final_genotype(search).operations
    for index, edge in enumerate(EDGES):
        axes = figure.add_subplot(grid[edge.source, edge.target - INTERMEDIATE_NODES[0]])
        _draw_shares(axes, search, share[:, index], edge)
        outcome = _outcome(search, index)
        axes.set_title(_edge_label(edge), color=INK, size=LABEL_SIZE, pad=12)
        axes.title.set_fontweight("bold" if outcome and edge in kept else "normal")
        place = (0.5, 1), (0, 3), "axes fraction", "offset points"
        axes.annotate(outcome, *place, ha="center", size=SMALL_LABEL, color=MUTED)
        if edge.source < edge.target - 1:
            axes.tick_params(labelbottom=False)
    key = figure.add_subplot(grid[3:, :2])
    key.axis("off")
    handles = [Patch(color=OPERATION_COLOURS[o], label=operation_label(o)) for o in OPERATIONS]
    pruned = Line2D([], [], color=INK, marker="x", ls="none", label="pruned")
    key.legend(handles=[*handles, pruned], loc="lower left", **LEGEND)
    return figure


def emergence_figure(searches: Sequence[SearchRecord], moment: Moment = "first") -> Figure:
    """Return when the final operations and the nodes' edges emerged (paper, Fig. 6).

    A dot is an edge, or in the last row a node, of one search, the bar the quartiles, the stroke
    the median. Node 2 is left out, since it has no edges to choose from.
    """
    require_epochs(searches)
    rows: dict[str, list[float]] = {f"operation in top {k}": [] for k in TOPS}
    rows["both edges of a node"] = []
    for search in searches:
        edges, nodes = emergence.edge_emergence(search), emergence.node_emergence(search)
        found = [[edge.top[k] for edge in edges] for k in TOPS]
        found.append([node.pair for node in nodes if len(edges_into(node.node)) > EDGES_PER_NODE])
        for row, emerged in zip(rows.values(), found, strict=True):
            row += [each.epoch(moment) - search.settings.schedule.warmup_epochs for each in emerged]
    return _strips(2.6, rows, searches)


def difficulty_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return when every edge's final operation became the most important one (paper, Fig. 7)."""
    require_epochs(searches)
    found = [emergence.edge_emergence(search) for search in searches]
    warmups = [search.settings.schedule.warmup_epochs for search in searches]
    ranked = emergence.edge_difficulty(found).items()
    rows = {_edge_label(edge): np.subtract(epochs, warmups).tolist() for edge, epochs in ranked}
    return _strips(4.6, rows, searches)


def pruning_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return how many operations are left and how many edges decided, after every epoch's prune."""
    require_epochs(searches)
    figure, (above, below) = panels(3.6, "operations left", "edges decided")
    left = [emergence.operations_left(search.trajectory, search.events) for search in searches]
    _draw_curves(above, searches, [counts.sum(axis=1) for counts in left], steps=True)
    _draw_curves(below, searches, [emergence.edges_decided(counts) for counts in left], steps=True)
    above.set(ylim=(0, 1.04 * len(EDGES) * len(OPERATIONS)), yticks=(14, 42, 70, 98))
    below.set(ylim=(-0.4, 1.04 * len(EDGES)), yticks=(0, 7, 14))
    _finish_timeline(figure, [above, below], searches)
    return figure


def entropy_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return the entropy of p in nats, of every edge and their mean; before the epoch's prune.

    Of several searches each edge's mean, in which an edge of one that has ended stays as it is, or
    at zero where it was decided.
    """
    require_epochs(searches)
    figure, (axes,) = panels(2.8, "entropy of p in nats")
    grid = _grid(searches)
    held = np.ma.masked_invalid([_held_entropy(search, grid) for search in searches])
    edges = np.ma.mean(held, axis=0).T
    _draw_thin(axes, [(grid, edge) for edge in edges], "edges")
    _draw_thick(axes, grid, edges.mean(axis=0), label="mean of edges")
    axes.set_ylim(-0.03, 1.04 * math.log(len(OPERATIONS)))
    _finish_timeline(figure, [axes], searches)
    return figure


def operations_figure(genotypes: Sequence[Genotype]) -> Figure:
    """Return how often cells chose each operation; the line is what equal chances would give."""
    if not genotypes:
        raise ValueError("a figure of chosen operations needs at least one cell; got none")
    histogram = similarity.operation_histogram(genotypes)
    counts, total = list(histogram.values()), sum(histogram.values())
    figure, (axes,) = panels(2.5)
    names = [operation_label(operation) for operation in histogram]
    axes.barh(names, counts, color=list(OPERATION_COLOURS.values()), height=0.7)
    for row, count in enumerate(counts):
        text = f"{count} ({count / total:.1%})"
        axes.text(1.04 * max(counts), row, text, color=INK, size=LABEL_SIZE, va="center")
    equal = total / len(OPERATIONS)
    axes.axvline(equal, color=INK, lw=1, ls=(0, (4, 3)), label="if all were equally likely")
    axes.set(ylim=(len(OPERATIONS) - 0.4, -0.6), xlim=(0, 1.3 * max(counts)), xticks=())
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["bottom"].set_visible(False)
    figure.legend(loc="outside upper center", **LEGEND)
    return figure


def _finish_timeline(
    figure: Figure, drawn: Sequence[Axes], searches: Sequence[SearchRecord]
) -> None:
    """Add grid, the end of the warm-up and the legend to axes over epochs."""
    ends = {search.settings.schedule.warmup_epochs for search in searches} - {0}
    for axes in drawn:
        axes.grid(axis="y", color=MUTED, alpha=0.25, lw=0.6)
        axes.tick_params(axis="y", length=0)
        for number, epoch in enumerate(sorted(ends)):
            label = "" if number else "end of warm-up"
            axes.axvline(epoch, color=MUTED, lw=1, ls=":", label=label)
    drawn[-1].set_xlabel("epoch", color=MUTED, size=LABEL_SIZE)
    drawn[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), **LEGEND)


def _edge_label(edge: Edge) -> str:
    return f"v{edge.source} \N{RIGHTWARDS ARROW} v{edge.target}"


def _grid(searches: Sequence[SearchRecord]) -> Int[np.ndarray, " epochs"]:
    """Return all epochs from the first to the last of any search."""
    epochs = np.concatenate([search.trajectory.epoch for search in searches])
    return np.arange(epochs.min(), epochs.max() + 1)


def _held(
    search: SearchRecord, values: Num[np.ndarray, "epochs ..."], grid: Int[np.ndarray, " grid"]
) -> Float[np.ndarray, "grid ..."]:
    """Return a search's values on the grid: the last stays if it has ended, else NaN follows."""
    epochs = search.trajectory.epoch
    held = values[np.maximum(np.searchsorted(epochs, grid, side="right") - 1, 0)].astype(float)
    if search.genotype is None:
        held[grid > epochs[-1]] = np.nan
    return held


def _held_entropy(
    search: SearchRecord, grid: Int[np.ndarray, " grid"]
) -> Float[np.ndarray, "grid edges"]:
    held = _held(search, emergence.entropy(emergence.shares(search.trajectory)), grid)
    decided = emergence.remaining(search.trajectory, search.events)[-1].sum(axis=1) == 1
    later = grid > search.trajectory.epoch[-1]
    return np.where(later[:, None] & decided & ~np.isnan(held), 0.0, held)


def _draw_curves(
    axes: Axes,
    searches: Sequence[SearchRecord],
    curves: Sequence[Num[np.ndarray, " _"]],
    steps: bool = False,
) -> None:
    """Draw a line per search and their median; of one search just its line."""
    grid, pairs = _grid(searches), list(zip(searches, curves, strict=True))
    held = np.ma.masked_invalid([_held(search, curve, grid) for search, curve in pairs])
    lines = [(grid, np.ma.filled(np.ma.median(held, axis=0), np.nan))]
    lines += [(search.trajectory.epoch, curve) for search, curve in pairs]
    if steps:
        lines = [(np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]) for x, y in lines]
    several = len(searches) > 1
    if several:
        _draw_thin(axes, lines[1:], "searches")
    _draw_thick(axes, *lines[0], label="median" if several else None)


def _draw_thin(axes: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]], label: str) -> None:
    points = [np.column_stack(line) for line in lines]
    alpha = 0.9 if len(lines) <= MANY else 0.5
    collection = LineCollection(points, colors=LINES, lw=0.9, alpha=alpha, label=label)
    collection.set_rasterized(sum(map(len, points)) > 4000)
    axes.add_collection(collection, autolim=True)


def _draw_thick(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None) -> None:
    """Draw a line, or its one point."""
    axes.plot(x, y, color=INK, lw=2, marker="o" if len(x) == 1 else "", ms=4, label=label)


def _strips(
    height: float, rows: Mapping[str, Sequence[float]], searches: Sequence[SearchRecord]
) -> Figure:
    """Return epochs after the warm-up as rows of dots, quartiles, median; count the infinite."""
    figure, (axes,) = panels(height)
    for y, found in enumerate(rows.values()):
        epochs = np.array([epoch for epoch in found if math.isfinite(epoch)])
        heights = np.full(len(epochs), float(y))
        if len(found) > 1:
            heights += 0.5 * (_GOLDEN * np.arange(1, len(epochs) + 1) % 1 - 0.5)
        dots = axes.scatter(epochs, heights, s=10, color=DOTS, lw=0, alpha=0.8)
        dots.set(zorder=3, rasterized=len(epochs) > 100)
        if len(epochs) > 1:
            low, middle, high = np.percentile(epochs, [25, 50, 75])
            axes.plot([low, high], [y, y], color=LINES, lw=9, alpha=0.5, solid_capstyle="butt")
            axes.plot([middle, middle], [y - 0.38, y + 0.38], color=INK, lw=1.6, zorder=4)
        if len(epochs) < len(found):
            text, place = f"not in {len(found) - len(epochs)} of {len(found)}", (1, y)
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
            style: dict[str, Any] = {
                "ha": "right",
                "va": "center",
                "color": MUTED,
                "size": SMALL_LABEL,
            }
            axes.annotate(text, place, place, ("axes fraction", "data"), bbox=ground, **style)
    lasted = [int(s.trajectory.epoch[-1]) - s.settings.schedule.warmup_epochs for s in searches]
    end = max(2, *lasted)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= end]
    axes.set(xscale="log", ylim=(len(rows) - 0.4, -0.6), xlim=(0.9, 1.15 * end))
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks((), minor=True)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x", color=MUTED, alpha=0.25, lw=0.6)
    axes.set_xlabel("epochs after the warm-up", color=MUTED, size=LABEL_SIZE)
    return figure


def _outcome(search: SearchRecord, index: int) -> str:
    """Return an edge's final operation, in brackets where others are left; none in the warm-up."""
    if search.trajectory.epoch[-1] <= search.settings.schedule.warmup_epochs:
        return ""
    name = operation_label(OPERATIONS[emergence.final_operations(search)[index]])
    left = emergence.remaining(search.trajectory, search.events)[-1, index].sum()
    found = search.genotype is not None and EDGES[index] in search.genotype.operations
    return name if found or left == 1 else f"({name})"


def _draw_shares(
    axes: Axes, search: SearchRecord, share: Float[np.ndarray, "epochs operations"], edge: Edge
) -> None:
    """Draw an edge's shares as an image of one column per epoch, and a cross for every prune."""
    bare_axes(axes)
    epochs = search.trajectory.epoch
    start, end = epochs[0] - 1, epochs[-1]
    how: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    axes.imshow(_share_image(share), extent=(start, end, 0, 1), **how)
    middles = np.cumsum(share, axis=1) - share / 2
    for event in search.events:
        if (event.source, event.target) == edge and event.epoch <= end:
            row, column = np.searchsorted(epochs, event.epoch), OPERATIONS.index(event.operation)
            axes.plot(
                event.epoch, middles[row, column], "x", color=INK, clip_on=False, ms=3.5, mew=1
            )
    axes.set(xlim=(start, end), ylim=(0, 1), yticks=(), xticks=(start, end))
    axes.tick_params(length=0, pad=2)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _share_image(
    share: Float[np.ndarray, "epochs operations"], rows: int = 120
) -> Float[np.ndarray, "rows epochs rgb"]:
    """Return the stacked shares as colours, the first operation at the bottom."""
    levels = (np.arange(rows) + 0.5) / rows
    passed = levels[:, None, None] > np.cumsum(share, axis=1)
    operations = np.minimum(passed.sum(axis=-1), len(OPERATIONS) - 1)
    return np.array([to_rgb(OPERATION_COLOURS[name]) for name in OPERATIONS])[operations]
