"""Stability tests: how far an edge's importance is from settled. Below a threshold it is stable.

Every test is a pure function of the distributions that the checks of an edge have seen, the newest
last, each over the operations that are active now, and returns one number per edge.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nnunet_iac.search.setting_parts import TestName

History = Float[Tensor, "checks edges operations"]
Active = Bool[Tensor, "edges operations"]
Distance = Float[Tensor, " edges"]


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


def js(history: History, active: Active) -> Distance:
    """Return the Jensen-Shannon divergence of the last two distributions (paper, Algorithm 1)."""
    return js_divergence(history[-2], history[-1])


def rank(history: History, active: Active) -> Distance:
    """Return Kendall's distance of the last two orders: the share of pairs that changed theirs.

    Of the active operations (Kendall 1938). A pair that is tied on one side only has changed.
    0 is the same order; with one operation there is no pair, and the distance is 0.
    """
    order = torch.sign(history[-2:].unsqueeze(3) - history[-2:].unsqueeze(2))
    pairs = (active.unsqueeze(2) & active.unsqueeze(1)).triu(diagonal=1)
    changed = ((order[0] != order[1]) & pairs).sum((1, 2))
    undefined = _undefined(history[-2:], active).any(dim=0)
    return (changed / pairs.sum((1, 2)).clamp(min=1)).double().masked_fill(undefined, torch.nan)


def mask(history: History, active: Active) -> Distance:
    """Return the Hamming distance of the masks that the last two checks would have pruned to.

    Such a mask keeps all active operations but the least important one; the distance is the share
    of entries that differ, 2/n of n operations or 0. Early-Bird tickets (You et al. 2020) are
    found so, with five epochs of equal masks.
    """
    least = torch.argmin(history[-2:].masked_fill(~active, torch.inf), dim=2)
    undefined = _undefined(history[-2:], active).any(dim=0)
    distance = torch.where(least[0] == least[1], 0.0, 2 / active.sum(dim=1)).double()
    return distance.masked_fill(undefined, torch.nan)


def drift(history: History, active: Active) -> Distance:
    """Return twice the p value of the hypothesis that the least operation is not falling behind.

    With x_t the logarithm of its share over that of the next one, a one-sided t test on the
    increments of x since the search began: H0, their mean is not below 0; H1, it is. Twice, for
    the same data say which operation is the least: with two left the test is two-sided. A threshold
    of 0.05 then means: were the increments independent and normal and no operation falling behind,
    a check would prune with about that probability at most (tests). Per check: whoever looks every
    epoch errs more often over a whole search. Increments of one sign in a row, as Adam makes them,
    are not independent: the more alike they are, the more often than its level the test errs.
    Fewer than two increments say nothing: 1.
    """
    # Imported here, for who reads settings does without.
    from scipy.special import stdtr

    undefined = _undefined(history, active).any(dim=0)
    count = len(history) - 1
    if count < 2:
        return torch.ones(len(active), dtype=torch.float64).masked_fill(undefined, torch.nan)
    last = history[-1].masked_fill(~active, torch.inf)
    least = torch.topk(last, 2, dim=1, largest=False, sorted=True).indices
    tiny = torch.finfo(history.dtype).tiny
    logs = history.clamp(min=tiny).log().gather(2, least.expand(len(history), -1, -1))
    increments = (logs[..., 0] - logs[..., 1]).diff(dim=0)
    mean, deviation = increments.mean(0), increments.std(0)
    # Without any spread the sign of the mean is certain.
    t = torch.where(mean == 0, 0.0, mean / (deviation / count**0.5))
    p = 2 * torch.from_numpy(stdtr(count - 1, t.double().numpy()))
    return p.clamp(max=1).masked_fill(undefined, torch.nan)


TESTS: Mapping[TestName, Callable[[History, Active], Distance]] = {
    "js": js,
    "schedule": js,
    "rank": rank,
    "mask": mask,
    "drift": drift,
}
"""By the setting `stability_test`; a `schedule` records the divergence and does not ask for it."""


def _undefined(history: History, active: Active) -> Bool[Tensor, "checks edges"]:
    return (~torch.isfinite(history) & active).any(dim=2)
