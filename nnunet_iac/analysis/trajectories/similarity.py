"""Similarity of the cells of a search's epochs (paper, section 4), and of several searches."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from nnunet_iac.runs.records import Trajectory
from nnunet_iac.search import space
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.relaxation import pruning_score
from nnunet_iac.search.setting_parts import CellConfig, SearchSchedule
from nnunet_iac.search.space import EDGES, OPERATIONS

REPORTED_EPOCHS = (15, 16, 20, 40, 80, 100, 150, 200)
"""The epochs whose cells the paper compares; 15 ends its warm-up, 16 is the first to search."""

KEPT = space.EDGES_PER_NODE * len(space.INTERMEDIATE_NODES)
"""Choices of a cell."""

Part = Literal["choices", "edges"]
"""Parts that cells can share: edges with their operation, or kept edges with any operation."""


def reported_epochs(trajectory: Trajectory, schedule: SearchSchedule) -> tuple[int, ...]:
    """Return those of `REPORTED_EPOCHS` that a trajectory has, and its last; none of an empty one.

    With another warm-up its last epoch and the one after it stand for 15 and 16. Epochs inside
    the warm-up are left out, since only the cell's weights change there.
    """
    warmup = schedule.warmup_epochs
    reported = {warmup, warmup + 1, *(epoch for epoch in REPORTED_EPOCHS[2:] if epoch > warmup)}
    present = trajectory.epoch.tolist()
    return tuple(sorted(reported.intersection(present).union(present[-1:])))


def continuous_vectors(trajectory: Trajectory) -> Float[np.ndarray, "epochs choices"]:
    """Return Theta of every epoch as one vector over the 98 pairs of edge and operation.

    The paper's continuous genotype (section 4); pruned operations are zero.
    """
    return trajectory.importance.reshape(len(trajectory.epoch), len(EDGES) * len(OPERATIONS))


def cosine_similarity(
    vectors: Float[np.ndarray, "vectors entries"],
) -> Float[np.ndarray, "vectors vectors"]:
    """Return the cosine of the angle between every two vectors, in [-1, 1].

    NaN wherever one of the two is all zeros, which has no direction. Raw importances are all
    zeros in the warm-up; those of `softmax` never are.
    """
    # Divided by the largest entry first, so that no square overflows or vanishes.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(vectors, largest, out=np.full_like(vectors, np.nan), where=largest > 0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def convergence(vectors: Float[np.ndarray, "vectors entries"]) -> Float[np.ndarray, " vectors"]:
    """Return the cosine of every vector to the last one (paper, Fig. 5); none of no vectors."""
    return cosine_similarity(vectors)[:, -1:].ravel()


def top_masks(
    trajectory: Trajectory, k: int, cell: CellConfig
) -> Bool[np.ndarray, "epochs edges operations"]:
    """Return which operations are the `k` most important active ones of their edge (section 4).

    All that are left where these are fewer. Ties go to the operation that stands last in
    `OPERATIONS`, as in `search.pruning.last_largest`, so that top-1 is what `discretise` takes;
    in the warm-up, where all are equal, the masks therefore show only this order.
    """
    shape = trajectory.active.shape
    flat = (trajectory.alpha, trajectory.beta[..., None], trajectory.active)
    alpha, beta, active = (torch.from_numpy(a.reshape(-1, a.shape[-1])) for a in flat)
    score = pruning_score(alpha, beta[:, 0], active, cell).masked_fill(~active, -torch.inf)
    # Backwards, so that the stable sort meets the last of equals first.
    order = len(OPERATIONS) - 1 - np.argsort(-score.numpy()[:, ::-1], axis=1, kind="stable")
    masks = np.zeros(order.shape, np.bool_)
    np.put_along_axis(masks, order[:, :k], True, axis=1)
    return masks.reshape(shape) & trajectory.active


def genotype_mask(genotype: Genotype) -> Bool[np.ndarray, "edges operations"]:
    """Return which operation sits on which edge of a found cell; an edge not kept has none."""
    return np.array(genotype.to_codes())[:, None] == np.arange(len(OPERATIONS))


def genotype_masks(
    trajectory: Trajectory, cell: CellConfig
) -> Bool[np.ndarray, "epochs edges operations"]:
    """Return the cell that every epoch would have become, as `genotype_mask`.

    Discretised before the epoch's prune, which never takes the best operation of an edge.
    """
    arrays = (trajectory.alpha, trajectory.beta, trajectory.active)
    masks = [
        genotype_mask(discretise(alpha, beta, active, cell))
        for alpha, beta, active in zip(*map(torch.from_numpy, arrays), strict=True)
    ]
    return np.array(masks, np.bool_).reshape(trajectory.active.shape)


def hamming_similarity(
    masks: Bool[np.ndarray, "masks edges operations"],
) -> Float[np.ndarray, "masks masks"]:
    """Return the share of equal entries of every two masks, in [0, 1] (paper, section 4).

    Two masks with one of seven operations per edge share at least 5/7 of their entries, since
    they agree on most of the zeros.
    """
    flat = masks.reshape(len(masks), math.prod(masks.shape[1:]))
    return (flat[:, None] == flat[None]).mean(axis=-1)


def operation_histogram(genotypes: Sequence[Genotype]) -> dict[str, int]:
    """Return how often each operation was chosen (method, section 8), in `OPERATIONS`' order."""
    names = [choice.operation for genotype in genotypes for choice in genotype.choices]
    return {operation: names.count(operation) for operation in OPERATIONS}


def pairwise_agreement(
    genotypes: Sequence[Genotype], part: Part = "choices"
) -> Float[np.ndarray, "cells cells"]:
    """Return the share of their eight choices that every two cells have in common, in [0, 1]."""
    masks = np.array([genotype_mask(genotype) for genotype in genotypes], np.float64)
    masks = masks.reshape(len(genotypes), len(EDGES), len(OPERATIONS))
    whole = (len(genotypes), len(EDGES) * len(OPERATIONS))
    flat = masks.sum(axis=-1) if part == "edges" else masks.reshape(whole)
    return flat @ flat.T / KEPT


def mean_agreement(genotypes: Sequence[Genotype]) -> float:
    """Return the mean of `pairwise_agreement` over all pairs of two or more cells."""
    if len(genotypes) < 2:
        raise ValueError(f"agreement needs at least two cells to compare; got {len(genotypes)}")
    values = pairwise_agreement(genotypes)[np.triu_indices(len(genotypes), k=1)]
    return float(values.mean())


def chance(part: Part = "choices") -> Fraction:
    """Return the expected agreement of two cells drawn uniformly at random.

    Each node with n incoming edges keeps k = 2 of them, each with any of the seven operations. So
    two cells share k k / n edges there on average, and a shared edge has the same operation with
    q = 1/7; for edges alone q = 1. The sums over nodes, divided by the eight choices: 77/120 of
    the edges, 11/120 of the choices.

    Cells that merely prefer the same operations everywhere agree more than this, too.
    """
    q = Fraction(1, len(OPERATIONS)) if part == "choices" else Fraction(1)
    incoming = [len(space.edges_into(node)) for node in space.INTERMEDIATE_NODES]
    return sum((q * Fraction(space.EDGES_PER_NODE**2, n) for n in incoming), Fraction(0)) / KEPT
