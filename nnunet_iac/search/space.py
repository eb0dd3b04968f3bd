"""The search space: six nodes, fourteen edges, seven operations (paper)."""

from typing import NamedTuple

INPUT_NODES = (0, 1)
"""Node 0 is the encoder's skip tensor, node 1 the upsampled decoder tensor."""

INTERMEDIATE_NODES = (2, 3, 4, 5)

EDGES_PER_NODE = 2
"""Incoming edges every intermediate node keeps in a genotype."""


class Edge(NamedTuple):
    """A directed edge of the cell, from node `source` to node `target`."""

    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.source}->{self.target}"

    @property
    def name(self) -> str:
        """The edge as state-dict keys spell it, for example `0_2`."""
        return f"{self.source}_{self.target}"


EDGES = tuple(Edge(source, target) for target in INTERMEDIATE_NODES for source in range(target))
"""All 14 edges, sorted by (target, source); this order indexes every array in this package."""

OPERATIONS = (
    "identity",
    "max_pool_3x3",
    "avg_pool_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""All seven candidate operations; in 3-D the kernels are cubes of the same side length.

Along an axis where the plans' own kernels are one voxel wide, they are so as well.
"""

IDENTITY = OPERATIONS.index("identity")
PARAMETER_FREE = OPERATIONS[:3]
"""The operations without weights, to which differentiable searches are known to collapse."""


def edges_into(node: int) -> tuple[int, ...]:
    """Return the indices into `EDGES` of the edges that end in `node`, by ascending source."""
    return tuple(index for index, edge in enumerate(EDGES) if edge.target == node)
