"""Figures of what epochs and cells have in common: a matrix with a number for every two."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from nnunet_iac.analysis.trajectories import similarity
from nnunet_iac.analysis.trajectories.emergence import TOPS, SearchRecord, require_epochs
from nnunet_iac.drawing.figure_files import MUTED
from nnunet_iac.drawing.panels import AXIS_NAME, LABEL_SIZE, SMALL_LABEL, bare_axes, empty_figure
from nnunet_iac.search.genotype import Genotype

ON_DARK, ON_LIGHT = "#fefefe", "#010101"
"""Numbers on coloured cells, which keep their colour; so not `PAPER` and `INK`."""

SIMILARITY_COLOURS = colormaps["cividis"]
"""Sequential, and the same for every kind of colour vision (Nunez et al. 2018)."""

MANY = 15
"""Up to so many cells of a matrix are named and numbered, and so many lines drawn strongly."""


def similarity_figure(searches: Sequence[SearchRecord]) -> Figure:
    """Return how alike the cells of the reported epochs are (paper, Fig. 4).

    Cosine of Theta, and Hamming similarity of the masks of an edge's best operations; of several
    searches the mean over the epochs that all have, their last epochs called `end`.
    """
    require_epochs(searches)
    labels, rows = _common_epochs(searches)
    pairs = list(zip(searches, rows, strict=True))
    vectors = [similarity.continuous_vectors(search.trajectory)[at] for search, at in pairs]
    cosine = np.mean([similarity.cosine_similarity(vector) for vector in vectors], axis=0)
    panels = {"cosine of \N{GREEK CAPITAL LETTER THETA}": cosine}
    for k in sorted(TOPS):
        masks = [
            similarity.top_masks(search.trajectory, k, search.settings.cell)[at]
            for search, at in pairs
        ]
        panels[f"Hamming, top {k}"] = np.mean(
            [similarity.hamming_similarity(m) for m in masks], axis=0
        )
    lowest = min(np.nanmin(matrix, initial=0.9) for matrix in panels.values())
    figure = empty_figure(5.1)
    for axes, (name, matrix) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        _draw_matrix(axes, matrix, math.floor(10 * lowest) / 10)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(name, **AXIS_NAME)
    return figure


def agreement_figure(genotypes: Sequence[Genotype], names: Sequence[str]) -> Figure:
    """Return what every two named cells have in common: choices above, kept edges below."""
    if not genotypes or len(names) != len(genotypes):
        raise ValueError(
            "a figure of agreement needs cells and a name for each; got "
            f"{len(genotypes)} cells and {len(names)} names"
        )
    figure = empty_figure(6.4)
    parts: dict[similarity.Part, str] = {"choices": "same operation and edge", "edges": "same edge"}
    for axes, (part, title) in zip(figure.subplots(2, 1), parts.items(), strict=True):
        image = _draw_matrix(axes, similarity.pairwise_agreement(genotypes, part), 0.0)
        numbers = range(len(names))
        if len(names) > MANY:
            numbers = range(4, len(names), 5)
            axes.set_yticks(numbers, [str(number + 1) for number in numbers])
            # The key to the colours is in the half of the matrix that is left empty.
            bar = figure.colorbar(image, cax=axes.inset_axes((0.8, 0.55, 0.05, 0.4)))
            bar.set_ticks((0, 0.5, 1))
            bar.ax.tick_params(colors=MUTED, labelsize=LABEL_SIZE)
            bar.outline.set_visible(False)
        else:
            axes.set_yticks(numbers, [f"{name} ({i})" for i, name in enumerate(names, start=1)])
        axes.set_xticks(numbers, [str(number + 1) for number in numbers])
        axes.set_title(f"{title} ({float(similarity.chance(part)):.2f} by chance)", **AXIS_NAME)
    return figure


def _draw_matrix(axes: Axes, matrix: Float[np.ndarray, "rows rows"], lowest: float) -> AxesImage:
    """Draw the lower half of a symmetric matrix of at most one, with its numbers if they fit."""
    bare_axes(axes)
    axes.tick_params(length=0)
    above = ~np.tri(len(matrix), dtype=np.bool_)
    shown = np.ma.masked_where(above | np.isnan(matrix), matrix)
    image = axes.imshow(shown, SIMILARITY_COLOURS, vmin=lowest, vmax=1.0, interpolation="nearest")
    for row, column in np.argwhere(~above) if len(matrix) <= MANY else ():
        value = matrix[row, column]
        light = (value - lowest) / (1 - lowest) > 0.5
        colour = MUTED if np.isnan(value) else ON_LIGHT if light else ON_DARK
        where: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        axes.text(column, row, _short(value), color=colour, size=SMALL_LABEL, **where)
    return image


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
    reported = [
        similarity.reported_epochs(search.trajectory, search.settings.schedule)
        for search in searches
    ]
    ends = {epochs[-1] for epochs in reported}
    common = sorted(set.intersection(*map(set, reported)) - ends)
    labels = [*map(str, common), str(*ends) if len(ends) == 1 else "end"]
    rows = [
        np.searchsorted(search.trajectory.epoch, [*common, epochs[-1]])
        for search, epochs in zip(searches, reported, strict=True)
    ]
    return labels, rows
