"""Classes that a network predicts though the truth lacks them, and those it does not find."""

from collections.abc import Iterable, Mapping, Sequence

from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.runs.scores import CaseErrors
from nnunet_iac.search.patients import named


def class_errors(own: CaseScores, other: CaseScores) -> Mapping[str, CaseErrors]:
    """Return a side's false positives and misses per case.

    Where they are unknown, a Dice on one side alone is a false positive, since the truth is empty,
    and a Dice of 0 beside a higher one a miss.
    """
    if own.errors is not None and other.errors is not None:
        return own.errors
    pairs = {case: (dice, other.dice[case]) for case, dice in own.dice.items()}
    return {
        case: CaseErrors(x is not None and y is None, x == 0 and bool(y))
        for case, (x, y) in pairs.items()
    }


def total_errors(sides: Sequence[Mapping[str, CaseErrors]], kind: str) -> tuple[float, float]:
    """Return how many errors of a kind (a field of `CaseErrors`) A and B have in all cases."""
    a, b = (sum(getattr(errors, kind) for errors in side.values()) for side in sides)
    return a, b


def errors_remarks(sides: Sequence[Mapping[str, CaseErrors]]) -> Iterable[str]:
    """Yield which cases have false positives and misses, of A and of B."""
    for name, side in zip("AB", sides, strict=True):
        if cases := [case for case, errors in side.items() if errors.false_positives]:
            yield f"{name} predicts a class that the truth lacks in {named(cases)}"
        if cases := [case for case, errors in side.items() if errors.misses]:
            yield f"{name} finds nothing of a class of the truth in {named(cases)}"
