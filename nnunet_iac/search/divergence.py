"""The distance between two epochs' importance distributions."""

import torch
from jaxtyping import Float
from torch import Tensor


def js_divergence(
    p: Float[Tensor, "*edges operations"], q: Float[Tensor, "*edges operations"]
) -> Float[Tensor, "*edges"]:
    """Return the Jensen-Shannon divergence of `p` and `q` in nats, in [0, ln 2] (Lin 1991).

    JS(p || q) = KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2 and 0 log 0 = 0. Rounding may not
    make it negative. NaN wherever an entry is NaN or negative.
    """
    mean = (p + q) / 2
    # log(0) is masked rather than avoided: xlogy gives 0 log 0 = 0 and keeps NaN for negatives.
    terms = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(mean, mean)
    return (terms.sum(-1) / 2).clamp(min=0.0)
