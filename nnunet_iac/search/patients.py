"""Cases grouped into patients, who are never on both sides of a split."""

import random
import re
from collections.abc import Iterable, Sequence

_NAMED = 3
"""Names that a message contains of a longer list."""


def patient_of(case: str, pattern: str | None) -> str:
    """Return the pattern's match in a case, or the whole case id without a pattern."""
    if pattern is None:
        return case
    match = re.search(pattern, case)
    if match is None:
        raise ValueError(
            f"patient_pattern must match every case; {pattern!r} does not match {case!r}: "
            "widen it, or leave it out where every case is a patient"
        )
    return match.group(0)


def fitting_pattern(cases: Iterable[str], pattern: str | None) -> str | None:
    """Return the pattern if it matches all cases; else None, with which every case is a patient.

    A pattern of one data set need not match the cases of another.
    """
    if pattern is None or not all(re.search(pattern, case) for case in cases):
        return None
    return pattern


def shared_patients(
    first: Iterable[str], second: Iterable[str], pattern: str | None, *, any_case: bool = False
) -> tuple[str, ...]:
    """Return the patients with cases on both sides, sorted.

    If `any_case`, as between data sets, the pattern need not match every case, and one that it does
    not match is a patient of its own.
    """

    def patient(case: str) -> str:
        fits = pattern is None or not any_case or re.search(pattern, case) is not None
        return patient_of(case, pattern if fits else None)

    patients = (set(map(patient, side)) for side in (first, second))
    return tuple(sorted(set.intersection(*patients)))


def named(names: Iterable[str]) -> str:
    """Return cases or patients for a message: sorted, the first few and how many there are."""
    listed = sorted(names)
    shown = ", ".join(listed[:_NAMED])
    return f"{shown}, … ({len(listed)})" if len(listed) > _NAMED else shown


def halves(
    cases: Sequence[str], pattern: str | None, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the cases as train_search and val_search: half of the patients each, by `seed`.

    With an odd number of patients the first half has one more.
    """
    patients = sorted({patient_of(case, pattern) for case in cases})
    if len(patients) < 2:
        raise ValueError(
            "the full search needs at least two patients to split into train_search and "
            f"val_search; the fold's training cases have {len(patients)}: add patients, or search "
            "with nnUNetTrainerIACLTH, which keeps no cases apart"
        )
    random.Random(seed).shuffle(patients)
    second = set(patients[len(patients) - len(patients) // 2 :])
    return (
        tuple(case for case in sorted(cases) if patient_of(case, pattern) not in second),
        tuple(case for case in sorted(cases) if patient_of(case, pattern) in second),
    )
