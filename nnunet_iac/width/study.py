"""A width chosen with many seeds on common images, in one result."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nnunet_iac.host.devices import require_device
from nnunet_iac.search.cost import Cost
from nnunet_iac.width import selection
from nnunet_iac.width.candidates import Candidate, candidates
from nnunet_iac.width.consensus import TOGETHER, Consensus, consensus
from nnunet_iac.width.crops import FoldName, central_crops, spread_cases
from nnunet_iac.width.selection import FEWEST_FOR_RULE, FEWEST_SEEDS, TAU, Rule
from nnunet_iac.width.sensitivity import Score, prepared, sensitivities
from nnunet_iac.width.source import Source

IMAGES = 16
SEEDS = 8


@dataclass(frozen=True)
class WidthChoice:
    """Scores that were measured, and the pick from them.

    `scores` are S, the mean over the `cases` of the fold (one image each), of every seed and
    candidate, the widest first.
    """

    candidates: tuple[Candidate, ...]
    costs: tuple[Cost, ...]
    fold: FoldName
    cases: tuple[str, ...]
    seeds: tuple[int, ...]
    score: Score
    device: str
    scores: Float[np.ndarray, "seeds caps"]
    consensus: Consensus

    @property
    def pick(self) -> int:
        """The cap."""
        return self.consensus.pick

    @property
    def mean(self) -> Float[np.ndarray, " caps"]:
        """Mean of ln S over the seeds."""
        return np.log(self.scores).mean(axis=0)

    @property
    def spread(self) -> Float[np.ndarray, " caps"]:
        """Standard deviation of ln S over the seeds; NaN for one seed."""
        if len(self.seeds) == 1:
            return np.full(len(self.candidates), math.nan)
        return np.log(self.scores).std(axis=0, ddof=1)

    def document(self) -> dict[str, Any]:
        """Return how the pick came about in plain types, for provenance."""
        found = self.consensus
        spread = [None if math.isnan(value) else round(float(value), 4) for value in self.spread]
        mean = [round(float(value), 4) for value in self.mean]
        return {
            "rule": found.together.rule,
            "tau": TAU if found.together.rule == "dispersion" else None,
            "score": self.score,
            "device": self.device,
            "fold": self.fold,
            "cases": list(self.cases),
            "seeds": list(self.seeds),
            "caps": [candidate.cap for candidate in self.candidates],
            "ln_sensitivity": {"mean": mean, "spread": spread},
            "picks": list(found.picks),
            "modal": found.modal,
            "agreement": found.agreement,
            "runner_up": found.runner_up,
            "together": found.together.pick,
            "range": list(found.together.range),
            "reasons": list(found.reasons),
            "warnings": list(found.warnings),
        }

    def lines(self) -> list[str]:
        """Return the table of the candidates, the votes, the reasons and the warnings as text."""
        found = self.consensus
        count = len(self.seeds)
        voters = f"picks of the {count} seeds"
        if found.together.rule == "dispersion":
            voters = f"picks with each of the {count} seeds left out"
        second = "" if found.runner_up is None else f", runner-up {found.runner_up}"
        return [
            *cost_lines(self.candidates, self.costs, self.pick, (self.mean, self.spread)),
            f"{voters}: {', '.join(str(cap or 'none') for cap in found.picks)}",
            f"modal pick: {found.modal}, agreement {found.agreement:.0%}{second}",
            f"{TOGETHER}: {found.together.pick}",
            f"pick: {self.pick} (rule {found.together.rule}, out of {found.together.range[0]} to "
            f"{found.together.range[1]})",
            *(f"  {reason}" for reason in found.reasons),
            *(f"warning: {warning}" for warning in found.warnings),
        ]


def choose_width(
    source: Source,
    rule: Rule = "curve",
    *,
    fold: FoldName = 0,
    images: int = IMAGES,
    seeds: Sequence[int] | None = None,
    score: Score = "sum",
    caps: Sequence[int] | None = None,
    within: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> WidthChoice:
    """Return the width that a rule picks for a network, with everything it rests on.

    Every seed draws every candidate's initial weights; all are measured on the same crops.

    Args:
        source: plans and trainer.
        rule: one of `selection.RULES`.
        fold: whose training cases the images come from.
        images: how many.
        seeds: of the initial weights; None is `default_seeds`.
        score: one of `sensitivity.SCORES`.
        caps: instead of the published halves.
        within: the largest and the smallest cap that may be picked; None is the rule's own range.
        device: where the networks run.
        report: receives a line per seed.
    """
    selection.require_rule(rule)
    chosen = candidates(source.architecture, caps)
    if len(chosen) < FEWEST_FOR_RULE[rule]:
        raise ValueError(
            f"the rule {rule} needs at least {FEWEST_FOR_RULE[rule]} candidates; got the "
            f"{len(chosen)} caps {', '.join(str(each.cap) for each in chosen)}: give more with "
            "--caps"
        )
    caps_in_order = [candidate.cap for candidate in chosen]
    selection.choices(rule, caps_in_order, within)
    seeds = default_seeds(rule) if seeds is None else tuple(seeds)
    selection.require_seeds(rule, len(seeds))
    require_device(str(device))
    cases = spread_cases(source, fold, images)
    costs = source.costs(chosen)
    crops = [crop.to(device) for crop in central_crops(source, cases)]
    scores = np.empty((len(seeds), len(chosen)))
    for row, seed in enumerate(seeds):
        for column, candidate in enumerate(chosen):
            network = prepared(source.network(candidate.cap, seed), device)
            scores[row, column] = np.mean(sensitivities(network, crops, score))
        report(f"seed {row + 1} of {len(seeds)}")
    parameters = [cost.parameters for cost in costs]
    found = consensus(rule, caps_in_order, parameters, scores, within)
    return WidthChoice(chosen, costs, fold, cases, seeds, score, str(device), scores, found)


def default_seeds(rule: Rule) -> tuple[int, ...]:
    """Return the seeds that a rule is given by default."""
    return tuple(range(max(SEEDS, FEWEST_SEEDS[rule])))


def cost_lines(
    candidates: Sequence[Candidate],
    costs: Sequence[Cost],
    pick: int,
    logarithms: tuple[Float[np.ndarray, " caps"], Float[np.ndarray, " caps"]] | None = None,
) -> list[str]:
    """Return a table of candidates and costs, with mean and spread of ln S where given.

    MACs are multiply-accumulates of one patch, FLOPs twice as many.
    """
    head = f"{'cap':>6}{'parameters':>14}{'MACs':>18}{'FLOPs':>18}"
    lines = [head if logarithms is None else f"{head}{'ln S':>10}{'spread':>9}"]
    for row, (candidate, cost) in enumerate(zip(candidates, costs, strict=True)):
        line = f"{candidate.cap:>6}{cost.parameters:>14,}{cost.macs:>18,}{2 * cost.macs:>18,}"
        if logarithms is not None:
            mean, spread = (values[row] for values in logarithms)
            line += f"{mean:>10.3f}" + (f"{'-':>9}" if math.isnan(spread) else f"{spread:>9.3f}")
        lines.append(f"{line}  <- pick" if candidate.cap == pick else line)
    return lines
