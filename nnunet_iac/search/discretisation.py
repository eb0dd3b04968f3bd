"""From the relaxed cell to a genotype, and to the most important one within a budget."""

import decimal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product

import torch

from nnunet_iac.search.cost import QUANTITY_NAMES, CellCosts, Cost
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.pruning import best_operations
from nnunet_iac.search.relaxation import Active, Matrix, PerEdge, edge_weights, operation_weights
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    edges_into,
)


def discretise(
    alpha: Matrix,
    beta: PerEdge,
    active: Active,
    cell: CellConfig = CellConfig(),
    costs: CellCosts | None = None,
) -> Genotype:
    """Return the genotype: per edge the best active operation, per node its two heaviest edges.

    Edges are ranked by Psi, ties by the weight before the cap, then by the order of `EDGES`.

    Args:
        alpha: of the search's end.
        beta: of the search's end.
        active: the operations that are left.
        cell: weights of edges and operations, and the limits.
        costs: what decides whether that genotype is within the limits; if not, the
            genotype is `within_budget`'s. Without costs it is what the search wants.

    Raises:
        ValueError: no cell is within the budget.
    """
    operations = best_operations(alpha, beta, active, cell).tolist()
    transform = (cell.edge_transform, cell.tan_clamp)
    capped = edge_weights(beta, *transform).tolist()
    uncapped = edge_weights(beta, *transform, capped=False).tolist()
    kept = []
    for node in INTERMEDIATE_NODES:
        ranked = sorted(edges_into(node), key=lambda e: (-capped[e], -uncapped[e], e))
        kept += ranked[:EDGES_PER_NODE]
    wanted = Genotype(tuple(Choice(EDGES[e], OPERATIONS[operations[e]]) for e in kept))
    if costs is None:
        return wanted
    return within_budget(wanted, alpha, beta, active, cell, costs).genotype


QUANTITIES = {"max_parameter_ratio": "parameters", "max_mac_ratio": "macs"}
"""The field of `Cost` that each setting limits."""

RESOLUTION = 10**12
"""Importances are compared as integers in units of one over this, so that sums are exact."""


@dataclass(frozen=True)
class Limit:
    """One limit of the budget: cells may add at most `ratio` of the backbone's `quantity`."""

    setting: str
    ratio: float
    backbone: Cost

    def share(self, cost: Cost) -> float:
        """Return a cost as a share of the backbone."""
        quantity = QUANTITIES[self.setting]
        return getattr(cost, quantity) / getattr(self.backbone, quantity)

    def allows(self, cost: Cost) -> bool:
        """Return whether cells may cost so much."""
        return self.share(cost) <= self.ratio

    def __str__(self) -> str:
        """The limit as the settings write it."""
        return f"{self.setting}={self.ratio}"

    @property
    def unit(self) -> str:
        """The whole that its share refers to."""
        return f"the backbone's {QUANTITY_NAMES[QUANTITIES[self.setting]]}"


@dataclass(frozen=True)
class Budgeted:
    """The genotype a budget leaves, the one wanted without it, and what their cells cost.

    `kept_importance` is the sum of Theta over the genotype's edges, as a share of the wanted one's,
    in [0, 1]; 1 also where rearranging undecided edges makes it more.
    """

    genotype: Genotype
    wanted: Genotype
    cost: Cost
    wanted_cost: Cost
    kept_importance: float
    limits: tuple[Limit, ...]

    @property
    def gave_up(self) -> bool:
        """Whether the genotype is another one than the search wanted."""
        return self.genotype != self.wanted

    def __str__(self) -> str:
        """One line: the cost of the cells, and the choices given up for the limits."""
        if not self.limits:
            return "no budget was set for the cells"
        shares = " and ".join(f"{_percent(x.share(self.cost))} of {x.unit}" for x in self.limits)
        if not self.gave_up:
            return f"{', '.join(map(str, self.limits))}: the cells add {shares}"
        exceeded = [limit for limit in self.limits if not limit.allows(self.wanted_cost)]
        would = " and ".join(f"{_percent(x.share(self.wanted_cost))} of {x.unit}" for x in exceeded)
        return (
            f"{', '.join(map(str, exceeded))}: the cells would add {would}; "
            f"{', '.join(self._changes())}; they add {shares} and keep "
            f"{_percent(self.kept_importance)} of the importance"
        )

    def _changes(self) -> list[str]:
        """Return what was given up: of every node first the operations, then the edges."""
        before, after = self.wanted.operations, self.genotype.operations
        changes = []
        for node in INTERMEDIATE_NODES:
            edges = [EDGES[index] for index in edges_into(node)]
            changes += [
                f"{before[edge]} on {edge} became {after[edge]}"
                for edge in edges
                if edge in before and edge in after and before[edge] != after[edge]
            ]
            left = [edge for edge in edges if edge in before and edge not in after]
            came = [edge for edge in edges if edge in after and edge not in before]
            changes += [
                f"edge {old} with {before[old]} was replaced by {new} with {after[new]}"
                for old, new in zip(left, came, strict=True)
            ]
        return changes


def limits(costs: CellCosts, cell: CellConfig) -> tuple[Limit, ...]:
    """Return the limits that are set."""
    ratios = ((setting, getattr(cell, setting)) for setting in QUANTITIES)
    return tuple(Limit(*ratio, costs.backbone) for ratio in ratios if ratio[1] is not None)


def require_possible(costs: CellCosts, cell: CellConfig) -> None:
    """Raise a `ValueError` if even a cell whose edges cost nothing exceeds a limit."""
    for limit in limits(costs, cell):
        if not limit.allows(costs.fixed):
            least = _rounded_up(limit.share(costs.fixed))
            raise ValueError(
                f"the budget must leave room for the cheapest cells, which add {least} of "
                f"{limit.unit} by their projections and output alone; got {limit}: set "
                f"{limit.setting} to {least} or more, or channel_ratio or min_channels to less"
            )


def is_within(genotype: Genotype, costs: CellCosts, cell: CellConfig) -> bool:
    """Return whether the cells of a genotype are within every limit that is set."""
    return all(limit.allows(costs.of(genotype)) for limit in limits(costs, cell))


def require_within(genotype: Genotype, costs: CellCosts, cell: CellConfig) -> None:
    """Raise a `ValueError` if the cells of a given genotype, not a searched one, exceed a limit."""
    for limit in limits(costs, cell):
        if not limit.allows(costs.of(genotype)):
            share = _rounded_up(limit.share(costs.of(genotype)))
            raise ValueError(
                f"the cells of the given genotype must be within {limit}; they add {share} of "
                f"{limit.unit}: set {limit.setting} to {share} or more, or channel_ratio or "
                "min_channels to less, or give a cheaper genotype"
            )


def within_budget(
    wanted: Genotype,
    alpha: Matrix,
    beta: PerEdge,
    active: Active,
    cell: CellConfig,
    costs: CellCosts,
) -> Budgeted:
    """Return the wanted genotype if it is within the budget, else the most important one that is.

    Among all genotypes within the limits that is the one with the largest sum of Theta = phi Psi
    over its edges, where a pruned operation has none; of equal ones, that with the largest sum of
    softmax(alpha) Psi over all operations. It decides after a pruning search, which leaves one
    operation per edge, pruned alphas being what they were when pruned. Further ties keep the first
    edges and the last operations, as `discretise` does. phi Psi is taken in the raw modes too,
    whose own importance may be negative. The optimum is exact. The budget is our decision; the
    paper has none.
    """
    require_possible(costs, cell)
    weights = edge_weights(beta, cell.edge_transform, cell.tan_clamp)[:, None]
    among_active, among_all = (
        (operation_weights(alpha, mask) * weights * RESOLUTION).round().long().tolist()
        for mask in (active, torch.ones_like(active))
    )
    genotype = wanted
    if not is_within(wanted, costs, cell):
        genotype = _most_important(among_active, among_all, cell, costs)
    total, wanted_total = (
        sum(among_active[EDGES.index(c.edge)][OPERATIONS.index(c.operation)] for c in found.choices)
        for found in (genotype, wanted)
    )
    kept = min(1.0, total / wanted_total)
    spent = costs.of(genotype), costs.of(wanted)
    return Budgeted(genotype, wanted, *spent, kept, limits(costs, cell))


Spent = tuple[int, int]
"""Parameters and MACs of the edges so far."""

Merit = tuple[int, int, tuple[tuple[int, int], ...]]
"""Their sort key: both sums of importance, then (-edge, operation) of every choice."""


def _most_important(
    among_active: list[list[int]], among_all: list[list[int]], cell: CellConfig, costs: CellCosts
) -> Genotype:
    """Return the optimum by dynamic programming over the nodes.

    Two beginnings of a cell that spent the same have the same continuations, and every part of the
    merit adds up; so of each such set the best one is enough.
    """
    bounds = limits(costs, cell)

    def is_possible(spent: Spent) -> bool:
        cost = costs.fixed + Cost(*spent)
        return all(limit.allows(cost) for limit in bounds)

    prices = [
        (o, (costs.operations[name].parameters, costs.operations[name].macs))
        for o, name in enumerate(OPERATIONS)
    ]
    singles: list[list[tuple[Spent, Merit]]] = [
        [(price, (among_active[e][o], among_all[e][o], ((-e, o),))) for o, price in prices]
        for e in range(len(EDGES))
    ]
    best: dict[Spent, Merit] = {(0, 0): (0, 0, ())}
    for node in INTERMEDIATE_NODES:
        pairs = (
            pair
            for first, second in combinations(edges_into(node), EDGES_PER_NODE)
            for pair in product(singles[first], singles[second])
        )
        longer = _best(product(best.items(), _best(pairs).items()))
        best = {spent: merit for spent, merit in longer.items() if is_possible(spent)}
    _, _, choices = max(best.values())
    return Genotype(tuple(Choice(EDGES[-e], OPERATIONS[o]) for e, o in choices))


def _best(pairs: Iterable[tuple[tuple[Spent, Merit], tuple[Spent, Merit]]]) -> dict[Spent, Merit]:
    """Return the largest merit of two parts together for everything they may spend."""
    best: dict[Spent, Merit] = {}
    for ((p, m), (a, b, first)), ((q, n), (c, d, second)) in pairs:
        spent, merit = (p + q, m + n), (a + c, b + d, first + second)
        if spent not in best or merit > best[spent]:
            best[spent] = merit
    return best


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rounded_up(share: float) -> str:
    """Return three digits of a share, no less than it, so that the setting may take them."""
    context = decimal.Context(prec=3, rounding=decimal.ROUND_UP)
    return f"{context.create_decimal(repr(share)):f}"
