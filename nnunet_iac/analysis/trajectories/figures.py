"""Figures of searches: how their cells converge, what they choose, how much they agree.

Text is `INK` or `MUTED` on `PAPER`, so that a page can put its own colours in their place. What
would take thousands of paths is an image inside the figure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nnunet_iac.analysis.trajectories.agreement import (
    Part,
    chance,
    operation_histogram,
    pairwise_agreement,
)
from nnunet_iac.analysis.trajectories.emergence import (
    TOPS,
    Moment,
    SearchRecord,
    edge_difficulty,
    edge_emergence,
    edges_decided,
    entropy,
    final_genotype,
    final_operations,
    node_emergence,
    operations_left,
    remaining,
    shares,
)
from nnunet_iac.analysis.trajectories.similarity import (
    continuous_vectors,
    convergence,
    cosine_similarity,
    hamming_similarity,
    reported_epochs,
    top_masks,
)
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, operation_label
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    Edge,
    edges_into,
)

WIDTH = 4.6
"""Inches of every figure: few, so that its text stays legible where the page is narrow."""

LINES, DOTS = "#56b4e9", "#d55e00"
"""Single searches or edges (Okabe and Ito); what sums them up is drawn in `INK`."""

ON_DARK, ON_LIGHT = "#fefefe", "#010101"
"""Numbers on coloured cells, which keep their colour; so not `PAPER` and `INK`."""

SIMILARITY_COLOURS = colormaps["cividis"]
"""Sequential, and the same for every kind of colour vision (Nunez et al. 2018)."""

MANY = 15
"""Up to so many cells of a matrix are named and numbered, and so many lines drawn strongly."""

_SIZE, _SMALL = 9, 8
_DOTS_PER_INCH = 200
_GOLDEN = (math.sqrt(5) - 1) / 2


def similarity_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return how alike the cells of the reported epochs are (paper, Fig. 4).

    Cosine similarity of Theta, and Hamming similarity of the masks of the one, two and three most
    important operations per edge. Of several searches the mean, over the epochs that all of them
    have; their last epochs differ, so they are called `end`. All panels share one colour scale. A
    dash is a cosine that is not defined.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    labels, rows = _common_epochs(searches)
    pairs = list(zip(searches, rows, strict=True))
    vectors = [continuous_vectors(search.trajectory)[at] for search, at in pairs]
    cosine = np.mean([cosine_similarity(vector) for vector in vectors], axis=0)
    panels = {"cosine of \N{GREEK CAPITAL LETTER THETA}": cosine}
    for k in sorted(TOPS):
        masks = [top_masks(search.trajectory, k, search.settings)[at] for search, at in pairs]
        panels[f"Hamming, top {k}"] = np.mean([hamming_similarity(m) for m in masks], axis=0)
    lowest = min(np.nanmin(matrix, initial=0.9) for matrix in panels.values())
    figure = _figure(5.1)
    for axes, (name, matrix) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        _draw_matrix(axes, matrix, math.floor(10 * lowest) / 10)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(name, **_AXIS_NAME)
    return figure


def convergence_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return the cosine of every epoch's Theta to the last one's (paper, Fig. 5).

    Of several searches a thin line each, and their median, in which one that has ended stays at
    one.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    figure, (axes,) = _panels(1, 2.6)
    curves = [convergence(continuous_vectors(search.trajectory)) for search in searches]
    _draw_curves(axes, searches, curves)
    axes.set_ylim(top=1.03)
    axes.set_title("cosine to the last \N{GREEK CAPITAL LETTER THETA}", **_AXIS_NAME)
    _finish_timeline(figure, [axes], searches)
    return figure


def importance_figure(search: SearchRecord) -> Figure:
    """Return the share p of every operation on every edge over time (paper, Fig. 3).

    A panel per edge: a column for the node it enters, a row for the node it leaves. Its name is
    bold if the cell keeps it, and below stands its final operation, in brackets where it merely
    leads. In the warm-up none leads.

    Raises:
        ValueError: no epochs.
    """
    _require_epochs([search])
    figure = _figure(1.45 * WIDTH)
    sources = range(INTERMEDIATE_NODES[-1])
    grid = figure.add_gridspec(len(sources), len(INTERMEDIATE_NODES))
    share, kept = shares(search.trajectory), final_genotype(search).operations
    for index, edge in enumerate(EDGES):
        axes = figure.add_subplot(grid[edge.source, edge.target - INTERMEDIATE_NODES[0]])
        _draw_shares(axes, search, share[:, index], edge)
        outcome = _outcome(search, index)
        axes.set_title(_edge_label(edge), color=INK, size=_SIZE, pad=12)
        axes.title.set_fontweight("bold" if outcome and edge in kept else "normal")
        place = (0.5, 1), (0, 3), "axes fraction", "offset points"
        axes.annotate(outcome, *place, ha="center", size=_SMALL, color=MUTED)
        if edge.source < edge.target - 1:
            axes.tick_params(labelbottom=False)
    key = figure.add_subplot(grid[3:, :2])
    key.axis("off")
    handles: list[Patch | Line2D] = [
        Patch(color=OPERATION_COLOURS[operation], label=operation_label(operation))
        for operation in OPERATIONS
    ]
    handles.append(Line2D([], [], color=INK, marker="x", ls="none", label="pruned"))
    key.legend(handles=handles, loc="lower left", **_LEGEND)
    return figure


def emergence_figure(searches: Sequence[SearchRecord], moment: Moment = "first") -> Figure:
    """Return when the final operations and the nodes' edges emerged (paper, Fig. 6).

    A dot is an edge, or in the last row a node, of one search; the bar spans the quartiles, the
    stroke is the median; epochs are counted after the warm-up, on a logarithmic axis. Node 2 is
    left out, since it has no edges to choose from.

    Args:
        searches: at least one.
        moment: the epoch in which something was first there, or that since which it stayed.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    rows: dict[str, list[float]] = {f"operation in top {k}": [] for k in TOPS}
    rows["both edges of a node"] = []
    for search in searches:
        edges, nodes = edge_emergence(search), node_emergence(search)
        found = [[edge.top[k] for edge in edges] for k in TOPS]
        found.append([node.pair for node in nodes if len(edges_into(node.node)) > EDGES_PER_NODE])
        for row, emerged in zip(rows.values(), found, strict=True):
            row += [each.epoch(moment) - search.settings.schedule.warmup_epochs for each in emerged]
    figure, (axes,) = _panels(1, 2.6)
    _draw_strips(axes, rows, searches)
    return figure


def difficulty_figure(searches: Sequence[SearchRecord], moment: Moment = "first") -> Figure:
    """Return when every edge's final operation became the most important one (paper, Fig. 7).

    The edges in `edge_difficulty`'s order, the hardest on top; a dot is a search, the bar spans
    the quartiles, the stroke is the median. The axis is that of `emergence_figure`.

    Args:
        searches: at least one.
        moment: as in `emergence_figure`.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    edges = edge_difficulty([edge_emergence(search) for search in searches], moment)
    warmups = [search.settings.schedule.warmup_epochs for search in searches]
    rows = {_edge_label(edge.edge): np.subtract(edge.epochs, warmups).tolist() for edge in edges}
    figure, (axes,) = _panels(1, 4.6)
    _draw_strips(axes, rows, searches)
    return figure


def pruning_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return how many operations are left and how many edges decided, after every epoch's prune.

    Of several searches a thin line each, and their median, in which one that has ended stays as it
    is.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    figure, (above, below) = _panels(2, 3.6)
    left = [operations_left(search.trajectory, search.events) for search in searches]
    _draw_curves(above, searches, [counts.sum(axis=1) for counts in left], steps=True)
    _draw_curves(below, searches, [edges_decided(counts) for counts in left], steps=True)
    above.set_title("operations left", **_AXIS_NAME)
    below.set_title("edges decided", **_AXIS_NAME)
    above.set(ylim=(0, 1.04 * len(EDGES) * len(OPERATIONS)), yticks=(14, 42, 70, 98))
    below.set(ylim=(-0.4, 1.04 * len(EDGES)), yticks=(0, 7, 14))
    _finish_timeline(figure, [above, below], searches)
    return figure


def entropy_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return the entropy of p in nats, of every edge and their mean; before the epoch's prune.

    Of several searches each edge's mean, in which an edge of one that has ended stays as it is, or
    at zero where it was decided.

    Raises:
        ValueError: no searches, or one without epochs.
    """
    _require_epochs(searches)
    figure, (axes,) = _panels(1, 2.8)
    grid = _grid(searches)
    held = np.ma.masked_invalid([_held_entropy(search, grid) for search in searches])
    edges = np.ma.mean(held, axis=0).T
    _draw_thin(axes, [(grid, edge) for edge in edges], "edges")
    _draw_thick(axes, grid, edges.mean(axis=0), label="mean of edges")
    axes.set_title("entropy of p in nats", **_AXIS_NAME)
    axes.set_ylim(-0.03, 1.04 * math.log(len(OPERATIONS)))
    _finish_timeline(figure, [axes], searches)
    return figure


def operations_figure(genotypes: Sequence[Genotype]) -> Figure:
    """Return how often cells chose each operation; the line is what equal chances would give.

    Raises:
        ValueError: no cells.
    """
    if not genotypes:
        raise ValueError("a figure of chosen operations needs at least one cell; got none")
    histogram = operation_histogram(genotypes)
    counts, total = list(histogram.values()), sum(histogram.values())
    figure, (axes,) = _panels(1, 2.5)
    names = [operation_label(operation) for operation in histogram]
    axes.barh(names, counts, color=list(OPERATION_COLOURS.values()), height=0.7)
    for row, count in enumerate(counts):
        text = f"{count} ({count / total:.1%})"
        axes.text(1.04 * max(counts), row, text, color=INK, size=_SIZE, va="center")
    equal = total / len(OPERATIONS)
    axes.axvline(equal, color=INK, lw=1, ls=(0, (4, 3)), label="if all were equally likely")
    axes.set(ylim=(len(OPERATIONS) - 0.4, -0.6), xlim=(0, 1.3 * max(counts)), xticks=())
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["bottom"].set_visible(False)
    figure.legend(loc="outside upper center", **_LEGEND)
    return figure


def agreement_figure(genotypes: Sequence[Genotype], names: Sequence[str]) -> Figure:
    """Return what every two cells have in common: choices above, kept edges below.

    In brackets stands the level of cells drawn at random. More than `MANY` cells are numbered from
    one, with a colour bar instead of their shares.

    Args:
        genotypes: the cells.
        names: one each.

    Raises:
        ValueError: no cells, or another number of names.
    """
    if not genotypes or len(names) != len(genotypes):
        raise ValueError(
            "a figure of agreement needs cells and a name for each; got "
            f"{len(genotypes)} cells and {len(names)} names"
        )
    figure = _figure(6.4)
    parts: dict[Part, str] = {"choices": "same operation and edge", "edges": "same edge"}
    for axes, (part, title) in zip(figure.subplots(2, 1), parts.items(), strict=True):
        image = _draw_matrix(axes, pairwise_agreement(genotypes, part), 0.0)
        numbers = range(len(names))
        if len(names) > MANY:
            numbers = range(4, len(names), 5)
            axes.set_yticks(numbers, [str(number + 1) for number in numbers])
            _draw_colour_bar(axes, image)
        else:
            axes.set_yticks(numbers, [f"{name} ({i})" for i, name in enumerate(names, start=1)])
        axes.set_xticks(numbers, [str(number + 1) for number in numbers])
        axes.set_title(f"{title} ({float(chance(part)[0]):.2f} by chance)", **_AXIS_NAME)
    return figure


# --- axes ------------------------------------------------------------------------------------

_AXIS_NAME: dict[str, Any] = {"loc": "left", "color": MUTED, "size": _SIZE}
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": _SIZE, "labelcolor": INK}


def _figure(height: float) -> Figure:
    return Figure(
        figsize=(WIDTH, height), dpi=_DOTS_PER_INCH, facecolor=PAPER, layout="constrained"
    )


def _panels(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, one below the other on the same epochs."""
    figure = _figure(height)
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False).flat)
    for axes in panels:
        _style(axes)
        axes.spines["bottom"].set_color(MUTED)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, panels


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=MUTED, labelsize=_SIZE)


def _finish_timeline(
    figure: Figure, panels: Sequence[Axes], searches: Sequence[SearchRecord]
) -> None:
    """Add grid, the end of the warm-up and the legend to axes over epochs."""
    for axes in panels:
        axes.grid(axis="y", color=MUTED, alpha=0.25, lw=0.6)
        axes.tick_params(axis="y", length=0)
        _mark_warmup(axes, searches)
    panels[-1].set_xlabel("epoch", color=MUTED, size=_SIZE)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), **_LEGEND)


def _mark_warmup(axes: Axes, searches: Sequence[SearchRecord]) -> None:
    ends = {search.settings.schedule.warmup_epochs for search in searches} - {0}
    for number, epoch in enumerate(sorted(ends)):
        label = "" if number else "end of warm-up"
        axes.axvline(epoch, color=MUTED, lw=1, ls=":", label=label)


def _edge_label(edge: Edge) -> str:
    return f"v{edge.source} \N{RIGHTWARDS ARROW} v{edge.target}"


def _require_epochs(searches: Sequence[SearchRecord]) -> None:
    lengths = [len(search.trajectory.epoch) for search in searches]
    if not lengths or min(lengths) == 0:
        found = (
            f"number {lengths.index(0) + 1} of {len(lengths)} has none" if lengths else "got none"
        )
        raise ValueError(
            f"a figure of searches needs at least one, each with an epoch or more; {found}: leave "
            "out a run that searches nothing, and wait for the first epoch of the others"
        )


# --- lines over epochs -----------------------------------------------------------------------


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
    held = _held(search, entropy(shares(search.trajectory)), grid)
    decided = remaining(search.trajectory, search.events)[-1].sum(axis=1) == 1
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


# --- strips of dots --------------------------------------------------------------------------


def _draw_strips(
    axes: Axes, rows: Mapping[str, Sequence[float]], searches: Sequence[SearchRecord]
) -> None:
    """Draw epochs after the warm-up as rows of dots, quartiles, median; count the infinite."""
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
            style: dict[str, Any] = {"ha": "right", "va": "center", "color": MUTED, "size": _SMALL}
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
    axes.set_xlabel("epochs after the warm-up", color=MUTED, size=_SIZE)


# --- matrices --------------------------------------------------------------------------------


def _draw_matrix(axes: Axes, matrix: Float[np.ndarray, "rows rows"], lowest: float) -> AxesImage:
    """Draw the lower half of a symmetric matrix of at most one, with its numbers if they fit."""
    _style(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    above = ~np.tri(len(matrix), dtype=np.bool_)
    shown = np.ma.masked_where(above | np.isnan(matrix), matrix)
    image = axes.imshow(shown, SIMILARITY_COLOURS, vmin=lowest, vmax=1.0, interpolation="nearest")
    for row, column in np.argwhere(~above) if len(matrix) <= MANY else ():
        value = matrix[row, column]
        light = (value - lowest) / (1 - lowest) > 0.5
        colour = MUTED if np.isnan(value) else ON_LIGHT if light else ON_DARK
        axes.text(
            column, row, _short(value), color=colour, size=_SMALL, ha="center", va="center_baseline"
        )
    return image


def _draw_colour_bar(axes: Axes, image: AxesImage) -> None:
    """Draw what the colours mean into the half of the matrix that is left empty."""
    bar = axes.figure.colorbar(
        image, cax=axes.inset_axes((0.8, 0.55, 0.05, 0.4)), ticks=(0, 0.5, 1)
    )
    bar.ax.tick_params(colors=MUTED, labelsize=_SIZE)
    bar.outline.set_visible(False)


def _short(share: float) -> str:
    """Return a number of at most one in two decimals without its zero: `.97`, `1`."""
    if np.isnan(share):
        return "\N{EN DASH}"
    text = f"{share:.2f}".replace("-", "\N{MINUS SIGN}")
    return "1" if text == "1.00" else text.replace("0.", ".")


def _common_epochs(
    searches: Sequence[SearchRecord],
) -> tuple[list[str], list[Int[np.ndarray, " reported"]]]:
    """Return the names of the epochs all searches report, and their rows in each trajectory."""
    reported = [reported_epochs(search.trajectory, search.settings) for search in searches]
    ends = {epochs[-1] for epochs in reported}
    common = sorted(set.intersection(*map(set, reported)) - ends)
    labels = [*map(str, common), str(*ends) if len(ends) == 1 else "end"]
    rows = [
        np.searchsorted(search.trajectory.epoch, [*common, epochs[-1]])
        for search, epochs in zip(searches, reported, strict=True)
    ]
    return labels, rows


# --- one search's edges ----------------------------------------------------------------------


def _outcome(search: SearchRecord, index: int) -> str:
    """Return an edge's final operation, in brackets where others are left; none in the warm-up."""
    if search.trajectory.epoch[-1] <= search.settings.schedule.warmup_epochs:
        return ""
    name = operation_label(OPERATIONS[final_operations(search)[index]])
    left = remaining(search.trajectory, search.events)[-1, index].sum()
    found = search.genotype is not None and EDGES[index] in search.genotype.operations
    return name if found or left == 1 else f"({name})"


def _draw_shares(
    axes: Axes, search: SearchRecord, share: Float[np.ndarray, "epochs operations"], edge: Edge
) -> None:
    """Draw an edge's shares as an image of one column per epoch, and a cross for every prune."""
    _style(axes)
    axes.spines[:].set_visible(False)
    epochs = search.trajectory.epoch
    start, end = epochs[0] - 1, epochs[-1]
    axes.imshow(
        _share_image(share), extent=(start, end, 0, 1), origin="lower", aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    middles = np.cumsum(share, axis=1) - share / 2
    for event in search.events:
        if (event.source, event.target) == edge and event.epoch <= end:
            row = np.searchsorted(epochs, event.epoch)
            middle = middles[row, OPERATIONS.index(event.operation)]
            axes.plot(event.epoch, middle, "x", color=INK, ms=3.5, mew=1, clip_on=False)
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
