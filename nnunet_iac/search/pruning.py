"""The pruning search: an explicit state, and the one function that advances it by an epoch."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nnunet_iac.search.importance import distribution, importance, pruning_score
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS
from nnunet_iac.search.stability import TESTS


@dataclass(frozen=True)
class Observation:
    """alpha and beta at the end of an epoch, in float64 on the CPU.

    Args:
        epoch: completed epochs of the run, so the first epoch is 1.
        alpha: of the operations.
        beta: of the edges.
        score: of the operations on edges that are `due`, as `pruning_score` demands; NaN elsewhere,
            and everywhere where importance is the score.

    Raises:
        RuntimeError: a non-finite alpha or beta; the message names where.
    """

    epoch: int
    alpha: Float[Tensor, "edges operations"]
    beta: Float[Tensor, " edges"]
    score: Float[Tensor, "edges operations"] = field(
        default_factory=lambda: torch.full((len(EDGES), len(OPERATIONS)), torch.nan)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", self.alpha.detach().cpu().double().clone())
        object.__setattr__(self, "beta", self.beta.detach().cpu().double().clone())
        object.__setattr__(self, "score", self.score.detach().cpu().double().clone())
        for name, values in (("alpha", self.alpha), ("beta", self.beta)):
            wrong = (~torch.isfinite(values)).nonzero()
            if len(wrong):
                edge = EDGES[int(wrong[0][0])]
                raise RuntimeError(
                    f"{name} must be finite; after epoch {self.epoch} it is "
                    f"{values[tuple(wrong[0])].item()} on edge {edge.source}->{edge.target}: "
                    "start anew with a lower architecture_lr or weights_lr"
                )


@dataclass(frozen=True)
class PruningState:
    """What a pruning search remembers between epochs, per edge.

    Args:
        active: the operations that are left.
        threshold: below which an edge is stable.
        stable_checks: in a row, up to now.
        history: the distributions that were seen, the newest last; as many as the test looks at.
    """

    active: Bool[Tensor, "edges operations"]
    threshold: Float[Tensor, " edges"]
    stable_checks: Int[Tensor, " edges"]
    history: Float[Tensor, "checks edges operations"]

    @property
    def finished(self) -> bool:
        """Whether every edge has one operation left."""
        return bool((self.active.sum(dim=1) == 1).all())


@dataclass(frozen=True)
class PruningEvent:
    """One operation leaving one edge, and why.

    The divergence is what the stability test measured. A loss that decided, under
    `pruning_score=perturbation`, is in the trajectory.
    """

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

    importance: Float[Tensor, "edges operations"]
    divergence: Float[Tensor, " edges"]
    threshold: Float[Tensor, " edges"]
    active: Bool[Tensor, "edges operations"]
    events: tuple[PruningEvent, ...] = ()


def full_mask() -> Bool[Tensor, "edges operations"]:
    """Return the mask of an unpruned cell."""
    return torch.ones(len(EDGES), len(OPERATIONS), dtype=torch.bool)


def begin(observation: Observation, settings: Settings) -> PruningState:
    """Return the state at the end of the warm-up, from which the first check measures."""
    active = full_mask()
    return PruningState(
        active=active,
        threshold=torch.full((len(EDGES),), settings.stability.theta, dtype=torch.float64),
        stable_checks=torch.zeros(len(EDGES), dtype=torch.int64),
        history=distribution(observation.alpha, observation.beta, active, settings).unsqueeze(0),
    )


def advance(
    state: PruningState, observation: Observation, settings: Settings
) -> tuple[PruningState, Decision]:
    """Return the state after one epoch's check of every edge, and the decision taken.

    Per edge with more than one operation (paper, Algorithm 1): d = JS(p_prev || p), p_prev
    restricted to the survivors and renormalised, or what another stability test gives. d < theta is
    one more stable check; on a schedule, which does not ask, every epoch is one. Enough of them in
    a row prune the operation of least importance; otherwise theta <- kappa theta and the count
    restarts. All edges decide from the
    same snapshot. Ties go to the operation that stands first in `OPERATIONS`.

    Raises:
        RuntimeError: an undefined distribution outside `raw-strict`, where it counts as unstable;
            or an edge that is due without a finite score.
    """
    test = settings.stability
    alpha, beta, active = observation.alpha, observation.beta, state.active
    check = _check(state, observation, settings)
    decision = Decision(
        importance=importance(alpha, beta, active, settings),
        divergence=check.divergence,
        threshold=state.threshold,
        active=active,
    )
    score = _score(check.due, active, observation, settings)
    remaining = active.clone()
    events = []
    for index in check.due.nonzero().flatten().tolist():
        operation = int(torch.argmin(score[index]))
        remaining[index, operation] = False
        rule = "two-sigma" if _is_outlier(score[index], operation) else "smallest"
        events.append(_event(observation.epoch, decision, index, operation, rule))
    threshold = torch.where(check.unstable, state.threshold * test.kappa, state.threshold)
    if test.reset:
        threshold = torch.where(check.due, test.theta, threshold)
    advanced = PruningState(
        active=remaining,
        threshold=threshold,
        stable_checks=torch.where(check.due, 0, check.checks),
        history=check.history if test.test == "drift" else check.history[-1:],
    )
    return advanced, replace(decision, events=tuple(events))


def due(
    state: PruningState, observation: Observation, settings: Settings
) -> Bool[Tensor, " edges"]:
    """Return the edges that `advance` is going to prune; it asks for no score."""
    return _check(state, observation, settings).due


@dataclass(frozen=True)
class _Check:
    """What one epoch's check of every edge found."""

    history: Float[Tensor, "checks edges operations"]
    divergence: Float[Tensor, " edges"]
    unstable: Bool[Tensor, " edges"]
    checks: Int[Tensor, " edges"]
    due: Bool[Tensor, " edges"]


def _check(state: PruningState, observation: Observation, settings: Settings) -> _Check:
    test, active = settings.stability, state.active
    current = distribution(observation.alpha, observation.beta, active, settings)
    history = torch.cat((_restricted(state.history, active), current.unsqueeze(0)))
    divergence = TESTS[test.test](history, active)
    undecided = active.sum(dim=1) > 1
    undefined = undecided & ~torch.isfinite(divergence)
    if undefined.any() and settings.importance != "raw-strict":
        edge = EDGES[int(undefined.nonzero()[0])]
        raise RuntimeError(
            f"the divergence of edge {edge.source}->{edge.target} must be a number; after epoch "
            f"{observation.epoch} it is {divergence[undefined][0].item()}"
        )
    stable = undecided & ((divergence < state.threshold) | (test.test == "schedule"))
    checks = torch.where(stable, state.stable_checks + 1, 0)
    return _Check(
        history=history,
        divergence=torch.where(undecided, divergence, torch.nan),
        unstable=undecided & ~stable,
        checks=checks,
        due=stable & (checks >= test.checks),
    )


def _score(
    edges: Bool[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    observation: Observation,
    settings: Settings,
) -> Float[Tensor, "edges operations"]:
    """Return what orders the operations of edges that are due: the least goes first."""
    if settings.pruning_score == "importance":
        return pruning_score(observation.alpha, observation.beta, active, settings)
    wrong = (edges.unsqueeze(1) & active & ~torch.isfinite(observation.score)).nonzero()
    if len(wrong):
        edge, operation = EDGES[int(wrong[0][0])], OPERATIONS[int(wrong[0][1])]
        raise RuntimeError(
            f"the loss without an operation must be finite; after epoch {observation.epoch} it is "
            f"{observation.score[tuple(wrong[0])].item()} without {operation} on edge "
            f"{edge.source}->{edge.target}: start anew with a lower weights_lr"
        )
    return observation.score.masked_fill(~active, torch.inf)


def force(
    state: PruningState, observation: Observation, settings: Settings
) -> tuple[PruningState, tuple[PruningEvent, ...]]:
    """Return the state with only the best operation left on every edge, and what that removed.

    The end of a search that reaches its epoch limit undecided. By importance under any
    `pruning_score`, as in a search that does not prune.
    """
    alpha, beta = observation.alpha, observation.beta
    seen = Decision(
        importance=importance(alpha, beta, state.active, settings),
        divergence=torch.full((len(EDGES),), torch.nan, dtype=torch.float64),
        threshold=state.threshold,
        active=state.active,
    )
    kept = best_operations(alpha, beta, state.active, settings)
    remaining = torch.zeros_like(state.active)
    remaining[torch.arange(len(EDGES)), kept] = True
    events = tuple(
        _event(observation.epoch, seen, int(index), int(operation), "forced")
        for index, operation in (state.active & ~remaining).nonzero()
    )
    return replace(state, active=remaining), events


def close_epoch(
    state: PruningState, observation: Observation, settings: Settings
) -> tuple[PruningState, Decision]:
    """Return the state after an epoch of a pruning search, and all that was decided.

    `advance`, and at the epoch limit `force` on top where edges are still undecided.
    """
    advanced, decision = advance(state, observation, settings)
    if observation.epoch < settings.search_epochs:
        return advanced, decision
    forced, events = force(advanced, observation, settings)
    return forced, replace(decision, events=decision.events + events)


def idle(observation: Observation, settings: Settings) -> Decision:
    """Return the decision of an epoch that decides nothing: of a warm-up, or of a full search."""
    active = full_mask()
    nothing = observation.beta.new_full((len(EDGES),), torch.nan)
    theta = importance(observation.alpha, observation.beta, active, settings)
    return Decision(theta, nothing, nothing, active)


def best_operations(
    alpha: Float[Tensor, "edges operations"],
    beta: Float[Tensor, " edges"],
    active: Bool[Tensor, "edges operations"],
    settings: Settings,
) -> Int[Tensor, " edges"]:
    """Return the index of each edge's most important active operation; ties go to the last.

    The counterpart of pruning, where ties remove the first.
    """
    score = pruning_score(alpha, beta, active, settings).masked_fill(~active, -torch.inf)
    return last_largest(score)


def last_largest(score: Float[Tensor, "edges operations"]) -> Int[Tensor, " edges"]:
    """Return the index of each edge's largest score; ties go to the last."""
    return len(OPERATIONS) - 1 - torch.argmax(score.flip(1), dim=1)


def _restricted(
    history: Float[Tensor, "checks edges operations"], active: Bool[Tensor, "edges operations"]
) -> Float[Tensor, "checks edges operations"]:
    survivors = torch.where(active, history, 0.0)
    return survivors / survivors.sum(dim=2, keepdim=True)


def _is_outlier(score: Float[Tensor, " operations"], operation: int) -> bool:
    values = score[torch.isfinite(score)]
    return bool(score[operation] < values.mean() - 2 * values.std(correction=0))


def _event(epoch: int, decision: Decision, index: int, operation: int, rule: str) -> PruningEvent:
    divergence = decision.divergence[index].item()
    forced = rule == "forced"
    return PruningEvent(
        epoch=epoch,
        source=EDGES[index].source,
        target=EDGES[index].target,
        operation=OPERATIONS[operation],
        importance=decision.importance[index, operation].item(),
        divergence=None if forced else divergence,
        threshold=None if forced else decision.threshold[index].item(),
        rule=rule,
    )
