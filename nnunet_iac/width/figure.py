"""The figure of a choice: sensitivity over width with its spread, and what the seeds picked."""

from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nnunet_iac.drawing.figure_files import INK, MUTED, plain_axes, write_figure
from nnunet_iac.drawing.panels import AXIS_NAME, LABEL_SIZE, LEGEND, empty_figure
from nnunet_iac.width.study import WidthChoice

SEED_COLOUR, SPREAD_COLOUR, PICK_COLOUR = "#56b4e9", "#0072b2", "#d55e00"
"""Single seeds, their spread, and the pick (Okabe and Ito)."""


def width_figure(study: WidthChoice) -> Figure:
    """Return S over the caps on logarithmic axes, and the number of seeds that picked each cap.

    Of `dispersion`, with this seed left out; the title counts where there was nothing to pick.

    A thin line is a seed; the thick one is their geometric mean, and the band one standard
    deviation of ln S to either side. Grey are the caps that the rule could not pick.
    """
    figure = empty_figure(4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    caps = [candidate.cap for candidate in study.candidates]
    places = np.arange(len(caps))[::-1]
    largest, smallest = study.consensus.together.range
    for axes in (above, below):
        plain_axes(axes, LABEL_SIZE)
        for place, cap in zip(places, caps, strict=True):
            if not smallest <= cap <= largest:
                axes.axvspan(place - 0.5, place + 0.5, color=MUTED, alpha=0.12, lw=0)
    above.axvline(places[caps.index(study.pick)], color=PICK_COLOUR, lw=1.2, label="pick")
    lines = [np.column_stack((places, seed)) for seed in study.scores]
    above.add_collection(
        LineCollection(lines, colors=SEED_COLOUR, lw=0.8, alpha=0.8, label="seeds")
    )
    if len(study.seeds) > 1:
        band = [np.exp(study.mean + sign * study.spread) for sign in (-1, 1)]
        above.fill_between(places, *band, color=SPREAD_COLOUR, alpha=0.25, lw=0, label="spread")
    above.plot(places, np.exp(study.mean), color=INK, lw=2, label="mean")
    above.set(yscale="log", xlim=(-0.5, len(caps) - 0.5))
    above.set_title("sensitivity S at initialisation", **AXIS_NAME)
    counts = [study.consensus.picks.count(cap) for cap in caps]
    colours = [PICK_COLOUR if cap == study.pick else SEED_COLOUR for cap in caps]
    below.bar(places, counts, width=0.6, color=colours, zorder=2)
    for place, count in zip(places, counts, strict=True):
        if count:
            below.text(
                place, count, str(count), color=INK, size=LABEL_SIZE, ha="center", va="bottom"
            )
    below.set(ylim=(0, 1.35 * max(1, *counts)), yticks=())
    title = "seeds that picked it"
    if study.consensus.together.rule == "dispersion":
        none = study.consensus.picks.count(None)
        title = f"picks with one seed left out{f' (none: {none})' if none else ''}"
    below.set_title(title, **AXIS_NAME)
    below.set_xticks(places, map(str, caps))
    below.set_xlabel("cap on the channels per stage", color=MUTED, size=LABEL_SIZE)
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), **LEGEND)
    return figure


def draw_width(study: WidthChoice, path: Path) -> None:
    """Draw `width_figure` into a PNG file, replaced atomically."""
    write_figure(width_figure(study), path)
