"""nnU-Net's split into folds, drawn over patients."""

from collections.abc import Sequence

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_iac.runs.splits import FOLDS, SPLIT_SEED
from nnunet_iac.search.patients import patient_of


def patient_folds(
    cases: Sequence[str], pattern: str | None, count: int = FOLDS
) -> list[dict[str, list[str]]]:
    """Return `count` folds; without a pattern every case is a patient, as for nnU-Net.

    Raises:
        ValueError: fewer patients than folds.
    """
    patient = {case: patient_of(case, pattern) for case in cases}
    patients = sorted(set(patient.values()))
    if len(patients) < count:
        raise ValueError(
            f"{count} folds need as many patients; there are {len(patients)}: name splits with "
            "fewer folds"
        )
    found = []
    for fold in generate_crossval_split(patients, seed=SPLIT_SEED, n_splits=count):
        sides = {side: set(of) for side, of in fold.items()}
        found.append({side: [c for c in cases if patient[c] in of] for side, of in sides.items()})
    return found
