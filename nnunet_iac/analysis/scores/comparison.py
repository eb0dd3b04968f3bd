"""Two nnU-Nets on the same cases: paired by patient, and tested."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nnunet_iac.analysis.scores import statistics
from nnunet_iac.analysis.scores.case_scores import CaseScores, filled
from nnunet_iac.analysis.scores.class_errors import class_errors, errors_remarks, total_errors
from nnunet_iac.analysis.scores.statistics import DECIMALS, FEWEST_PATIENTS, MARGIN, Interval
from nnunet_iac.analysis.scores.surface_comparison import SurfaceComparison, surface_comparisons
from nnunet_iac.runs.scores import patient_means
from nnunet_iac.search.patients import named, patient_of

Verdict = Literal[
    "better", "worse", "mixed", "no difference detected", "too few patients", "no verdict"
]


@dataclass(frozen=True)
class CaseRow:
    """One case: Dice of either side, mean over classes, and B - A; None where there is none.

    The difference of a case that one side has no Dice of is from that side's mean.
    """

    case: str
    patient: str
    a: float | None
    b: float | None
    difference: float | None
    classes: dict[str, float | None]
    """All there is per class and side, by the names that the columns of the CSV have."""


@dataclass(frozen=True)
class PairedComparison:
    """B against A; every number is over patients, and Dice is in [0, 1].

    Args:
        labels: of A and B, as `folders`.
        cases: how many have a score on one side at least.
        mean_a: mean Dice over classes, then a patient's cases, then patients; `mean_b` likewise.
        difference: mean of B - A over patients, with its interval; None for one patient.
        p: of the signed-rank test, None without one; `p_holm`: adjusted for those made together.
        effect: matched-pairs rank-biserial correlation; positive where B is better.
        better: patients whose Dice B raises; `equal` and `worse` likewise.
        false_positives: of A and B, how many classes of cases are predicted that the truth lacks.
        misses: likewise, how many classes of cases that the truth has are not found at all.
        more_errors: patients in whom both together rise, less those in whom they fall.
        p_errors: of the sign test that these are as many, None where they do neither;
            `p_errors_holm`: adjusted likewise, apart from those of Dice.
        family: how many tests of Dice the adjusted p is one of; `errors_family` likewise.
        leakage: why a network may have seen the cases it is scored on.
        undecided: why there is no verdict; empty where there may be one.
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
    false_positives: tuple[float, float] = (0, 0)
    misses: tuple[float, float] = (0, 0)
    more_errors: int = 0
    p_errors: float | None = None
    p_errors_holm: float | None = None
    family: int = 1
    errors_family: int = 1
    surface: tuple[SurfaceComparison, ...] = ()
    leakage: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    undecided: str = ""

    @property
    def verdict(self) -> Verdict:
        """The result of the comparison for B.

        B is better or worse where the interval lies wholly on one side of 0 and an adjusted p, of
        Dice or of the sign test of false positives and misses, is at most 0.05, of at least
        `FEWEST_PATIENTS`: bootstrap intervals of few patients are too narrow, and the test alone
        does not give the size. With more false positives or more misses than A a B that would be
        better is mixed.
        """
        if self.undecided:
            return "no verdict"
        if self.patients < FEWEST_PATIENTS or self.interval is None:
            return "too few patients"
        changed = self.more_errors if detected(self.p_errors_holm) else 0
        if self.interval.low > 0 and (detected(self.p_holm) or changed < 0):
            return "mixed" if self.adds_errors else "better"
        if self.interval.high < 0 and (detected(self.p_holm) or changed > 0):
            return "worse"
        return "no difference detected"

    @property
    def adds_errors(self) -> bool:
        """Whether B has more false positives or more misses than A."""
        return any(round(b - a, DECIMALS) > 0 for a, b in (self.false_positives, self.misses))

    @property
    def not_inferior(self) -> bool:
        """Whether non-inferiority is shown, without more false positives or misses."""
        return self.non_inferiority.shown and not (self.adds_errors or self.undecided)


def detected(p: float | None) -> bool:
    """Return whether an adjusted p is small enough."""
    return p is not None and p <= statistics.ALPHA


def adjusted(family: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    """Return comparisons with their p values adjusted for each other (`statistics.holm`).

    B against A and A against B are one test. Those of Dice are one family, and those of false
    positives and misses another.
    """

    def tests(name: str) -> dict[frozenset[str], float]:
        known = ((frozenset(c.labels), getattr(c, name)) for c in family)
        return {labels: p for labels, p in known if p is not None}

    dice, errors = tests("p"), tests("p_errors")
    of_dice, of_errors = (
        dict(zip(found, statistics.holm(list(found.values())), strict=True))
        for found in (dice, errors)
    )
    return tuple(
        dataclasses.replace(
            c,
            p_holm=of_dice.get(frozenset(c.labels)),
            p_errors_holm=of_errors.get(frozenset(c.labels)),
            family=len(dice),
            errors_family=len(errors),
        )
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

    A case counts if one side has a Dice of it. The other side's, where prediction and truth are
    empty, is `filled`: so a false positive costs what it costs in nnU-Net's mean. `patient_pattern`
    is in place of the runs' own setting; without either a case is a patient.

    Raises:
        ValueError: other cases, classes or truths on one side; settings that disagree on the
            patients; a side without any Dice.
    """
    require_paired(a, b)
    pattern = _own_pattern(a, b) if patient_pattern is None else patient_pattern
    for side in (a, b):
        if all(dice is None for dice in side.dice.values()):
            raise ValueError(
                f"a comparison needs a Dice on both sides; {side.label} has none, because every "
                "prediction and truth is empty: name folders with some foreground"
            )
    cases = [c for c in sorted(a.dice) if a.dice[c] is not None or b.dice[c] is not None]
    of_a, of_b = (filled(side.dice, cases, pattern) for side in (a, b))
    changes = {case: of_b[case] - of_a[case] for case in cases}
    means_a, means_b, differences = (
        list(patient_means(of_cases, pattern)[0].values()) for of_cases in (of_a, of_b, changes)
    )
    values = [round(difference, DECIMALS) for difference in differences]
    interval, p = statistics.bootstrap_interval(values, seed), statistics.wilcoxon(values)
    errors = class_errors(a, b), class_errors(b, a)
    added = {case: sum(errors[1][case]) - sum(errors[0][case]) for case in a.dice}
    more = [round(change, DECIMALS) for change in patient_means(added, pattern)[0].values()]
    p_errors = statistics.sign_test(more)
    return PairedComparison(
        labels=(a.label, b.label),
        folders=(str(a.folder), str(b.folder)),
        cases=len(cases),
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
        non_inferiority=statistics.non_inferiority(values, interval, margin),
        rows=tuple(
            _row(case, patient_of(case, pattern), a, b, changes.get(case))
            for case in sorted(a.dice)
        ),
        false_positives=total_errors(errors, "false_positives"),
        misses=total_errors(errors, "misses"),
        more_errors=sum(change > 0 for change in more) - sum(change < 0 for change in more),
        p_errors=p_errors,
        p_errors_holm=p_errors,
        surface=surface_comparisons(a, b, pattern, seed),
        leakage=tuple(dict.fromkeys((*_leakage(a), *_leakage(b)))),
        remarks=(
            *dict.fromkeys((*a.remarks, *b.remarks, *_allowances(a), *_allowances(b))),
            *_remarks(pattern, sorted(a.dice.keys() - changes.keys()), interval, len(values)),
            *errors_remarks(errors),
        ),
        undecided=_undecided(a),
    )


def _undecided(a: CaseScores) -> str:
    """Return why nothing can be decided against A."""
    return "" if any(a.dice.values()) else "every Dice of A is 0"


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
        why = "left out because neither side has foreground in prediction or truth"
        yield f"{why}: {named(left_out)}"
    if interval is not None and interval.method == "percentile":
        yield "the interval is the percentile one, because BCa is degenerate here"
    if interval is not None and interval.method == "constant":
        yield "every patient has the same difference, so the interval is that one value"
    if patients < FEWEST_PATIENTS:
        yield (
            f"n = {patients}: below {FEWEST_PATIENTS} patients a two-sided signed-rank test cannot "
            "reach 0.05, and nothing is decided"
        )


def _row(
    case: str, patient: str, a: CaseScores, b: CaseScores, difference: float | None
) -> CaseRow:
    metrics = {"dice": (a.per_class, b.per_class), "hd95_mm": (a.hd95, b.hd95)}
    metrics["nsd"] = (a.nsd, b.nsd)
    classes = {
        f"{metric}_{side}_{name}": per_class[case].get(name)
        for metric, sides in metrics.items()
        for name in a.classes
        for side, per_class in zip("ab", sides, strict=True)
        if per_class is not None
    }
    return CaseRow(case, patient, a.dice[case], b.dice[case], difference, classes)
