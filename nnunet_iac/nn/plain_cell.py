"""The search cell written edge by edge: the reference for `search_cell`, and its baseline in time.

Both hold the same modules under the same names.
"""

from functools import reduce
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from nnunet_iac.nn.cell import Image, Node
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge


class PlainSearchCell(SearchCell):
    """v_j = sum_i Psi_ij f_ij(v_i); f mixes the operations on the first C/K channels."""

    def forward(
        self,
        skip: Image,
        up: Image,
        phi: Float[Tensor, "edges operations"],
        psi: Float[Tensor, " edges"],
    ) -> Image:
        """Return the skip tensor's replacement."""
        nodes = self.inputs(skip, up)
        for node in INTERMEDIATE_NODES:
            terms = (
                psi[index] * self._mixed_edge(edge, nodes[edge.source], phi[index])
                for index, edge in enumerate(EDGES)
                if edge.target == node
            )
            nodes.append(reduce(add, terms))
        return self.joined(nodes)

    def _mixed_edge(self, edge: Edge, x: Node, phi: Float[Tensor, " operations"]) -> Node:
        first, rest = x[:, : self.width], x[:, self.width :]
        terms = (
            phi[OPERATIONS.index(name)] * operation(first)
            for name, operation in self.operations(edge).items()
        )
        mixed = torch.cat((reduce(add, terms), rest), dim=1)
        return channel_shuffle(mixed, self.shape.partial_channels)


def channel_shuffle(x: Node, groups: int) -> Node:
    """Return `x` with its channels interleaved over `groups` (ShuffleNet, Zhang et al. 2018)."""
    batch, channels, *spatial = x.shape
    grouped = x.view(batch, groups, channels // groups, *spatial)
    return grouped.transpose(1, 2).reshape(x.shape)
