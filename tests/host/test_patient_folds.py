import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_iac.host.patient_folds import patient_folds

CASES = [f"patient{number}_{frame}" for number in range(7) for frame in "ab"]


@pytest.mark.parametrize("count", [2, 5, 7])
def test_every_patient_is_on_one_side_and_held_out_once(count):
    folds = patient_folds(CASES, r"patient\d", count)
    assert len(folds) == count
    assert sorted(case for fold in folds for case in fold["val"]) == CASES
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == CASES
        assert not {case[:8] for case in fold["train"]} & {case[:8] for case in fold["val"]}


def test_without_a_pattern_the_folds_are_nnunets_own():
    assert patient_folds(CASES, None) == generate_crossval_split(CASES, seed=12345, n_splits=5)


def test_fewer_patients_than_folds_are_an_error():
    with pytest.raises(ValueError, match="5 folds need as many patients; there are 2"):
        patient_folds(CASES[:4], r"patient\d")
