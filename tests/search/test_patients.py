import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.patients import fitting_pattern, halves, named, patient_of, shared_patients

BEFORE_THE_LAST_DASH = r"^.*(?=-)"
case_lists = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3)).map(lambda pair: f"p{pair[0]}-{pair[1]}"),
    unique=True,
)


def test_without_a_pattern_every_case_is_a_patient():
    assert patient_of("liver_07_b", None) == "liver_07_b"


def test_the_patient_is_what_the_pattern_matches():
    assert patient_of("liver_07_b", r"\d+") == "07"


def test_a_case_that_the_pattern_does_not_match_is_refused():
    with pytest.raises(ValueError, match=r"'\\\\d\+' does not match 'liver'"):
        patient_of("liver", r"\d+")


def test_a_pattern_fits_cases_only_if_it_matches_all_of_them():
    assert fitting_pattern(["a_1", "b_2"], r"_\d") == r"_\d"
    assert fitting_pattern(["a_1", "b"], r"_\d") is None
    assert fitting_pattern(["a_1"], None) is None


def test_patients_on_both_sides_are_found():
    assert shared_patients(["b-1", "a-1", "c-1"], ["a-2", "b-2"], BEFORE_THE_LAST_DASH) == (
        "a",
        "b",
    )
    assert shared_patients(["b-1", "a-1"], ["a-2", "b-2"], None) == ()


@given(case_lists.filter(lambda cases: len({c[:2] for c in cases}) > 1), st.integers(0, 99))
def test_halves_split_the_patients_in_two_without_losing_a_case(cases, seed):
    first, second = halves(cases, BEFORE_THE_LAST_DASH, seed)
    assert sorted(first + second) == sorted(cases)
    assert shared_patients(first, second, BEFORE_THE_LAST_DASH) == ()
    patients = [len({case[:2] for case in half}) for half in (first, second)]
    assert patients[0] - patients[1] in (0, 1)
    assert halves(cases[::-1], BEFORE_THE_LAST_DASH, seed) == (first, second)


def test_another_seed_splits_differently():
    cases = [f"case_{number:02}" for number in range(20)]
    assert halves(cases, None, 0) != halves(cases, None, 1)


@pytest.mark.parametrize(("cases", "count"), [([], 0), (["a-1", "a-2"], 1)])
def test_fewer_than_two_patients_cannot_be_split(cases, count):
    with pytest.raises(ValueError, match=f"training cases have {count}: add patients"):
        halves(cases, BEFORE_THE_LAST_DASH, 0)


def test_a_long_list_is_named_by_its_first_and_its_length():
    assert named(["b", "a"]) == "a, b"
    assert named("dcba") == "a, b, c, … (4)"


def test_between_data_sets_a_case_that_the_pattern_does_not_match_is_a_patient():
    first, second = ["patient1_a", "other"], ["patient1_b", "other", "new"]
    assert shared_patients(first, second, r"patient\d", any_case=True) == ("other", "patient1")
    with pytest.raises(ValueError, match="must match every case"):
        shared_patients(first, second, r"patient\d")
