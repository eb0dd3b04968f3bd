"""How much found cells have in common, beside what chance alone would give them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Float

from nnunet_iac.analysis.trajectories.similarity import genotype_mask
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    edges_into,
)

KEPT = EDGES_PER_NODE * len(INTERMEDIATE_NODES)
"""Choices of a cell."""

Part = Literal["choices", "edges"]
"""What cells may have in common: an edge with its operation, or a kept edge whatever it carries."""


@dataclass(frozen=True)
class Agreement:
    """How much cells agree, in shares of their eight choices.

    Args:
        mean: over all pairs of cells.
        expected: of cells drawn at random.
        deviation: standard deviation of the mean of as many random cells.
        pairs: of cells.
    """

    mean: float
    expected: float
    deviation: float
    pairs: int


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


def mean_agreement(genotypes: Sequence[Genotype], part: Part = "choices") -> Agreement:
    """Return the mean of `pairwise_agreement` over all pairs, beside that of random cells.

    Pairs of random cells are uncorrelated even where they share a cell, since any cell agrees
    with a random one to the same expected degree; so the variance of the mean is `chance`'s
    divided by the number of pairs.

    Raises:
        ValueError: fewer than two cells.
    """
    if len(genotypes) < 2:
        raise ValueError(f"agreement needs at least two cells to compare; got {len(genotypes)}")
    values = pairwise_agreement(genotypes, part)[np.triu_indices(len(genotypes), k=1)]
    expected, variance = chance(part)
    deviation = math.sqrt(variance / len(values))
    return Agreement(float(values.mean()), float(expected), deviation, len(values))


def chance(part: Part = "choices") -> tuple[Fraction, Fraction]:
    """Return the mean and the variance of the agreement of two cells drawn uniformly at random.

    Each node with n incoming edges keeps k = 2 of them, each with any of the seven operations. So
    the number X of edges that two cells share there is hypergeometric, with mean k k / n and
    variance (k k / n) (1 - k/n) (n - k) / (n - 1); and each shared edge has the same operation
    with q = 1/7, so that of X edges Y ~ Binomial(X, q) choices agree, with mean q E[X] and variance
    q^2 Var[X] + q (1 - q) E[X]. Nodes are independent. For edges alone q = 1. The sums over nodes,
    divided by the eight choices and by their square: 77/120 of the edges, 11/120 of the choices.

    Cells that merely prefer the same operations everywhere agree more than this, too.
    """
    q = Fraction(1, len(OPERATIONS)) if part == "choices" else Fraction(1)
    mean = variance = Fraction(0)
    for node in INTERMEDIATE_NODES:
        k, n = EDGES_PER_NODE, len(edges_into(node))
        shared = Fraction(k * k, n)
        spread = shared * Fraction(n - k, n) * Fraction(n - k, n - 1)
        mean += q * shared
        variance += q * q * spread + q * (1 - q) * shared
    return mean / KEPT, variance / KEPT**2
