"""Beta-decay (Ye et al. 2022, beta-DARTS): a regulariser of alpha against early favourites."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def beta_decay(
    alpha: Float[Tensor, "edges operations"], active: Bool[Tensor, "edges operations"]
) -> Float[Tensor, ""]:
    """Return the mean over edges of log sum exp alpha, over active operations (their eq. 14).

    Its gradient is phi/14: what is favoured most is held back most. It has its name from the
    weights phi, which they call beta; our beta, the edges' weights, is not touched.
    """
    return torch.logsumexp(alpha.masked_fill(~active, -torch.inf), dim=1).mean()


def beta_decay_weight(epoch: int, warmup: int, end: int, largest: float) -> float:
    """Return the regulariser's weight in the epoch that follows `epoch` completed ones.

    It rises linearly from 0 at the end of the warm-up to `largest` at the end.

    Args:
        epoch: completed epochs.
        warmup: epochs of the warm-up.
        end: epochs after which the search has ended in any case, warm-up included.
        largest: the setting `beta_decay`.
    """
    return largest * (epoch - warmup) / (end - warmup)
