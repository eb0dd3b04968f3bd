"""The pruning search: stability tests, a state, and the function that advances it an epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nnunet_iac.search.relaxation import (
    Active,
    Matrix,
    PerEdge,
    distribution,
    importance,
    pruning_score,
)
from nnunet_iac.search.setting_parts import CellConfig, StabilityTest, TestName
from nnunet_iac.search.space import EDGES, OPERATIONS

History = Float[Tensor, "checks edges operations"]
"""Distributions that the checks saw, the newest last; a test gives one number per edge of them."""


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


def js(history: History, active: Active) -> PerEdge:
    """Return the Jensen-Shannon divergence of the last two distributions (paper, Algorithm 1)."""
    return js_divergence(history[-2], history[-1])


def rank(history: History, active: Active) -> PerEdge:
    """Return Kendall's distance of the last two orders: the share of pairs that changed theirs.

    Of the active operations (Kendall 1938). A pair that is tied on one side only has changed.
    0 is the same order; with one operation there is no pair, and the distance is 0.
    """
    order = torch.sign(history[-2:].unsqueeze(3) - history[-2:].unsqueeze(2))
    pairs = (active.unsqueeze(2) & active.unsqueeze(1)).triu(diagonal=1)
    changed = ((order[0] != order[1]) & pairs).sum((1, 2))
    distance = (changed / pairs.sum((1, 2)).clamp(min=1)).double()
    return _where_defined(distance, history[-2:], active)


def mask(history: History, active: Active) -> PerEdge:
    """Return the Hamming distance of the masks that the last two checks would have pruned to.

    Such a mask keeps all active operations but the least important one; the distance is the share
    of entries that differ, 2/n of n operations or 0. Early-Bird tickets (You et al. 2020) are
    found so, with five epochs of equal masks.
    """
    least = torch.argmin(history[-2:].masked_fill(~active, torch.inf), dim=2)
    distance = torch.where(least[0] == least[1], 0.0, 2 / active.sum(dim=1)).double()
    return _where_defined(distance, history[-2:], active)


def drift(history: History, active: Active) -> PerEdge:
    """Return twice the p value of the hypothesis that the least operation is not falling behind.

    With x_t the logarithm of its share over that of the next one, a one-sided t test on the
    increments of x since the search began: H0, their mean is not below 0; H1, it is. The p value
    is doubled because the same data choose the least operation: with two left the test is
    two-sided. If the increments are independent and normal and no operation is falling behind, a
    check prunes at a threshold of 0.05 with about that probability at most (tests). That holds for
    one check; a check in every epoch errs more often over a whole search. Increments of one sign in
    a row, as Adam makes them, are not independent: the more alike they are, the more often than its
    level the test errs. With fewer than two increments the result is 1.
    """
    # Imported here, since reading settings does not need it.
    from scipy.special import stdtr

    count = len(history) - 1
    if count < 2:
        return _where_defined(torch.ones(len(active), dtype=torch.float64), history, active)
    last = history[-1].masked_fill(~active, torch.inf)
    least = torch.topk(last, 2, dim=1, largest=False, sorted=True).indices
    tiny = torch.finfo(history.dtype).tiny
    logs = history.clamp(min=tiny).log().gather(2, least.expand(len(history), -1, -1))
    increments = (logs[..., 0] - logs[..., 1]).diff(dim=0)
    mean, deviation = increments.mean(0), increments.std(0)
    # Without any spread the sign of the mean is certain.
    t = torch.where(mean == 0, 0.0, mean / (deviation / count**0.5))
    p = 2 * torch.from_numpy(stdtr(count - 1, t.double().numpy()))
    return _where_defined(p.clamp(max=1), history, active)


TESTS: Mapping[TestName, Callable[[History, Active], PerEdge]] = {
    "js": js,
    "schedule": js,
    "rank": rank,
    "mask": mask,
    "drift": drift,
}
"""By the setting `stability_test`; a `schedule` records the divergence and does not ask for it."""


def _where_defined(distance: PerEdge, history: History, active: Active) -> PerEdge:
    undefined = (~torch.isfinite(history) & active).any(dim=2).any(dim=0)
    return distance.masked_fill(undefined, torch.nan)


@dataclass(frozen=True)
class Observation:
    """alpha and beta at the end of an epoch, in float64 on the CPU.

    Args:
        epoch: completed epochs of the run, so the first epoch is 1.
        alpha: of the operations.
        beta: of the edges.

    Raises:
        RuntimeError: a non-finite alpha or beta; the message names where.
    """

    epoch: int
    alpha: Matrix
    beta: PerEdge

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", self.alpha.detach().cpu().double().clone())
        object.__setattr__(self, "beta", self.beta.detach().cpu().double().clone())
        for name, values in (("alpha", self.alpha), ("beta", self.beta)):
            wrong = (~torch.isfinite(values)).nonzero()
            if len(wrong):
                edge = EDGES[int(wrong[0][0])]
                raise RuntimeError(
                    f"{name} must be finite; after epoch {self.epoch} it is "
                    f"{values[tuple(wrong[0])].item()} on edge {edge}: "
                    "start anew with a lower architecture_lr or weights_lr"
                )


@dataclass(frozen=True)
class PruningState:
    """What a pruning search keeps between epochs, per edge."""

    active: Active
    threshold: PerEdge
    """Below which an edge is stable."""
    stable_checks: Int[Tensor, " edges"]
    """In a row, up to now."""
    history: History
    """The distributions that were seen, the newest last; as many as the test looks at."""

    @property
    def finished(self) -> bool:
        """Whether every edge has one operation left."""
        return bool((self.active.sum(dim=1) == 1).all())


@dataclass(frozen=True)
class PruningEvent:
    """One operation leaving one edge, and why; the divergence is what the test measured."""

    epoch: int
    source: int
    target: int
    operation: str
    importance: float
    divergence: float | None
    threshold: float | None
    rule: str
    """`two-sigma` (below mean - 2 sd), `smallest`, or `forced` at the epoch limit."""


@dataclass(frozen=True)
class Decision:
    """What one epoch's pruning step saw and did; the arrays describe the cell before the prune."""

    importance: Matrix
    divergence: PerEdge
    threshold: PerEdge
    active: Active
    events: tuple[PruningEvent, ...] = ()


def full_mask() -> Active:
    """Return the mask of an unpruned cell."""
    return torch.ones(len(EDGES), len(OPERATIONS), dtype=torch.bool)


def begin(
    observation: Observation, test: StabilityTest = StabilityTest(), cell: CellConfig = CellConfig()
) -> PruningState:
    """Return the state at the end of the warm-up, from which the first check measures."""
    active = full_mask()
    return PruningState(
        active=active,
        threshold=torch.full((len(EDGES),), test.stability_threshold, dtype=torch.float64),
        stable_checks=torch.zeros(len(EDGES), dtype=torch.int64),
        history=distribution(observation.alpha, observation.beta, active, cell).unsqueeze(0),
    )


def advance(
    state: PruningState,
    observation: Observation,
    test: StabilityTest = StabilityTest(),
    cell: CellConfig = CellConfig(),
) -> tuple[PruningState, Decision]:
    """Return the state after one epoch's check of every edge, and the decision taken.

    Per edge with more than one operation (paper, Algorithm 1): d = JS(p_prev || p), p_prev
    restricted to the survivors and renormalised, or what another stability test gives. d below the
    threshold is one more stable check; on a schedule, which has none, every epoch is one. Enough
    of them in a row prune the operation of least importance; otherwise the threshold grows and the
    count restarts. All edges decide from the same snapshot. Ties go to the operation that stands
    first in `OPERATIONS`.

    Args:
        state: after the epoch before, or of `begin`.
        observation: alpha and beta at the end of the epoch.
        test: decides when an edge is pruned.
        cell: how importance is computed.

    Raises:
        RuntimeError: an undefined distribution outside `raw-strict`, where it counts as unstable.
    """
    alpha, beta, active = observation.alpha, observation.beta, state.active
    current = distribution(alpha, beta, active, cell)
    history = torch.cat((_restricted(state.history, active), current.unsqueeze(0)))
    divergence = TESTS[test.stability_test](history, active)
    undecided = active.sum(dim=1) > 1
    undefined = undecided & ~torch.isfinite(divergence)
    if undefined.any() and cell.importance != "raw-strict":
        edge = EDGES[int(undefined.nonzero()[0])]
        raise RuntimeError(
            f"the divergence of edge {edge} must be a number; after epoch "
            f"{observation.epoch} it is {divergence[undefined][0].item()}: start anew with a "
            "lower architecture_lr"
        )
    on_schedule = test.stability_test == "schedule"
    stable = undecided & ((divergence < state.threshold) | on_schedule)
    checks = torch.where(stable, state.stable_checks + 1, 0)
    due = stable & (checks >= test.patience)
    decision = Decision(
        importance=importance(alpha, beta, active, cell),
        divergence=torch.where(undecided, divergence, torch.nan),
        threshold=state.threshold,
        active=active,
    )
    score = pruning_score(alpha, beta, active, cell)
    remaining = active.clone()
    events = []
    for index in due.nonzero().flatten().tolist():
        operation = int(torch.argmin(score[index]))
        remaining[index, operation] = False
        rule = "two-sigma" if _is_outlier(score[index], operation) else "smallest"
        events.append(_event(observation.epoch, decision, index, operation, rule))
    unstable = undecided & ~stable
    threshold = torch.where(unstable, state.threshold * test.threshold_growth, state.threshold)
    if test.reset_threshold:
        threshold = torch.where(due, test.stability_threshold, threshold)
    advanced = PruningState(
        active=remaining,
        threshold=threshold,
        stable_checks=torch.where(due, 0, checks),
        history=history if test.stability_test == "drift" else history[-1:],
    )
    return advanced, replace(decision, events=tuple(events))


def force(
    state: PruningState, observation: Observation, cell: CellConfig = CellConfig()
) -> tuple[PruningState, tuple[PruningEvent, ...]]:
    """Return the state with only the best operation left on every edge, and what that removed.

    The end of a search that reaches its epoch limit undecided.
    """
    alpha, beta = observation.alpha, observation.beta
    theta = importance(alpha, beta, state.active, cell)
    seen = Decision(theta, state.threshold, state.threshold, state.active)
    kept = best_operations(alpha, beta, state.active, cell)
    remaining = torch.nn.functional.one_hot(kept, len(OPERATIONS)).bool()
    events = tuple(
        _event(observation.epoch, seen, int(index), int(operation), "forced")
        for index, operation in (state.active & ~remaining).nonzero()
    )
    return replace(state, active=remaining), events


def close_epoch(
    state: PruningState,
    observation: Observation,
    test: StabilityTest,
    cell: CellConfig,
    search_epochs: int,
) -> tuple[PruningState, Decision]:
    """Return the state and decision of `advance`, and at the epoch limit of `force` on top."""
    advanced, decision = advance(state, observation, test, cell)
    if observation.epoch < search_epochs:
        return advanced, decision
    forced, events = force(advanced, observation, cell)
    return forced, replace(decision, events=decision.events + events)


def idle(observation: Observation, cell: CellConfig) -> Decision:
    """Return the decision of an epoch that decides nothing: of a warm-up, or of a full search."""
    active = full_mask()
    nothing = observation.beta.new_full((len(EDGES),), torch.nan)
    theta = importance(observation.alpha, observation.beta, active, cell)
    return Decision(theta, nothing, nothing, active)


def best_operations(
    alpha: Matrix, beta: PerEdge, active: Active, cell: CellConfig
) -> Int[Tensor, " edges"]:
    """Return the index of each edge's most important active operation; ties go to the last.

    The counterpart of pruning, where ties remove the first.
    """
    return last_largest(pruning_score(alpha, beta, active, cell).masked_fill(~active, -torch.inf))


def last_largest(score: Matrix) -> Int[Tensor, " edges"]:
    """Return the index of each edge's largest score; ties go to the last."""
    return len(OPERATIONS) - 1 - torch.argmax(score.flip(1), dim=1)


def _restricted(
    history: Float[Tensor, "checks edges operations"], active: Active
) -> Float[Tensor, "checks edges operations"]:
    survivors = torch.where(active, history, 0.0)
    return survivors / survivors.sum(dim=2, keepdim=True)


def _is_outlier(score: Float[Tensor, " operations"], operation: int) -> bool:
    values = score[torch.isfinite(score)]
    return bool(score[operation] < values.mean() - 2 * values.std(correction=0))


def _event(epoch: int, decision: Decision, index: int, operation: int, rule: str) -> PruningEvent:
    forced = rule == "forced"
    return PruningEvent(
        epoch,
        *EDGES[index],
        OPERATIONS[operation],
        decision.importance[index, operation].item(),
        None if forced else decision.divergence[index].item(),
        None if forced else decision.threshold[index].item(),
        rule,
    )
