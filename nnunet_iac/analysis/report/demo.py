"""The page of the demo: one file that needs no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.overlays import PREDICTION, TRUTH, data_uri, overlays
from nnunet_iac.analysis.report.page import environment, inline_figure, inline_svg
from nnunet_iac.analysis.trajectories.emergence import shares, survivors
from nnunet_iac.analysis.trajectories.figures import draw_prunes
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, cell_svg, operation_label
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER
from nnunet_iac.drawing.panels import LEGEND, panels
from nnunet_iac.runs.atomic import write_text
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge, edges_into

NETWORKS = {"reference": "backbone", "continued": "continued", "iac": "retrofit"}
"""The three compared networks: their keys in the summary and their names on the page."""

DOT_PLOT_TITLE = "Dice of every test case by network"
TEMPLATE = "demo_report.html.j2"
Case = Mapping[str, Any]


def write_demo_report(demo: Path, summary: Mapping[str, Any]) -> Path:
    """Write `demo/report/index.html` of the content of its `summary.json`, and return its path."""
    page, template = demo / "report" / "index.html", environment().get_template(TEMPLATE)
    write_text(page, template.render(_content(demo, summary)))
    return page


def verdict(summary: Mapping[str, Any]) -> str:
    """Return the result of the demo in one sentence; the numbers add up as printed."""
    dice = {method: round(summary[f"{method}_dice"], 4) for method in NETWORKS}
    epochs = summary["epochs"]["continued"]
    return (
        f"On {len(summary['per_case'])} test cases the retrofit has a mean Dice of "
        f"{dice['iac']:.4f}: {_compared(dice['iac'] - dice['reference'])} its backbone "
        f"({dice['reference']:.4f}), and {_compared(dice['iac'] - dice['continued'])} the "
        f"continued backbone ({dice['continued']:.4f}), which was trained for the same {epochs} "
        "extra epochs."
    )


def shown_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return the cases to show: the largest loss, the middle, and the largest gain by the cells."""
    ranked = sorted(cases, key=_gain)
    return tuple(ranked[i] for i in sorted({0, len(ranked) // 2, len(ranked) - 1}))


def _content(demo: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    run = RunFolder(demo / summary["run_folder"])
    genotype = Genotype.from_document(summary["genotype"])
    backbone = run.read_backbone()
    cases = sorted(summary["per_case"], key=lambda case: case["case"])
    mean = {"case": "mean", **{method: summary[f"{method}_dice"] for method in NETWORKS}}
    return {
        "summary": summary,
        "verdict": verdict(summary),
        "methods": NETWORKS,
        "gains": [_gain(case) for case in cases],
        "rows": [{**row, "gain": _gain(row)} for row in (mean, *cases)],
        "dots": inline_figure(_dot_plot([mean, *cases]), "dots", DOT_PLOT_TITLE),
        "genotype": str(genotype),
        "cell": inline_svg(cell_svg(genotype, run.read_settings().cell.output_nodes), "cell"),
        "nodes": _trajectory_panels(run, genotype),
        "health": run.read_health(),
        "operations": {operation_label(o): OPERATION_COLOURS[o] for o in OPERATIONS},
        "backbone": backbone,
        "unchanged": backbone.unchanged and summary["backbone_unchanged"],
        "overlays": [_overlay(demo, summary, case) for case in shown_cases(cases)],
        "truth": TRUTH,
        "prediction": PREDICTION,
    }


def _compared(difference: float) -> str:
    if abs(difference) < 5e-5:
        return "equal to"
    return f"{abs(difference):.4f} {'higher' if difference > 0 else 'lower'} than"


def _gain(case: Case) -> float:
    """Return the change of Dice by the cells, as the difference of the printed numbers."""
    return round(case["iac"], 4) - round(case["reference"], 4)


def _dot_plot(rows: Sequence[Case]) -> Figure:
    """Return the figure of all Dice values, row by row; the first row is the mean."""
    figure, (axes,) = panels(0.8 + 0.32 * len(rows), width=4.8)
    for y, row in enumerate(rows):
        values = [row[method] for method in NETWORKS]
        axes.plot([min(values), max(values)], [y, y], color=MUTED, lw=1, alpha=0.6, zorder=1)
    marks = (("o", PAPER), ("s", MUTED), ("D", PREDICTION))
    for (method, name), (marker, face) in zip(NETWORKS.items(), marks, strict=True):
        values = [row[method] for row in rows]
        axes.plot(values, range(len(rows)), marker, ms=7, mfc=face, mec=INK, mew=1.1, label=name)
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows], color=INK)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.axhline(0.5, color=MUTED, lw=0.8)
    axes.set_xlabel("Dice", color=MUTED, size=9)
    figure.legend(loc="outside upper center", ncols=3, **LEGEND)
    return figure


def _trajectory_panels(run: RunFolder, genotype: Genotype) -> dict[int, list[dict[str, Any]]]:
    """Return the panels of all edges by the node they enter."""
    trajectory, events = run.read_trajectory(), run.read_events()
    share = shares(trajectory)

    def panel(index: int) -> dict[str, Any]:
        edge, left = EDGES[index], survivors(events, index)
        decided = len(left) == 1
        found = operation_label(left[0]) if decided else f"{len(left)} operations left"
        figure = _share_plot(trajectory.epoch, share[:, index], edge, events)
        title = f"v{edge.source} to v{edge.target}: {found}"
        colour = OPERATION_COLOURS[left[0]] if decided else "none"
        svg, kept = inline_figure(figure, f"edge{edge.name}", title), edge in genotype.operations
        return {"source": edge.source, "found": found, "colour": colour, "kept": kept, "svg": svg}

    return {node: [panel(index) for index in edges_into(node)] for node in INTERMEDIATE_NODES}


def _share_plot(
    epochs: Int[np.ndarray, " epochs"],
    share: Float[np.ndarray, "epochs operations"],
    edge: Edge,
    events: Sequence[PruningEvent],
) -> Figure:
    """Return one edge: its operations' shares stacked, with a cross where one is pruned."""
    figure, (axes,) = panels(1.3, width=2.4)
    ends = np.concatenate([epochs[:1] - 1, epochs])
    held = share[[0, *range(len(share))]]  # Each row holds for the epoch before it.
    upper = np.cumsum(held, axis=1)
    for column, operation in enumerate(OPERATIONS):
        high, alive = upper[:, column], held[:, column] > 0
        how: dict[str, Any] = {"step": "pre", "fc": OPERATION_COLOURS[operation], "ec": PAPER}
        axes.fill_between(ends, high - held[:, column], high, where=alive, lw=0.5, **how)
    draw_prunes(axes, events, edge, epochs, share, ms=4.5, mew=1.2)
    limits = (ends[0], ends[-1])
    axes.set(xlim=limits, ylim=(0, 1), yticks=[], xticks=limits)
    axes.set_xlabel("epoch", color=MUTED, size=9, labelpad=-9)
    return figure


def _overlay(demo: Path, summary: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Return the fullest slice of a case with two predictions."""
    name = case["case"]
    index, pictures = overlays(
        demo / summary["images"] / f"{name}_0000.nii.gz",
        demo / summary["labels"] / f"{name}.nii.gz",
        {m: demo / summary["predictions"][m] / f"{name}.nii.gz" for m in ("reference", "iac")},
    )
    uris = {method: data_uri(picture) for method, picture in pictures.items()}
    return {"case": case, "gain": _gain(case), "slice": index, "pictures": uris}
