"""The importance of every operation, and the distribution over an edge that pruning looks at."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.setting_parts import CellConfig

EPSILON = 1e-12
"""The epsilon of Algorithm 1 that keeps a quotient of importances defined."""


def importance(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    cell: CellConfig = CellConfig(),
) -> Float[Tensor, "edges operations"]:
    """Return Theta, the importance of every operation; zero where pruned.

    `softmax`: Theta = phi Psi. `raw` and `raw-strict`: Theta = alpha beta, as printed (paper,
    Algorithm 1), which is negative for the best operation of an edge with negative beta.
    """
    if cell.importance == "softmax":
        weights = edge_weights(beta, cell.edge_transform, cell.tan_clamp)
        return operation_weights(alpha, active) * weights[:, None]
    return torch.where(active, alpha * beta[:, None], 0.0)


def distribution(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    cell: CellConfig = CellConfig(),
) -> Float[Tensor, "edges operations"]:
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


def pruning_score(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    cell: CellConfig = CellConfig(),
) -> Float[Tensor, "edges operations"]:
    """Return what orders the operations of an edge for pruning: the least goes first.

    phi in `softmax` mode, the signed Theta in the raw modes; +inf where already pruned.
    """
    if cell.importance == "softmax":
        score = operation_weights(alpha, active)
    else:
        score = importance(alpha, beta, active, cell)
    return score.masked_fill(~active, torch.inf)
