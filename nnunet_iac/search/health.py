"""The health of a search: edges that cannot learn, a collapsing cell, a loss that does not fall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import Observation
from nnunet_iac.search.relaxation import Active, Matrix, PerEdge, edge_weights, operation_weights
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.space import EDGES, OPERATIONS, PARAMETER_FREE, Edge

DEAD_WEIGHT = 1e-3
"""Psi below which an edge hardly reaches its node, nor a gradient the edge."""

COLLAPSE_SHARE = 0.5
"""Share of parameter-free operations above which a cell is reported as collapsed."""

_WITHOUT_PARAMETERS = [OPERATIONS.index(name) for name in PARAMETER_FREE]

WINDOW = 15
"""Search epochs over which the trend of the training loss is measured."""


NON_FINITE = "non-finite"
"""The kind of event that ends a run, until it is resumed."""


@dataclass(frozen=True)
class HealthEvent:
    """A condition that began: `dead edge`, `collapse`, `plateau`, `divergence` or `non-finite`.

    The edge is None where the whole cell or its loss is meant.
    """

    epoch: int
    kind: str
    edge: Edge | None
    message: str

    def __str__(self) -> str:
        """The event as one line."""
        where = "" if self.edge is None else f", edge {self.edge}"
        return f"epoch {self.epoch}{where}: {self.kind}, {self.message}"


@dataclass(frozen=True)
class HealthState:
    """State of the checks of a search between epochs, in plain types; empty at first.

    Args:
        alpha: of the previous epoch; a search starts from zeros.
        losses: the mean training losses of the last `WINDOW` search epochs, the newest last.
        present: the conditions under way: their kinds, and the indices of dead edges, or None.
    """

    alpha: tuple[tuple[float, ...], ...] = ((0.0,) * len(OPERATIONS),) * len(EDGES)
    losses: tuple[float, ...] = ()
    present: tuple[tuple[str, int | None], ...] = ()


def examine(
    state: HealthState,
    observation: Observation,
    active: Active,
    loss: float,
    warmup_epochs: int,
    cell: CellConfig = CellConfig(),
) -> tuple[HealthState, tuple[HealthEvent, ...]]:
    """Return the state after an epoch, and what began in it; the warm-up is not judged.

    Dead edge: it has operations to choose from, and their alpha stood still or its Psi is below
    `DEAD_WEIGHT`. Collapse: more than `COLLAPSE_SHARE` of phi, over all edges, lies on operations
    without parameters (three sevenths at the start). The loss: see `loss_trend`. What lasts is
    reported once, and again if it had ended. `active` is the mask the epoch was trained with.
    """
    alpha, beta = observation.alpha, observation.beta
    rows = tuple(tuple(row) for row in alpha.tolist())
    if observation.epoch <= warmup_epochs:
        return HealthState(rows, state.losses, state.present), ()
    losses = (*state.losses, loss)[-WINDOW:]
    found = _dead_edges(alpha, alpha.new_tensor(state.alpha), beta, active, cell)
    share = operation_weights(alpha, active)[:, _WITHOUT_PARAMETERS].sum().item() / len(EDGES)
    if share > COLLAPSE_SHARE:
        found["collapse", None] = f"{share:.0%} of phi lies on operations without parameters"
    if (trend := loss_trend(losses)) is not None:
        found[trend[0], None] = trend[1]
    events = tuple(
        HealthEvent(observation.epoch, kind, None if index is None else EDGES[index], message)
        for (kind, index), message in found.items()
        if (kind, index) not in state.present
    )
    return HealthState(rows, losses, tuple(found)), events


def loss_trend(losses: Sequence[float]) -> tuple[str, str] | None:
    """Return `divergence` or `plateau` with what was measured, or None while the loss falls.

    The Theil-Sen slope with its 95 % interval (Sen 1968) over `WINDOW` epochs, since nnU-Net's loss
    may be negative: divergence where the interval is above zero, plateau where it contains zero.
    Fewer epochs have no trend, but a loss that is not finite is a divergence at once.
    """
    # Imported here since it takes a second and readers of events do not need it.
    from scipy.stats import theilslopes

    if not all(map(math.isfinite, losses)):
        return "divergence", "the training loss is not finite"
    if len(losses) < WINDOW:
        return None
    slope, _, low, high = theilslopes(losses, alpha=0.95)
    measured = f"{slope:+.2g} an epoch over {WINDOW} epochs (95 % interval {low:.2g} to {high:.2g})"
    if low > 0:
        return "divergence", f"the training loss rises: {measured}"
    return ("plateau", f"the training loss does not fall: {measured}") if high >= 0 else None


def parameter_free_share(genotype: Genotype) -> float:
    """Return the share of a genotype's operations that have no parameters."""
    names = [choice.operation for choice in genotype.choices]
    return sum(name in PARAMETER_FREE for name in names) / len(names)


def _dead_edges(
    alpha: Matrix, previous: Matrix, beta: PerEdge, active: Active, cell: CellConfig
) -> dict[tuple[str, int | None], str]:
    weights = edge_weights(beta, cell.edge_transform, cell.tan_clamp)
    undecided = active.sum(dim=1) > 1
    still = ((alpha == previous) | ~active).all(dim=1)
    dead: dict[tuple[str, int | None], str] = {}
    for index in (undecided & (still | (weights < DEAD_WEIGHT))).nonzero().flatten().tolist():
        dead["dead edge", index] = (
            "no gradient moved its alpha"
            if still[index]
            else f"its weight Psi is {weights[index].item():.1g}"
        )
    return dead
