"""The continuous relaxation of the cell: operation weights, edge weights and their cap."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.space import INTERMEDIATE_NODES, edges_into

CAP = 0.5
"""The largest weight one edge may have among those into its node (paper)."""


def operation_weights(
    alpha: Float[Tensor, "edges operations"], active: Bool[Tensor, "edges operations"]
) -> Float[Tensor, "edges operations"]:
    """Return phi, the softmax of `alpha` over an edge's active operations (DARTS, Liu et al. 2019).

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


def capped_softmax(logits: Float[Tensor, " incoming"]) -> Float[Tensor, " incoming"]:
    """Return the softmax of `logits` with the largest weight limited to `CAP`.

    The others are scaled to sum to the rest, which is continuous where the largest is `CAP`. Their
    shares come from the logits, so that they stay defined where the softmax of all underflows.
    With two edges the result is (0.5, 0.5) with a gradient of exactly zero: the softmax of one
    logit has none.
    """
    is_largest = torch.arange(len(logits), device=logits.device) == torch.argmax(logits)
    others = torch.softmax(logits.masked_fill(is_largest, -torch.inf), dim=0)
    capped = torch.where(is_largest, CAP, (1 - CAP) * others)
    if len(logits) == 2:
        return capped
    weights = torch.softmax(logits, dim=0)
    return torch.where(weights.max() > CAP, capped, weights)


def edge_weights(
    beta: Float[Tensor, " edges"],
    transform: str = "tanh",
    tan_clamp: float = 1.5,
    capped: bool = True,
) -> Float[Tensor, " edges"]:
    """Return Psi, the softmax of t(beta) over the edges into each node, capped at 0.5 (paper)."""
    logits = transformed(beta, transform, tan_clamp)
    per_node = (logits[list(edges_into(node))] for node in INTERMEDIATE_NODES)
    return torch.cat([capped_softmax(x) if capped else torch.softmax(x, dim=0) for x in per_node])
