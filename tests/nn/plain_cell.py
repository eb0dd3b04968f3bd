"""The search cell written edge by edge: the oracle of the fused one, and what it is timed against.

Both hold the same modules under the same names.
"""

from functools import reduce
from operator import add

import torch

from nnunet_iac.nn.cell import Cell
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS


class PlainSearchCell(SearchCell):
    """v_j = sum_i Psi_ij f_ij(v_i); f mixes the operations on the first C/K channels."""

    def forward(self, skip, up, phi, psi):
        nodes = [project(x) for project, x in zip(self.projections, (skip, up), strict=True)]
        for node in INTERMEDIATE_NODES:
            terms = (
                psi[index] * self._mixed_edge(edge, nodes[edge.source], phi[index])
                for index, edge in enumerate(EDGES)
                if edge.target == node
            )
            nodes.append(reduce(add, terms))
        return Cell.joined(self, nodes)

    def _mixed_edge(self, edge, x, phi):
        width = self.shape.channels // self.shape.partial_channels
        first, rest = x[:, :width], x[:, width:]
        terms = (
            phi[OPERATIONS.index(name)] * operation(first)
            for name, operation in self.operations(edge).items()
        )
        mixed = torch.cat((reduce(add, terms), rest), dim=1)
        return channel_shuffle(mixed, self.shape.partial_channels)


def channel_shuffle(x, groups):
    """Return `x` with its channels interleaved over `groups` (ShuffleNet, Zhang et al. 2018)."""
    batch, channels, *spatial = x.shape
    grouped = x.view(batch, groups, channels // groups, *spatial)
    return grouped.transpose(1, 2).reshape(x.shape)
