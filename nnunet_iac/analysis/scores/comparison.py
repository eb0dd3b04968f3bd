"""Two nnU-Nets on the same cases: paired by patient, and tested."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nnunet_iac.analysis.scores import statistics
from nnunet_iac.analysis.scores.case_scores import CaseScores, PerClass, patient_means
from nnunet_iac.analysis.scores.statistics import DECIMALS, FEWEST_PATIENTS, MARGIN, Interval
from nnunet_iac.runs.scores import mean_of_present
from nnunet_iac.search.patients import named, patient_of

Verdict = Literal["better", "worse", "no difference detected", "too few patients"]


@dataclass(frozen=True)
class CaseRow:
    """One case: Dice of either side, mean over classes, and B - A; None where there is none."""

    case: str
    patient: str
    a: float | None
    b: float | None
    difference: float | None
    classes: dict[str, float | None]
    """All there is per class and side, by the names that the columns of the CSV have."""


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


@dataclass(frozen=True)
class PairedComparison:
    """B against A; every number is over patients, and Dice is in [0, 1].

    Args:
        labels: of A and B, as `folders`.
        cases: how many have a score on both sides.
        mean_a: mean Dice over classes, then a patient's cases, then patients; `mean_b` likewise.
        difference: mean of B - A over patients, with its interval; None for one patient.
        p: of the signed-rank test, None without one; `p_holm`: adjusted for those made together.
        effect: matched-pairs rank-biserial correlation; positive where B is better.
        better: patients whose Dice B raises; `equal` and `worse` likewise.
        leakage: why a network may have seen the cases it is scored on.
    """

    labels: tuple[str, str]
    folders: tuple[str, str]
    cases: int
    patients: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval | None
    p: float | None
    p_holm: float | None
    effect: float
    better: int
    equal: int
    worse: int
    non_inferiority: statistics.NonInferiority
    rows: tuple[CaseRow, ...]
    surface: tuple[SurfaceComparison, ...] = ()
    leakage: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What the comparison shows of B.

        B is better or worse where the interval lies wholly on one side of 0 and the adjusted p is
        at most 0.05, of at least `FEWEST_PATIENTS`: bootstrap intervals of few patients are too
        narrow, and the test alone does not give the size.
        """
        if self.patients < FEWEST_PATIENTS or self.interval is None:
            return "too few patients"
        if self.p_holm is not None and self.p_holm <= statistics.ALPHA:
            if self.interval.low > 0:
                return "better"
            if self.interval.high < 0:
                return "worse"
        return "no difference detected"


def adjusted(family: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    """Return comparisons with their p values adjusted for each other (`statistics.holm`).

    B against A and A against B are one test.
    """
    p_values = {frozenset(c.labels): c.p for c in family if c.p is not None}
    holms = dict(zip(p_values, statistics.holm(list(p_values.values())), strict=True))
    return tuple(
        dataclasses.replace(c, p_holm=None if c.p is None else holms[frozenset(c.labels)])
        for c in family
    )


def compare_scores(
    a: CaseScores,
    b: CaseScores,
    *,
    patient_pattern: str | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> PairedComparison:
    """Return B against A, one difference per patient: the mean over its cases of B - A.

    `patient_pattern` is in place of the runs' own setting; without either a case is a patient.

    Raises:
        ValueError: other cases, classes or truths on one side; settings that disagree on the
            patients; no case with a score on both sides.
    """
    require_paired(a, b)
    pattern = _own_pattern(a, b) if patient_pattern is None else patient_pattern
    pairs = {case: (a.dice[case], b.dice[case]) for case in sorted(a.dice)}
    both = {c: (x, y) for c, (x, y) in pairs.items() if x is not None and y is not None}
    if not both:
        raise ValueError(
            f"a comparison needs a case with a Dice on both sides; {a.label} and {b.label} have "
            "none: name folders with some foreground"
        )
    means_a, means_b, differences = (
        list(patient_means(dict(zip(both, values, strict=True)), pattern)[0].values())
        for values in zip(*((x, y, y - x) for x, y in both.values()), strict=True)
    )
    values = [round(difference, DECIMALS) for difference in differences]
    interval, p = statistics.bootstrap_interval(values, seed), statistics.wilcoxon(values)
    return PairedComparison(
        labels=(a.label, b.label),
        folders=(str(a.folder), str(b.folder)),
        cases=len(both),
        patients=len(values),
        mean_a=sum(means_a) / len(values),
        mean_b=sum(means_b) / len(values),
        difference=sum(differences) / len(values),
        interval=interval,
        p=p,
        p_holm=p,
        effect=statistics.rank_biserial(values),
        better=sum(value > 0 for value in values),
        equal=sum(value == 0 for value in values),
        worse=sum(value < 0 for value in values),
        non_inferiority=statistics.non_inferiority(values, margin, seed),
        rows=tuple(_row(case, patient_of(case, pattern), a, b) for case in pairs),
        surface=_surfaces(a, b, pattern, seed),
        leakage=tuple(dict.fromkeys((*_leakage(a), *_leakage(b)))),
        remarks=(
            *dict.fromkeys((*a.remarks, *b.remarks, *_allowances(a), *_allowances(b))),
            *_remarks(a, b, pattern, sorted(pairs.keys() - both.keys()), interval, len(values)),
        ),
    )


def require_paired(a: CaseScores, b: CaseScores) -> None:
    """Check that both sides have the same cases, classes and truths."""
    for one, other in ((a, b), (b, a)):
        if missing := one.dice.keys() - other.dice.keys():
            raise ValueError(
                f"both sides must have the same cases; {other.label} lacks {named(missing)} of "
                f"{one.label}: validate or predict the same cases with both"
            )
    if a.classes != b.classes:
        raise ValueError(
            f"both sides must have the same classes; {a.label} has {', '.join(a.classes)} and "
            f"{b.label} {', '.join(b.classes)}: evaluate both with one dataset.json"
        )
    if a.truth_voxels is None or b.truth_voxels is None:
        return
    if other_truth := [c for c, sizes in a.truth_voxels.items() if sizes != b.truth_voxels[c]]:
        raise ValueError(
            f"both sides must be scored against the same truth; {a.label} and {b.label} have "
            f"others for {named(other_truth)}: evaluate both against one folder"
        )


def _own_pattern(a: CaseScores, b: CaseScores) -> str | None:
    """Return the pattern of patients in the runs' settings."""
    patterns = {
        source.data.patient_pattern: scores.label
        for scores in (a, b)
        for source in scores.sources
        if source.data is not None
    }
    if len(patterns) > 1:
        found = " and ".join(f"{pattern!r} in {label}" for pattern, label in patterns.items())
        raise ValueError(
            f"the runs must agree on patient_pattern; it is {found}: pass --patient-pattern"
        )
    return next(iter(patterns), None)


def require_pattern(pattern: str) -> None:
    """Check that what is given in place of the runs' own pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--patient-pattern must be a regular expression; {pattern!r} is none ({error}): "
            "correct it"
        ) from error


def _leakage(scores: CaseScores) -> Iterable[str]:
    for source in scores.sources:
        where = scores.label if source.fold is None else f"{scores.label}, {source.fold.name}"
        if source.record is not None and source.record.leakage is not None:
            yield f"{where}: the backbone {source.record.leakage}"


def _allowances(scores: CaseScores) -> Iterable[str]:
    """Yield a remark on what was allowed and not needed."""
    for source in scores.sources:
        leaked = source.record is not None and source.record.leakage is not None
        if source.data is not None and source.data.allow_leakage and not leaked:
            yield f"{scores.label} has the setting allow_leakage, and no leak was found"


def _remarks(
    a: CaseScores,
    b: CaseScores,
    pattern: str | None,
    left_out: Sequence[str],
    interval: Interval | None,
    patients: int,
) -> Iterable[str]:
    if pattern is None:
        yield "every case counts as a patient: patient_pattern is not set"
    else:
        yield f"patients are the matches of {pattern!r} in the case ids"
    if left_out:
        why = "left out because a side has no foreground in prediction and truth"
        yield f"{why}: {named(left_out)}"
    lopsided = [
        case
        for case, scores in a.per_class.items()
        if any((v is None) is not (b.per_class[case].get(n) is None) for n, v in scores.items())
    ]
    if lopsided:
        yield (
            "a class that the truth lacks and one side predicts has a Dice (of 0) on that side "
            f"only, so the means are over different classes in {named(lopsided)}"
        )
    if interval is not None and interval.method == "percentile":
        yield "the interval is the percentile one, because BCa is degenerate here"
    if interval is not None and interval.method == "constant":
        yield "every patient has the same difference, so the interval is that one value"
    if patients < FEWEST_PATIENTS:
        yield (
            f"n = {patients}: below {FEWEST_PATIENTS} patients a two-sided signed-rank test cannot "
            "reach 0.05, and nothing is decided"
        )


def _row(case: str, patient: str, a: CaseScores, b: CaseScores) -> CaseRow:
    x, y = a.dice[case], b.dice[case]
    metrics = {"dice": (a.per_class, b.per_class), "hd95_mm": (a.hd95, b.hd95)}
    metrics["nsd"] = (a.nsd, b.nsd)
    classes = {
        f"{metric}_{side}_{name}": per_class[case].get(name)
        for metric, sides in metrics.items()
        for name in a.classes
        for side, per_class in zip("ab", sides, strict=True)
        if per_class is not None
    }
    return CaseRow(case, patient, x, y, None if x is None or y is None else y - x, classes)


def _surfaces(
    a: CaseScores, b: CaseScores, pattern: str | None, seed: int
) -> tuple[SurfaceComparison, ...]:
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
    both = [case for case in x if x[case] is not None and y[case] is not None]
    means_a, means_b = (patient_means({c: s[c] for c in both}, pattern)[0] for s in (x, y))
    differences = [round(means_b[p] - means_a[p], DECIMALS) for p in means_a]
    return SurfaceComparison(
        metric,
        mean_of_present(means_a.values()),
        mean_of_present(means_b.values()),
        mean_of_present(differences),
        statistics.bootstrap_interval(differences, seed),
        *lacking,
    )
