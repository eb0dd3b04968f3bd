"""The rules that pick a width from sensitivities: scores in, a decision with its reasons out.

XTinyU-Net (arXiv 2605.09639), selection. Candidates are ordered from wide to narrow, and a score is
S(cap) > 0, the sensitivity of a network at initialisation; only its relative course matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

Rule = Literal["curve", "slope", "dispersion"]
RULES: tuple[Rule, ...] = get_args(Rule)

FEWEST_FOR_RULE: Mapping[Rule, int] = {"curve": 5, "slope": 6, "dispersion": 5}
"""Candidates that a rule needs to have at least one to pick."""

POSSIBLE: Mapping[Rule, slice] = {
    "curve": slice(None, -1),
    "slope": slice(1, -3),
    "dispersion": slice(None),
}
"""Candidates, the widest first, that a rule can pick."""

PUBLISHED: Mapping[Rule, slice] = {**POSSIBLE, "curve": slice(1, -3), "slope": slice(2, -3)}
"""Those of them that it is published to pick from."""

FEWEST_SEEDS: Mapping[Rule, int] = {"curve": 1, "slope": 1, "dispersion": 16}
TAU = 0.25
"""Largest spread of ln S over seeds that `dispersion` calls steady."""

_FLAT = 1e-9


@dataclass(frozen=True)
class WidthDecision:
    """Pick of a rule, and its reason.

    Args:
        rule: its name.
        pick: the cap.
        runner_up: the cap it would have picked next; None where there was but one to pick.
        range: the largest and the smallest cap that it could have picked.
        reasons: sentences.
    """

    rule: Rule
    pick: int
    runner_up: int | None
    range: tuple[int, int]
    reasons: tuple[str, ...]


def require_rule(rule: str) -> None:
    """Check the name of a rule."""
    if rule not in RULES:
        raise ValueError(f"the rule must be one of {', '.join(RULES)}; got {rule!r}")


def require_seeds(rule: Rule, count: int) -> None:
    """Check the number of seeds that a rule is given."""
    if count < FEWEST_SEEDS[rule]:
        raise ValueError(
            f"the rule {rule} needs at least {FEWEST_SEEDS[rule]} seeds; got {count}: use --seeds "
            f"{FEWEST_SEEDS[rule]}"
        )


def choices(
    rule: Rule, caps: Sequence[int], within: tuple[int, int] | None = None
) -> tuple[int, ...]:
    """Return the caps, out of those from wide to narrow, that a rule may pick.

    `within` is the largest and the smallest; None is the published range.
    """
    if within is None:
        return tuple(caps[PUBLISHED[rule]])
    largest, smallest = within
    possible = caps[POSSIBLE[rule]]
    allowed = tuple(cap for cap in possible if smallest <= cap <= largest)
    if not allowed:
        raise ValueError(
            f"the rule {rule} must have a cap to pick, from the largest to the smallest that "
            f"--within names; of its {', '.join(map(str, possible))} none is within {largest} to "
            f"{smallest}: widen it"
        )
    return allowed


def curve(
    caps: Sequence[int],
    scores: Float[np.ndarray, " caps"],
    within: tuple[int, int] | None = None,
) -> WidthDecision:
    """Return the newer published rule's decision: the wide end of the sharpest hinge.

    With S scaled to [0, 1] and d_j = |S_{j+1} - S_j| from wide to narrow, a hinge k has the score
    mean(d_{k-1} ... d_{n-2}) - mean(d_0 ... d_{k-1}). The pick is candidate k - 1 of the first
    best hinge. The published range, k from 2 to n - 3, leaves out the widest and the three
    narrowest caps; the narrowest can never be picked.
    """
    changes = np.abs(np.diff(_normalised("curve", caps, scores)))
    sides = {
        caps[k - 1]: (float(changes[k - 1 :].mean()), float(changes[:k].mean()))
        for k in range(1, len(caps))
    }
    reason = (
        "from cap {} down S changes by {:.3f} of its range from one candidate to the next, above "
        "it by {:.3f}"
    )
    return _decision("curve", sides, choices("curve", caps, within), reason)


def slope(
    caps: Sequence[int],
    scores: Float[np.ndarray, " caps"],
    parameters: Sequence[int],
    within: tuple[int, int] | None = None,
) -> WidthDecision:
    """Return the decision of the rule of the paper's first version, on parameters.

    From narrow to wide, y_i = |S_i - S_{i-1}| are n - 1 points over log10(parameters), r_0 ...
    r_{n-4} the absolute differences of the slopes between them; point k has the score
    mean(r_0 ... r_{k-2}) - mean(r_{k-1} ... r_{n-4}), and the first best one is picked. The
    published range, k from 2 to n - 4, leaves out the two widest and the three narrowest caps;
    k = n - 3 is possible.
    """
    rising = _normalised("slope", caps, scores)[::-1]
    if len(parameters) != len(caps) or any(narrow >= wide for wide, narrow in pairwise(parameters)):
        raise ValueError(
            "the rule slope needs numbers of parameters that fall with the caps "
            f"{', '.join(map(str, caps))}; got {', '.join(map(str, parameters))}"
        )
    sizes = np.log10(np.array(parameters[::-1], dtype=float))
    bends = np.abs(np.diff(np.diff(np.abs(np.diff(rising))) / np.diff(sizes[1:])))
    points = tuple(caps)[-2::-1]
    sides = {
        points[k]: (float(bends[: k - 1].mean()), float(bends[k - 1 :].mean()))
        for k in range(2, len(caps) - 2)
    }
    reason = (
        "up to cap {} the slope of |S_i - S_i-1| over log10(parameters) bends by {:.3f} from point "
        "to point, beyond it by {:.3f}"
    )
    return _decision("slope", sides, choices("slope", caps, within), reason)


def dispersion(
    caps: Sequence[int],
    scores: Float[np.ndarray, "seeds caps"],
    within: tuple[int, int] | None = None,
) -> WidthDecision:
    """Return the smallest cap at which the random draw of the weights hardly matters.

    Ours, not published, and experimental. The spread is the standard deviation of ln S over sixteen
    seeds or more (n - 1 in the denominator); it is made monotone from wide to narrow by its running
    maximum. The pick is the smallest cap whose spread is at most `TAU`, in units of ln S; the
    runner-up is the next wider one.
    """
    require_seeds("dispersion", len(scores))
    decision = steadiest(caps, scores, within)
    if decision is None:
        widest = choices("dispersion", caps, within)[0]
        spread = _monotone_spread(scores)[list(caps).index(widest)]
        larger = "" if widest == caps[0] else ", or a larger cap to begin --within"
        raise ValueError(
            f"the spread of ln S over seeds must be at most tau = {TAU:g} for the widest candidate "
            f"that may be picked; at cap {widest} it is {spread:.3f}: use the rule curve{larger}"
        )
    return decision


def steadiest(
    caps: Sequence[int],
    scores: Float[np.ndarray, "seeds caps"],
    within: tuple[int, int] | None,
) -> WidthDecision | None:
    """Return `dispersion`'s decision of two seeds or more; None where no candidate is steady."""
    _require_scores("dispersion", caps, scores)
    allowed = choices("dispersion", caps, within)
    highest = dict(zip(caps, _monotone_spread(scores), strict=True))
    steady = sum(bool(highest[cap] <= TAU) for cap in allowed)
    if not steady:
        return None
    pick = allowed[steady - 1]
    reasons = [f"at cap {pick} ln S spreads by {highest[pick]:.3f} over seeds, tau is {TAU:g}"]
    reasons += [f"at cap {c} it spreads by {highest[c]:.3f}" for c in allowed[steady : steady + 1]]
    others = (*allowed[: steady - 1][::-1], *allowed[steady:])
    ends = allowed[0], allowed[-1]
    return WidthDecision("dispersion", pick, others[0] if others else None, ends, tuple(reasons))


def boundary_warnings(rule: Rule, pick: int, ends: tuple[int, int]) -> tuple[str, ...]:
    """Return what to know of a pick at an end of its rule's range, or alone in it."""
    if pick not in ends:
        return ()
    if ends[0] == ends[1]:
        return (
            f"{pick} is the only cap that the rule {rule} can pick among these candidates: there "
            "was no choice; give more with --caps, or a wider range with --within",
        )
    end = "smallest" if pick == ends[1] else "largest"
    return (
        f"the pick {pick} is the {end} cap that the rule {rule} can choose among these candidates "
        f"({ends[0]} to {ends[1]}): what lies beyond was not in question, so compare with the "
        "runner-up before you rely on it",
    )


def _normalised(
    rule: Rule, caps: Sequence[int], scores: Float[np.ndarray, " caps"]
) -> Float[np.ndarray, " caps"]:
    """Return a curve scaled to [0, 1]."""
    _require_scores(rule, caps, scores[None])
    low, high = scores.min(), scores.max()
    if high - low <= _FLAT * high:
        raise ValueError(
            f"the sensitivities must differ between widths; all {len(caps)} are {high:.6g}: the "
            "trainer's network may ignore the widths of the plans"
        )
    return (scores - low) / (high - low)


def _require_scores(
    rule: Rule, caps: Sequence[int], scores: Float[np.ndarray, "seeds caps"]
) -> None:
    if len(caps) < FEWEST_FOR_RULE[rule] or scores.shape[1:] != (len(caps),):
        raise ValueError(
            f"the rule {rule} needs at least {FEWEST_FOR_RULE[rule]} candidates, each with its "
            f"score; got {len(caps)} caps and scores of the shape {scores.shape}: give more with "
            "--caps"
        )
    if any(narrow >= wide for wide, narrow in pairwise(caps)):
        raise ValueError(
            f"caps must be ordered from wide to narrow; got {', '.join(map(str, caps))}"
        )
    for cap, column in zip(caps, scores.T, strict=True):
        if not np.isfinite(column).all() or column.min() <= 0:
            wrong = column[~(np.isfinite(column) & (column > 0))][0]
            raise ValueError(
                f"sensitivities must be finite and above zero; at cap {cap} one is {wrong}: check "
                "the preprocessed images for NaN, and the network's initial weights"
            )


def _monotone_spread(scores: Float[np.ndarray, "seeds caps"]) -> Float[np.ndarray, " caps"]:
    """Return the running maximum of the spread of ln S over seeds, from wide to narrow."""
    return np.maximum.accumulate(np.log(scores).std(axis=0, ddof=1))


def _decision(
    rule: Rule, sides: Mapping[int, tuple[float, float]], allowed: Sequence[int], reason: str
) -> WidthDecision:
    """Return the first best of the allowed hinges, in the rule's own order of `sides`.

    A hinge is the difference of its two sides; `reason` is a template for the pick and its sides.
    """
    hinges = {cap: sides[cap][0] - sides[cap][1] for cap in sides if cap in allowed}
    order = sorted(hinges, key=lambda cap: -hinges[cap])
    pick, runner_up = order[0], order[1] if len(order) > 1 else None
    reasons = [reason.format(pick, *sides[pick])]
    if runner_up is not None:
        behind = hinges[pick] - hinges[runner_up]
        reasons.append(f"the hinge at cap {runner_up} is {behind:.3f} weaker")
    ends = allowed[0], allowed[-1]
    return WidthDecision(rule, pick, runner_up, ends, tuple(reasons))
