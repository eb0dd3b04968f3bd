"""What a network loses without an operation: scores by removal instead of by weight."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.nn.iac_unet import IACUNet


@torch.no_grad()
def losses_without(
    network: IACUNet, loss: Callable[[], float], edges: Bool[Tensor, " edges"]
) -> Float[Tensor, "edges operations"]:
    """Return the loss of a supernet without each of its operations (Wang et al. 2021, PT).

    One operation of one edge is left out at a time, in the cells of all levels. The weights phi of
    the others stay as they are: nothing is renormalised. NaN where an operation is pruned or its
    edge not asked for.

    Args:
        network: that searches.
        loss: of the network as it is when called.
        edges: whose operations are left out.
    """
    phi, psi = network.mixing()
    found = torch.full(phi.shape, torch.nan, dtype=torch.float64)
    for edge, operation in (network.active.cpu() & edges.unsqueeze(1)).nonzero().tolist():
        left = phi.clone()
        left[edge, operation] = 0.0
        with network.mixed_by(left, psi):
            found[edge, operation] = loss()
    return found
