"""The continuous relaxation of the cell: weights of operations and edges, and importance."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.space import INTERMEDIATE_NODES, edges_into

Matrix = Float[Tensor, "edges operations"]
PerEdge = Float[Tensor, " edges"]
Active = Bool[Tensor, "edges operations"]

CAP = 0.5
"""The largest weight one edge may have among those into its node (paper)."""


def operation_weights(alpha: Matrix, active: Active) -> Matrix:
    """Return phi, the softmax of `alpha` over an edge's active operations (DARTS, Liu et al. 2019).

    A pruned operation weighs exactly zero; the only active one of an edge weighs exactly one.
    """
    return torch.softmax(alpha.masked_fill(~active, -torch.inf), dim=1)


def transformed(beta: PerEdge, transform: str, tan_clamp: float) -> PerEdge:
    """Return t(beta), the logits of the edge weights: `tanh`, or `tan` as printed.

    tan has a pole at pi/2, which beta can reach, so it is clamped to +-`tan_clamp` before.
    """
    return torch.tanh(beta) if transform == "tanh" else torch.tan(beta.clamp(-tan_clamp, tan_clamp))


def capped_softmax(logits: Float[Tensor, " incoming"]) -> Float[Tensor, " incoming"]:
    """Return the softmax of `logits` with the largest weight limited to `CAP`.

    The others are scaled to sum to the rest, which is continuous where the largest is `CAP`. Their
    shares come from the logits, so that they stay defined where the softmax of all underflows.
    With two edges the result is (0.5, 0.5) with a gradient of exactly zero: the softmax of one
    logit has none.
    """
    is_largest = torch.arange(len(logits), device=logits.device) == torch.argmax(logits)
    others = torch.softmax(logits.masked_fill(is_largest, -torch.inf), dim=0)
    capped = ((1 - CAP) * others).masked_fill(is_largest, CAP)
    if len(logits) == 2:
        return capped
    weights = torch.softmax(logits, dim=0)
    return torch.where(weights.max() > CAP, capped, weights)


def edge_weights(
    beta: PerEdge, transform: str = "tanh", tan_clamp: float = 1.5, capped: bool = True
) -> PerEdge:
    """Return Psi, the softmax of t(beta) over the edges into each node, capped at 0.5 (paper)."""
    logits = transformed(beta, transform, tan_clamp)
    # Indexed by a list, a GPU would wait for the list's copy.
    per_node = logits.split([len(edges_into(node)) for node in INTERMEDIATE_NODES])
    return torch.cat([capped_softmax(x) if capped else torch.softmax(x, dim=0) for x in per_node])


EPSILON = 1e-12
"""The epsilon of Algorithm 1 that keeps a quotient of importances defined."""


def importance(alpha: Matrix, beta: PerEdge, active: Active, cell: CellConfig) -> Matrix:
    """Return Theta, the importance of every operation; zero where pruned.

    `softmax`: Theta = phi Psi. `raw` and `raw-strict`: Theta = alpha beta, as printed (paper,
    Algorithm 1), which is negative for the best operation of an edge with negative beta.
    """
    if cell.importance == "softmax":
        weights = edge_weights(beta, cell.edge_transform, cell.tan_clamp)
        return operation_weights(alpha, active) * weights[:, None]
    return torch.where(active, alpha * beta[:, None], 0.0)


def distribution(alpha: Matrix, beta: PerEdge, active: Active, cell: CellConfig) -> Matrix:
    """Return p, each edge's importance as a distribution over its active operations.

    `softmax`: p = Theta / sum Theta = phi; Psi cancels, so it is left out and beta cannot reach
    the decision by rounding. `raw`: p = max(Theta, 0) + epsilon, renormalised; uniform if nothing
    is positive. `raw-strict`: p = Theta / (sum Theta + epsilon) as printed; NaN on an edge where
    that is no distribution.
    """
    if cell.importance == "softmax":
        return operation_weights(alpha, active)
    theta = importance(alpha, beta, active, cell)
    if cell.importance == "raw":
        positive = torch.where(active, theta.clamp(min=0.0) + EPSILON, 0.0)
        return positive / positive.sum(dim=1, keepdim=True)
    printed = theta / (theta.sum(dim=1, keepdim=True) + EPSILON)
    is_distribution = (printed >= 0).all(dim=1) & (printed.sum(dim=1) > 0.5)
    return torch.where(is_distribution[:, None], printed, torch.nan)


def pruning_score(alpha: Matrix, beta: PerEdge, active: Active, cell: CellConfig) -> Matrix:
    """Return what orders the operations of an edge for pruning: the least goes first.

    phi in `softmax` mode, the signed Theta in the raw modes; +inf where already pruned.
    """
    if cell.importance == "softmax":
        score = operation_weights(alpha, active)
    else:
        score = importance(alpha, beta, active, cell)
    return score.masked_fill(~active, torch.inf)
