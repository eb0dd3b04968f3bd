"""The supernet as a drawing that a page lets its reader move through the epochs of a search.

The drawing has the layout of the found cell (`drawing.cell_picture`): a row per node, a column per
intermediate node, and in the column a lane for every edge that enters it. The page's script
`explorer.js` fills it from what `search_frames` returns.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.trajectories.emergence import final_operations, remaining, shares
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, operation_label
from nnunet_iac.search.relaxation import edge_weights
from nnunet_iac.search.space import EDGES, INPUT_NODES, INTERMEDIATE_NODES, OPERATIONS, edges_into

LANE, GAP, START, TOP, INPUT_ROW, ROW = 50, 28, 118, 30, 46, 98
CHIP = (36, 46)


@dataclass(frozen=True)
class Lane:
    """Place of an edge of `EDGES`: from its source's row through a chip to its sum."""

    index: int
    x: float
    source_y: float
    chip_y: float
    end: tuple[float, float]

    @property
    def name(self) -> str:
        """The edge for people."""
        edge = EDGES[self.index]
        return f"v{edge.source} to v{edge.target}"


@dataclass(frozen=True)
class Drawing:
    """All places of the drawing, in pixels from the upper left."""

    lanes: tuple[Lane, ...]
    nodes: dict[int, tuple[float, float]]
    rows: dict[int, tuple[float, float]]
    width: float
    height: float
    chip: tuple[int, int] = CHIP


def drawing() -> Drawing:
    """Return where everything stands; the same for every search."""
    nodes = {node: (float(START), float(TOP + INPUT_ROW * node)) for node in INPUT_NODES}
    lanes: dict[int, Lane] = {}
    left = float(START + 24)
    for node in INTERMEDIATE_NODES:
        edges = sorted(edges_into(node), key=lambda e: -EDGES[e].source)
        y = TOP + INPUT_ROW + ROW * (node - 1.0)
        middle = left + LANE * len(edges) / 2
        nodes[node] = (middle, y)
        for place, index in enumerate(edges):
            x = left + LANE * (place + 0.5)
            end = (middle + (x - middle) * 0.12, y - 13)
            lanes[index] = Lane(index, x, nodes[EDGES[index].source][1], y - 78, end)
        left += LANE * len(edges) + GAP
    leaving = {n: [x.x for x in lanes.values() if EDGES[x.index].source == n] for n in nodes}
    rows = {node: (nodes[node][0], max(xs)) for node, xs in leaving.items() if xs}
    height = nodes[INTERMEDIATE_NODES[-1]][1] + 28
    return Drawing(tuple(lanes[i] for i in range(len(EDGES))), nodes, rows, left - GAP + 8, height)


def search_frames(run: Run) -> dict[str, Any]:
    """Return what the script needs of one search: bytes in base64, epochs after their prune.

    Of shares and edge weights 0 is pruned, 1 to 255 a share of up to one.
    """
    trajectory = run.trajectory
    left = remaining(trajectory, run.events)
    share = np.where(left, np.maximum(np.rint(255 * shares(trajectory)), 1), 0)
    transform = (run.settings.cell.edge_transform, run.settings.cell.tan_clamp)
    psi = [edge_weights(torch.from_numpy(beta), *transform).numpy() for beta in trajectory.beta]
    return {
        "epochs": len(trajectory.epoch),
        "warmup": run.settings.schedule.warmup_epochs,
        "shares": _bytes(share),
        "psi": _bytes(np.rint(255 * np.reshape(psi, (-1, len(EDGES))))),
        "prunes": [
            [EDGES.index((e.source, e.target)), e.epoch, OPERATIONS.index(e.operation)]
            for e in run.events
        ],
        "kept": run.genotype and run.genotype.to_codes(),
        "final": run.genotype and final_operations(run).tolist(),
    }


def page_content(named: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """Return drawing, operations and searches for the template, of the runs that have epochs."""
    return {
        "drawing": drawing(),
        "operations": [
            {"name": operation_label(o), "colour": OPERATION_COLOURS[o], "short": _short(o)}
            for o in OPERATIONS
        ],
        "searches": [
            {"name": name, **search_frames(run)} for name, run in named if run.trajectory.epoch.size
        ],
    }


def _short(operation: str) -> list[str]:
    """Return two lines that fit a chip."""
    words = operation_label(operation).split(" ")
    return [words[0], words[-1]] if len(words) > 1 else ["id", ""]


def _bytes(values: Float[np.ndarray, "..."]) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()
