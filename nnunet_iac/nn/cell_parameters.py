"""How many parameters a cell has, without allocating them."""

from statistics import fmean

import torch

from nnunet_iac.nn.cell import CellShape, DiscreteCell
from nnunet_iac.nn.layers import Layers
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import EDGES_PER_NODE, INTERMEDIATE_NODES, OPERATIONS, Edge


def cell_parameters(shape: CellShape, layers: Layers, genotype: Genotype) -> int:
    """Return the number of parameters of the discrete cell of a genotype."""
    with torch.device("meta"):
        cell = DiscreteCell(shape, layers, genotype)
    return sum(parameter.numel() for parameter in cell.parameters())


def mean_parameters(shape: CellShape, layers: Layers) -> int:
    """Return the expected number of parameters of a discrete cell drawn uniformly, rounded.

    Every operation is equally likely on every kept edge, and what an edge adds does not depend on
    which edge it is: so this is the mean over the cells that have one operation on all edges.
    """
    counts = (cell_parameters(shape, layers, _uniform(operation)) for operation in OPERATIONS)
    return round(fmean(counts))


def _uniform(operation: str) -> Genotype:
    """Return a genotype with the same operation on all its edges."""
    return Genotype(
        tuple(
            Choice(Edge(source, node), operation)
            for node in INTERMEDIATE_NODES
            for source in range(EDGES_PER_NODE)
        )
    )
