"""From the relaxed cell to a genotype."""

import torch
from jaxtyping import Int
from torch import Tensor

from nnunet_iac.search.budget import within_budget
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.pruning import best_operations, last_largest
from nnunet_iac.search.relaxation import Active, PerEdge, PerOperation, edge_weights
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    IDENTITY,
    INTERMEDIATE_NODES,
    OPERATIONS,
    edges_into,
)


def discretise(
    alpha: PerOperation,
    beta: PerEdge,
    active: Active,
    cell: CellConfig = CellConfig(),
    costs: CellCosts | None = None,
) -> Genotype:
    """Return the genotype: per edge the best active operation, per node its two heaviest edges.

    Edges are ranked by Psi, ties by the weight before the cap, then by the order of `EDGES`.
    Where more than `max_identity` of the eight then carry the identity, those of least Psi take
    another operation instead, of equal ones the later edge first. That is our decision against
    the collapse to identities; the paper has no such cap.

    Args:
        alpha: of the search's end.
        beta: of the search's end.
        active: the operations that are left.
        cell: weights of edges and operations, and the limits.
        costs: what decides whether that genotype is within the limits; if not, the
            genotype is `within_budget`'s. Without costs it is what the search wants.

    Raises:
        ValueError: no cell is within the budget.
    """
    operations = best_operations(alpha, beta, active, cell).tolist()
    transform = (cell.edge_transform, cell.tan_clamp)
    capped = edge_weights(beta, *transform).tolist()
    uncapped = edge_weights(beta, *transform, capped=False).tolist()
    kept = []
    for node in INTERMEDIATE_NODES:
        ranked = sorted(edges_into(node), key=lambda e: (-capped[e], -uncapped[e], e))
        kept += ranked[:EDGES_PER_NODE]
    if cell.max_identity is not None:
        others = _best_but_identity(alpha, beta, active, cell).tolist()
        identities = (e for e in kept if operations[e] == IDENTITY)
        for e in sorted(identities, key=lambda e: (-capped[e], e))[cell.max_identity :]:
            operations[e] = others[e]
    wanted = Genotype(tuple(Choice(EDGES[e], OPERATIONS[operations[e]]) for e in kept))
    if costs is None:
        return wanted
    return within_budget(wanted, alpha, beta, active, cell, costs).genotype


def _best_but_identity(
    alpha: PerOperation, beta: PerEdge, active: Active, cell: CellConfig
) -> Int[Tensor, " edges"]:
    """Return the index of each edge's best other active operation.

    Where pruning left only the identity: that of the largest alpha, which pruned operations keep.
    """
    is_identity = torch.arange(len(OPERATIONS)) == IDENTITY
    others = active & ~is_identity
    best = best_operations(alpha, beta, others, cell)
    return torch.where(
        others.any(dim=1), best, last_largest(alpha.masked_fill(is_identity, -torch.inf))
    )
