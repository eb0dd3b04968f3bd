"""Controls of searched cells: cells that no search found, and other modules."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import EDGES_PER_NODE, INTERMEDIATE_NODES, OPERATIONS, Edge

OF_SKIP = {
    "attention": "attention gates",
    "nested": "nested skips",
    "residual-attention": "residual attention",
}
"""Names of retrofits in records, by the setting `skip`."""

CellKind = Literal["path", "random", "identity", "convolution"]

OF_KIND: dict[CellKind, str] = {
    "random": "random cell",
    "identity": "identity cell",
    "convolution": "convolution",
}
"""Names of runs without a search in records, by the meaning of the setting `genotype`."""

OF_TRAINED_PART = {
    "network": "continued",
    "decoder": "continued decoder",
    "norms": "continued norms",
}
"""Names of the continued backbone in records, by the setting `trainable_part`."""

OF_RETENTION = {
    "none": "",
    "l2-sp": " with L2-SP",
    "ewc": " with EWC",
    "lwf": " with LwF",
    "rehearsal": " with rehearsal",
}
"""Endings of the names of controls in records, by the setting `retention`."""

_WITH_ARGUMENT = re.compile(r"(conv|random)(?::(.*))?", re.DOTALL)
_SEED = re.compile(r"\d{1,20}")


@dataclass(frozen=True)
class CellSource:
    """The source of the cells of a run without a search.

    Args:
        kind: a file, a draw, the identity everywhere, or no cell but a convolution.
        path: of the file, or of the cell whose number of parameters a convolution is to have; None
            for that of the average random cell.
        seed: of the draw.
    """

    kind: CellKind
    path: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, genotype: str) -> "CellSource":
        """Return what the setting `genotype` means, or raise a `ValueError`."""
        if genotype == "identity":
            return cls("identity")
        found: Any = _WITH_ARGUMENT.fullmatch(genotype)
        if found is None:
            return cls("path", genotype)
        kind, argument = found.groups()
        if genotype == "conv:":
            raise ValueError(
                f"setting 'genotype' must be conv:PATH of a cell, or plain conv; got {genotype!r}"
            )
        if kind == "conv":
            return cls("convolution", argument)
        if not _SEED.fullmatch(argument or "") or int(argument) >= 2**64:
            raise ValueError(
                f"setting 'genotype' must be {kind}:SEED with an integer from 0 to 2^64 - 1; got "
                f"{genotype!r}"
            )
        return cls(kind, seed=int(argument))

    def moved(self, path: str) -> str:
        """Return the setting with another path in it."""
        return f"conv:{path}" if self.kind == "convolution" else path


def random_genotypes(seed: int) -> Iterator[Genotype]:
    """Yield cells drawn uniformly from all valid ones, endlessly.

    Every intermediate node gets two of its possible edges and each of them one of the seven
    operations, all equally likely (the baseline of Li and Talwalkar 2019).
    """
    generator = random.Random(seed)
    while True:
        yield Genotype(
            tuple(
                Choice(Edge(source, node), generator.choice(OPERATIONS))
                for node in INTERMEDIATE_NODES
                for source in sorted(generator.sample(range(node), EDGES_PER_NODE))
            )
        )


def random_genotype(seed: int) -> Genotype:
    """Return the first of `random_genotypes`."""
    return next(random_genotypes(seed))


def identity_genotype() -> Genotype:
    """Return the cell whose nodes all add up the skip and the upsampled tensor.

    It is not the identity skip: its projections, norms and output convolution learn.
    """
    return uniform_genotype("identity")


def uniform_genotype(operation: str) -> Genotype:
    """Return the cell with one operation on the edges from both inputs to every node."""
    edges = (Edge(i, node) for node in INTERMEDIATE_NODES for i in range(EDGES_PER_NODE))
    return Genotype(tuple(Choice(edge, operation) for edge in edges))
