"""Distances of two nnU-Nets' surfaces from the truth's, paired by patient."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_iac.analysis.scores import statistics
from nnunet_iac.analysis.scores.case_scores import CaseScores, PerClass, filled
from nnunet_iac.analysis.scores.statistics import DECIMALS, Interval
from nnunet_iac.runs.scores import mean_of_present, patient_means


@dataclass(frozen=True)
class SurfaceComparison:
    """HD95 in mm (less is better) or NSD in [0, 1], described and not tested: Dice is tested.

    Means are over a case's classes, a patient's cases, and patients; the difference is the mean of
    B - A over patients. A class counts in HD95 where both sides have it, in NSD where prediction or
    truth has it. `undefined`: classes of cases that one of a side's prediction and the truth lacks.
    """

    metric: str
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    interval: Interval | None
    undefined_a: int
    undefined_b: int


def surface_comparisons(
    a: CaseScores, b: CaseScores, pattern: str | None, seed: int
) -> tuple[SurfaceComparison, ...]:
    """Return B against A by HD95 and NSD, one difference per patient; empty if one lacks them."""
    if a.hd95 is None or b.hd95 is None or a.nsd is None or b.nsd is None:
        return ()
    lacking = [sum(v is None for row in s.values() for v in row.values()) for s in (a.hd95, b.hd95)]
    hd95 = (_defined(a.hd95, b.hd95), _defined(b.hd95, a.hd95))
    sides = {"HD95 [mm]": hd95, "NSD": (a.nsd, b.nsd)}
    return tuple(_surface(name, *two, pattern, seed, lacking) for name, two in sides.items())


def _defined(one: PerClass, other: PerClass) -> PerClass:
    """Return the values of one side for the classes that have a value on both."""
    return {
        case: {n: v for n, v in row.items() if v is not None and other[case].get(n) is not None}
        for case, row in one.items()
    }


def _surface(
    metric: str, a: PerClass, b: PerClass, pattern: str | None, seed: int, lacking: Sequence[int]
) -> SurfaceComparison:
    x, y = ({case: mean_of_present(row.values()) for case, row in s.items()} for s in (a, b))
    known = [case for case in x if x[case] is not None or y[case] is not None]
    means_a, means_b = (patient_means(filled(s, known, pattern), pattern)[0] for s in (x, y))
    differences = [round(means_b[p] - means_a[p], DECIMALS) for p in means_a]
    return SurfaceComparison(
        metric,
        mean_of_present(means_a.values()),
        mean_of_present(means_b.values()),
        mean_of_present(differences),
        statistics.bootstrap_interval(differences, seed),
        *lacking,
    )
