"""From the relaxed cell to a genotype."""

from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.pruning import best_operations
from nnunet_iac.search.relaxation import edge_weights
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    edges_into,
)


def discretise(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    settings: Settings,
) -> Genotype:
    """Return the genotype: per edge the best active operation, per node its two heaviest edges.

    Edges are ranked by Psi, ties by the weight before the cap, then by the order of `EDGES`.
    """
    operations = best_operations(alpha, beta, active, settings).tolist()
    transform = (settings.edge_transform, settings.tan_clamp)
    capped = edge_weights(beta, *transform).tolist()
    uncapped = edge_weights(beta, *transform, capped=False).tolist()
    choices = []
    for node in INTERMEDIATE_NODES:
        ranked = sorted(edges_into(node), key=lambda e: (-capped[e], -uncapped[e], e))
        choices += [Choice(EDGES[e], OPERATIONS[operations[e]]) for e in ranked[:EDGES_PER_NODE]]
    return Genotype(tuple(choices))
