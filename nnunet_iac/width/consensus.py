"""The width that a rule picks from many seeds: their votes, and how far they agree."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from nnunet_iac.width import selection
from nnunet_iac.width.selection import Rule, WidthDecision, boundary_warnings

AGREEMENT = 0.8
"""With a smaller share of the seeds behind the pick, more seeds are advised."""

ALONE = "single seeds pick"
LEFT_OUT = "with one seed left out, the picks are"
TOGETHER = "all seeds together"


@dataclass(frozen=True)
class Consensus:
    """Pick of a rule from many seeds.

    Args:
        pick: the cap: of `curve` and `slope` the modal pick, of `dispersion` that of all seeds.
        picks: one per seed; of `dispersion`, with this seed left out, and None where the others
            leave nothing to pick.
        modal: the most frequent cap among them, the widest of several; that of `together` where
            there is none.
        agreement: share of the seeds whose pick is the modal one.
        runner_up: the most frequent cap but `pick`; where there is none, that of `together`.
        together: the decision on all seeds together.
        reasons: sentences on the picks, then those of `together`.
        warnings: sentences on a pick at the boundary, and on disagreement: fewer than `AGREEMENT`
            of the seeds share the pick, or all together pick otherwise.
    """

    pick: int
    picks: tuple[int | None, ...]
    modal: int
    agreement: float
    runner_up: int | None
    together: WidthDecision
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def consensus(
    rule: Rule,
    caps: Sequence[int],
    parameters: Sequence[int],
    scores: Float[np.ndarray, "seeds caps"],
    within: tuple[int, int] | None = None,
) -> Consensus:
    """Return what a rule picks from many seeds, and how far they agree.

    With `curve` and `slope` every seed has a vote. The geometric mean of S over the seeds, for S
    varies by factors, gives a second opinion only: where the curve is flat, its bends are the
    noise that is left, and its pick repeats less than the vote (docs/evidence/width.md). One seed
    is the published procedure. `caps` run from wide to narrow, `parameters` are those of each
    network, and `within` is as of `selection.choices`.
    """
    selection.require_rule(rule)
    if len(scores) == 0:
        raise ValueError("a width is chosen with at least one seed; got 0")
    picks: tuple[int | None, ...]
    if rule == "dispersion":
        together = selection.dispersion(caps, scores, within=within)
        left_out = (np.delete(scores, seed, axis=0) for seed in range(len(scores)))
        decisions = [selection.steadiest(caps, rest, within) for rest in left_out]
        picks = tuple(None if decision is None else decision.pick for decision in decisions)
    else:
        slope = partial(selection.slope, parameters=parameters)
        decide = selection.curve if rule == "curve" else slope
        picks = tuple(decide(caps, seed, within=within).pick for seed in scores)
        together = decide(caps, np.exp(np.log(scores).mean(axis=0)), within=within)
    votes = Counter(sorted(picks, key=lambda cap: cap or 0, reverse=True))
    ranked = [cap for cap, _ in votes.most_common() if cap is not None]
    modal = ranked[0] if ranked else together.pick
    pick = together.pick if rule == "dispersion" else modal
    others = [c for c in (*ranked, together.pick, together.runner_up) if c not in (pick, None)]
    votes_of = ALONE if rule != "dispersion" else LEFT_OUT
    counted = ", ".join(f"{cap or 'none'} ({count})" for cap, count in votes.most_common())
    warnings = list(boundary_warnings(rule, pick, together.range))
    if len(scores) == 1:
        warnings.append(
            "one seed does not show how much of the pick is chance: use --seeds 8 or more"
        )
    elif votes[pick] < AGREEMENT * len(scores):
        warnings.append(
            f"fewer than {AGREEMENT:.0%} of the {len(scores)} seeds share the pick {pick}: "
            f"{votes_of} {counted}; use more --seeds"
        )
    if modal != together.pick:
        warnings.append(f"{votes_of} mostly {modal}, {TOGETHER} {together.pick}: compare both")
    return Consensus(
        pick,
        picks,
        modal,
        votes[modal] / len(scores),
        others[0] if others else None,
        together,
        (f"{votes_of} {counted}", *(f"{TOGETHER}: {reason}" for reason in together.reasons)),
        tuple(warnings),
    )
