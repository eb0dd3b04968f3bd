"""The continuous relaxation of the cell: operation weights, edge weights and their cap."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.space import INTERMEDIATE_NODES, edges_into

CAP = 0.5
"""The largest weight one edge may have among those into its node (paper, section 2.2)."""


def operation_weights(
    alpha: Float[Tensor, "edges operations"], active: Bool[Tensor, "edges operations"]
) -> Float[Tensor, "edges operations"]:
    """Return phi, the softmax of `alpha` over each edge's active operations (paper, Eq. 1).

    A pruned operation weighs exactly zero; the only active one of an edge weighs exactly one.
    """
    return torch.softmax(alpha.masked_fill(~active, -torch.inf), dim=1)


def transformed(
    beta: Float[Tensor, " edges"], transform: str, tan_clamp: float
) -> Float[Tensor, " edges"]:
    """Return t(beta), the logits of the edge weights: `tanh`, or `tan` as printed.

    tan has a pole at pi/2, which beta can reach, so it is clamped to +-`tan_clamp` before.
    """
    return torch.tanh(beta) if transform == "tanh" else torch.tan(beta.clamp(-tan_clamp, tan_clamp))


def cap(weights: Float[Tensor, " incoming"]) -> Float[Tensor, " incoming"]:
    """Return `weights` with the largest limited to 0.5 and the others scaled to sum to the rest.

    Continuous where the largest is 0.5. With two edges the result is (0.5, 0.5) with a gradient
    of exactly zero: the softmax of one logit has none.

    Args:
        weights: positive, summing to one.
    """
    largest = torch.argmax(weights)
    if len(weights) > 2 and weights[largest] <= CAP:
        return weights
    is_largest = torch.arange(len(weights), device=weights.device) == largest
    others = torch.softmax(torch.log(weights).masked_fill(is_largest, -torch.inf), dim=0)
    return torch.where(is_largest, CAP, (1 - CAP) * others)


def edge_weights(
    beta: Float[Tensor, " edges"],
    transform: str = "tanh",
    tan_clamp: float = 1.5,
    capped: bool = True,
) -> Float[Tensor, " edges"]:
    """Return Psi, the softmax of t(beta) over the edges into each node, capped at 0.5 (Eq. 2)."""
    logits = transformed(beta, transform, tan_clamp)
    per_node = (torch.softmax(logits[list(edges_into(node))], dim=0) for node in INTERMEDIATE_NODES)
    return torch.cat([cap(weights) if capped else weights for weights in per_node])
