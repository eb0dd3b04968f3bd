"""Epochs at which the final choices of a search first led (paper, section 4)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import entr

from nnunet_iac.analysis.trajectories.similarity import genotype_mask, genotype_masks, top_masks
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import PruningEvent, best_operations
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge, edges_into

TOPS = (3, 2, 1)
"""The ranks up to which the paper follows an edge's final operation (Fig. 6)."""

Moment = Literal["first", "since"]
"""The epoch in which something was first there, or that since which it stayed."""


class SearchRecord(Protocol):
    """The record of a search, complete or not."""

    @property
    def trajectory(self) -> Trajectory:
        """All epochs so far."""

    @property
    def settings(self) -> Settings:
        """The settings of the run."""

    @property
    def events(self) -> Sequence[PruningEvent]:
        """All prunes so far; none in a full search."""

    @property
    def genotype(self) -> Genotype | None:
        """The found cell, once there is one."""


@dataclass(frozen=True)
class Emergence:
    """Completed epochs when something was first there, and since when to the end; or None."""

    first: int | None
    since: int | None

    @classmethod
    def of(
        cls, present: Bool[np.ndarray, " epochs"], epochs: Int[np.ndarray, " epochs"]
    ) -> "Emergence":
        """Return when something emerged that was present in some of the epochs."""
        absent = np.flatnonzero(~present)
        lasting = epochs[absent[-1] + 1 if len(absent) else 0 :]
        first, since = (next(iter(found.tolist()), None) for found in (epochs[present], lasting))
        return cls(first, since)

    def epoch(self, moment: Moment) -> float:
        """Return one of the two; infinite instead of None."""
        epoch = self.first if moment == "first" else self.since
        return math.inf if epoch is None else float(epoch)


@dataclass(frozen=True)
class EdgeEmergence:
    """When the final operation of an edge came to be among its k most important ones, by k."""

    edge: Edge
    operation: str
    top: Mapping[int, Emergence]


@dataclass(frozen=True)
class NodeEmergence:
    """When the two edges that a node keeps came to be the two that `discretise` would keep."""

    node: int
    edges: tuple[Edge, ...]
    pair: Emergence


def require_epochs(searches: Sequence[SearchRecord]) -> None:
    """Check that there is a search, and that each has an epoch."""
    lengths = [len(search.trajectory.epoch) for search in searches]
    if not lengths or min(lengths) == 0:
        first = lengths.index(0) + 1 if lengths else 0
        found = f"number {first} of {len(lengths)} has none" if lengths else "got none"
        raise ValueError(
            f"a figure of searches needs at least one, each with an epoch or more; {found}: leave "
            "out a run that searches nothing, and wait for the first epoch of the others"
        )


def edge_emergence(search: SearchRecord) -> tuple[EdgeEmergence, ...]:
    """Return for every edge of `EDGES` when its final operation emerged (paper, Fig. 6 and 7).

    Only epochs after the warm-up count; before, all operations are equal. An edge that has lost
    all but k operations has all of them among its k most important.
    """
    searching = _searching(search)
    epochs = search.trajectory.epoch[searching]
    masks = {k: top_masks(search.trajectory, k, search.settings.cell)[searching] for k in TOPS}
    return tuple(
        EdgeEmergence(
            edge=EDGES[index],
            operation=OPERATIONS[operation],
            top={k: Emergence.of(mask[:, index, operation], epochs) for k, mask in masks.items()},
        )
        for index, operation in enumerate(final_operations(search).tolist())
    )


def node_emergence(search: SearchRecord) -> tuple[NodeEmergence, ...]:
    """Return when every node's final two edges by Psi emerged after the warm-up (paper, Fig. 6)."""
    searching = _searching(search)
    epochs = search.trajectory.epoch[searching]
    masks = genotype_masks(search.trajectory, search.settings.cell)[searching]
    kept, final = np.any(masks, axis=2), np.any(genotype_mask(final_genotype(search)), axis=1)
    found = []
    for node in INTERMEDIATE_NODES:
        into = list(edges_into(node))
        edges = tuple(EDGES[index] for index in into if final[index])
        same = (kept[:, into] == final[into]).all(axis=1)
        found.append(NodeEmergence(node, edges, Emergence.of(same, epochs)))
    return tuple(found)


def final_genotype(search: SearchRecord) -> Genotype:
    """Return the found cell; of an unfinished search, the cell of its last epoch."""
    return search.genotype or discretise(*_last(search), search.settings.cell)


def final_operations(search: SearchRecord) -> Int[np.ndarray, " edges"]:
    """Return the index of every edge's final operation.

    The found cell's on the edges it keeps. On the others, the only one that the last prune left,
    or, where several are left, the most important one in the last epoch.
    """
    best = best_operations(*_last(search), search.settings.cell).numpy()
    kept = genotype_mask(final_genotype(search))
    return np.where(kept.any(axis=1), kept.argmax(axis=1), best)


def edge_difficulty(
    searches: Sequence[Sequence[EdgeEmergence]],
) -> dict[Edge, tuple[float, ...]]:
    """Return when the final operation of every edge became the most important one (paper, Fig. 7).

    In completed epochs, one per result of `edge_emergence`; infinite where that never happened.
    The hardest edge comes first: that of the latest median epoch, then of the latest epoch in any
    search, then the first of `EDGES`.
    """
    if not searches:
        raise ValueError("the difficulty of edges needs at least one search; got none")
    edges = {
        found[0].edge: tuple(each.top[1].epoch("first") for each in found)
        for found in zip(*searches, strict=True)
    }
    return dict(sorted(edges.items(), key=lambda edge: (-median(edge[1]), -max(edge[1]))))


def remaining(
    trajectory: Trajectory, events: Sequence[PruningEvent]
) -> Bool[np.ndarray, "epochs edges operations"]:
    """Return the operations left after every epoch's prune; `Trajectory.active` is before it."""
    left = trajectory.active.copy()
    for event in events:
        edge, operation = EDGES.index(event.edge), event.operation
        left[trajectory.epoch >= event.epoch, edge, OPERATIONS.index(operation)] = False
    return left


def operations_left(
    trajectory: Trajectory, events: Sequence[PruningEvent]
) -> Int[np.ndarray, "epochs edges"]:
    """Return how many operations every edge has left after every epoch's prune, 7 to 1."""
    return remaining(trajectory, events).sum(axis=-1)


def edges_decided(left: Int[np.ndarray, "epochs edges"]) -> Int[np.ndarray, " epochs"]:
    """Return how many edges have one operation left, of `operations_left`."""
    return (left == 1).sum(axis=-1)


def shares(trajectory: Trajectory) -> Float[np.ndarray, "epochs edges operations"]:
    """Return p = Theta / sum Theta of every edge; negative importance counts as none.

    Where no operation has positive importance, the active ones share alike.
    """
    positive = np.where(trajectory.active, np.maximum(trajectory.importance, 0.0), 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    alike = trajectory.active / trajectory.active.sum(axis=-1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1.0), alike)


def entropy(p: Float[np.ndarray, "*edges operations"]) -> Float[np.ndarray, "*edges"]:
    """Return H(p) = -sum p ln p in nats, with 0 ln 0 = 0: from 0 (decided) to ln 7 (uniform)."""
    return entr(p).sum(axis=-1)


def _searching(search: SearchRecord) -> Bool[np.ndarray, " epochs"]:
    """Return which epochs come after the warm-up."""
    return search.trajectory.epoch > search.settings.schedule.warmup_epochs


def _last(search: SearchRecord) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return alpha, beta and the mask after the last prune."""
    trajectory = search.trajectory
    if not len(trajectory.epoch):
        raise ValueError(
            "a search must have completed an epoch for its choices to emerge; this trajectory has "
            "0 epochs: wait for the first one, or leave out a run that searches nothing"
        )
    arrays = (trajectory.alpha, trajectory.beta, remaining(trajectory, search.events))
    alpha, beta, active = (torch.from_numpy(array[-1]) for array in arrays)
    return alpha, beta, active
