"""The pruning search: its stability test, a state, and the function that advances it an epoch."""

import math
import sys
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
from nnunet_iac.search.setting_parts import CellConfig, StabilityTest
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge

HIGHEST_THRESHOLD = sys.float_info.max
"""A threshold that grows for as long as an edge is unstable stays a number."""


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
    """State of a pruning search between epochs, per edge."""

    active: Active
    threshold: PerEdge
    """Below which an edge is stable."""
    stable_checks: Int[Tensor, " edges"]
    """In a row, up to now."""
    previous: Matrix
    """The distribution that the last check saw."""

    @property
    def finished(self) -> bool:
        """Whether every edge has one operation left."""
        return bool((self.active.sum(dim=1) == 1).all())


@dataclass(frozen=True)
class PruningEvent:
    """One operation leaving one edge, and why."""

    epoch: int
    source: int
    target: int
    operation: str
    importance: float
    divergence: float | None
    """None where it is undefined, or where the event is forced, as the threshold is then."""
    threshold: float | None
    rule: str
    """`two-sigma` (below mean - 2 sd), `smallest`, or `forced` at the epoch limit."""

    @property
    def edge(self) -> Edge:
        """The edge."""
        return Edge(self.source, self.target)


@dataclass(frozen=True)
class Decision:
    """Input and result of an epoch's pruning; the arrays describe the cell before the prune."""

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
        previous=distribution(observation.alpha, observation.beta, active, cell),
    )


def advance(
    state: PruningState,
    observation: Observation,
    test: StabilityTest = StabilityTest(),
    cell: CellConfig = CellConfig(),
) -> tuple[PruningState, Decision]:
    """Return the state after one epoch's check of every edge, and the decision taken.

    Per edge with more than one operation (paper, Algorithm 1): d = JS(p_prev || p), p_prev
    restricted to the survivors and renormalised. d below the threshold is one more stable check.
    Enough of them in a row prune the operation of least importance; otherwise the threshold grows
    and the count restarts. All edges decide from the same snapshot. Ties go to the operation that
    stands first in `OPERATIONS`.

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
    divergence = js_divergence(_restricted(state.previous, active), current)
    undecided = active.sum(dim=1) > 1
    undefined = undecided & ~torch.isfinite(divergence)
    if undefined.any() and cell.importance != "raw-strict":
        edge = EDGES[int(undefined.nonzero()[0])]
        raise RuntimeError(
            f"the divergence of edge {edge} must be a number; after epoch "
            f"{observation.epoch} it is {divergence[undefined][0].item()}: start anew with a "
            "lower architecture_lr"
        )
    stable = undecided & (divergence < state.threshold)
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
    grown = (state.threshold * test.threshold_growth).clamp(max=HIGHEST_THRESHOLD)
    threshold = torch.where(unstable, grown, state.threshold)
    if test.reset_threshold:
        threshold = torch.where(due, test.stability_threshold, threshold)
    advanced = PruningState(
        active=remaining,
        threshold=threshold,
        stable_checks=torch.where(due, 0, checks),
        previous=current,
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


def _restricted(seen: Matrix, active: Active) -> Matrix:
    survivors = torch.where(active, seen, 0.0)
    return survivors / survivors.sum(dim=1, keepdim=True)


def _is_outlier(score: Float[Tensor, " operations"], operation: int) -> bool:
    values = score[torch.isfinite(score)]
    return bool(score[operation] < values.mean() - 2 * values.std(correction=0))


def _event(epoch: int, decision: Decision, index: int, operation: int, rule: str) -> PruningEvent:
    forced = rule == "forced"
    divergence = decision.divergence[index].item()
    return PruningEvent(
        epoch,
        *EDGES[index],
        OPERATIONS[operation],
        decision.importance[index, operation].item(),
        None if forced or not math.isfinite(divergence) else divergence,
        None if forced else decision.threshold[index].item(),
        rule,
    )
