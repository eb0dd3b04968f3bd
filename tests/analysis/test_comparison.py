"""Two nnU-Nets on the same cases: what is computed, printed, written and refused."""

import csv
import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_folders import weights, write_run_fold, write_stock_fold, write_summary

from nnunet_iac import cli
from nnunet_iac.analysis.scores.case_scores import CaseScores, read_case_scores
from nnunet_iac.analysis.scores.comparison import PairedComparison, compare_scores
from nnunet_iac.analysis.scores.comparison_tables import (
    document,
    latex,
    table,
    write_comparisons,
)
from nnunet_iac.analysis.scores.comparisons import Comparisons, compare_folders
from nnunet_iac.analysis.scores.statistics import MARGIN, Interval, NonInferiority
from nnunet_iac.analysis.scores.wording import finding
from nnunet_iac.cli import main
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import FINAL, MIRRORING
from nnunet_iac.search.settings import Settings

# Six patients of one case each; B - A is 0.01, 0.02, 0.03, 0.04, 0.05, 0.06.
A = {f"case_{i}": 0.7 for i in range(6)}
B = {f"case_{i}": 0.71 + i / 100 for i in range(6)}


def _scores(dice, label="x", classes=("1",), **more):
    per_class = {case: dict.fromkeys(classes, value) for case, value in dice.items()}
    return CaseScores(Path(label), label, dict(dice), per_class, **more)


def _compared(a, b, **how):
    return compare_scores(_scores(a, "A"), _scores(b, "B"), **how)


# -- numbers -------------------------------------------------------------------------------------


def test_six_patients_who_all_gain():
    found = _compared(A, B)
    assert (found.cases, found.patients, found.labels) == (6, 6, ("A", "B"))
    assert (found.mean_a, found.mean_b) == (pytest.approx(0.7), pytest.approx(0.735))
    assert found.difference == pytest.approx(0.035)
    assert (found.better, found.equal, found.worse) == (6, 0, 0)
    # One choice of signs of 64 is as extreme, on either side.
    assert found.p == found.p_holm == pytest.approx(2 / 64)
    assert found.effect == 1
    assert found.interval.low > 0
    assert found.verdict == "better"
    assert found.non_inferiority == NonInferiority(0.01, found.interval.low, 1 / 64, True)


def test_the_other_way_round_everything_turns_round():
    found = _compared(B, A)
    assert (found.better, found.equal, found.worse) == (0, 0, 6)
    assert (found.effect, found.verdict) == (-1, "worse")
    assert found.p == pytest.approx(2 / 64)
    assert not found.non_inferiority.shown


def test_equal_sides_differ_nowhere():
    found = _compared(A, A)
    assert (found.better, found.equal, found.worse, found.effect, found.p) == (0, 6, 0, 0, None)
    assert (found.interval, found.verdict) == (
        Interval(0.0, 0.0, "constant"),
        "no difference detected",
    )
    assert found.non_inferiority.shown
    assert any("every patient has the same difference" in text for text in found.remarks)


def test_differences_by_rounding_alone_are_equal():
    found = _compared({"a": 0.1 + 0.2, "b": 0.5}, {"a": 0.3, "b": 0.6})
    assert (found.better, found.equal, found.worse) == (1, 1, 0)


def test_the_patient_and_not_the_case_is_the_unit():
    # Patient p: differences 0.1 and 0.3, mean 0.2; patient q: -0.1. Mean (0.2 - 0.1) / 2 = 0.05;
    # over cases it would be 0.1.
    a = {"p_1": 0.5, "p_2": 0.5, "q_1": 0.5}
    b = {"p_1": 0.6, "p_2": 0.8, "q_1": 0.4}
    found = _compared(a, b, patient_pattern="^.")
    assert (found.cases, found.patients) == (3, 2)
    assert found.difference == pytest.approx(0.05)
    assert (found.mean_a, found.mean_b) == (pytest.approx(0.5), pytest.approx(0.55))
    assert (found.better, found.equal, found.worse) == (1, 0, 1)
    assert [row.patient for row in found.rows] == ["p", "p", "q"]
    assert "patients are the matches of '^.' in the case ids" in found.remarks
    assert _compared(a, b).patients == 3


@pytest.mark.parametrize("copies", [2, 10])
def test_more_slices_of_the_same_patients_are_no_more_evidence(copies):
    a, b = (
        {f"{case}_{slice_}": dice for case, dice in side.items() for slice_ in range(copies)}
        for side in (A, B)
    )
    found, one = _compared(a, b, patient_pattern=r"^case_\d"), _compared(A, B)
    assert found.cases == 6 * copies
    assert (found.patients, found.p, found.effect) == (one.patients, one.p, one.effect)
    assert found.interval == one.interval
    # As if the slices were patients, p would be 2 / 2**12 and less.
    assert found.p == pytest.approx(2 / 64)


def test_fewer_than_six_patients_decide_nothing():
    five = {case: dice for case, dice in B.items() if case != "case_5"}
    found = _compared({case: A[case] for case in five}, five)
    assert found.interval.low > 0
    assert (found.verdict, found.non_inferiority.shown) == ("too few patients", False)
    assert found.remarks[-1].startswith("n = 5: below 6 patients")


def test_one_patient_has_neither_interval_nor_p():
    found = _compared({"a": 0.5}, {"a": 0.6})
    assert (found.interval, found.p, found.verdict) == (None, None, "too few patients")


def test_cases_without_a_score_are_left_out_by_name():
    found = _compared({**A, "empty": None}, {**B, "empty": None})
    assert (found.cases, found.patients) == (6, 6)
    assert any("neither side has foreground" in t and "empty" in t for t in found.remarks)
    assert (found.rows[-1].case, found.rows[-1].difference) == ("empty", None)


def test_the_same_seed_gives_the_same_comparison():
    b = {case: dice**2 for case, dice in B.items()}  # Whose means are no round numbers.
    assert _compared(A, b, seed=1) == _compared(A, b, seed=1)
    assert _compared(A, b, seed=1).interval != _compared(A, b, seed=2).interval


@given(
    st.dictionaries(
        st.from_regex(r"\A[p-s]\d\Z"), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1
    )
)
def test_a_comparison_adds_up(values):
    a, b = ({case: pair[side] for case, pair in values.items()} for side in (0, 1))
    found = _compared(a, b, patient_pattern="^.")
    assert found.patients == len({case[0] for case in values}) == len(set(_patients(found)))
    assert found.better + found.equal + found.worse == found.patients
    assert found.difference == pytest.approx(found.mean_b - found.mean_a, abs=1e-9)


def _patients(found: PairedComparison):
    return [row.patient for row in found.rows]


# -- what is refused -----------------------------------------------------------------------------


def test_cases_that_one_side_lacks_are_refused_by_their_names():
    fewer = {case: dice for case, dice in B.items() if case not in ("case_1", "case_4")}
    with pytest.raises(ValueError, match="B lacks case_1, case_4 of A"):
        _compared(A, fewer)
    with pytest.raises(ValueError, match="A lacks case_1, case_4 of B"):
        _compared(fewer, A)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"A has 1 and B 1, 2: evaluate"):
        compare_scores(_scores(A, "A"), _scores(B, "B", classes=("1", "2")))


def test_scores_against_another_truth_are_refused(tmp_path):
    a = write_summary(tmp_path / "a", A, truth_voxels=100)
    b = write_summary(tmp_path / "b", B, truth_voxels=101)
    with pytest.raises(ValueError, match=r"others for case_0, case_1, case_2, … \(6\)"):
        compare_folders([a], [b])


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="B has none, because every prediction and truth is empty"):
        _compared({"a": None, "b": 0.0}, {"a": None, "b": None})


def test_a_margin_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"positive number; got -0\.01"):
        _compared(A, B, margin=-0.01)


# -- folders -------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """A stock fold and the fold of a run that froze it."""
    stock = write_stock_fold(tmp_path / "nnUNetTrainer__P__2d" / "fold_0", A, final=1.0)
    run = write_run_fold(tmp_path / "nnUNetTrainerIACLTH__P__2d" / "fold_0", B, frozen=1.0)
    return stock, run


def test_a_retrofit_is_compared_with_what_it_froze(folders):
    made = compare_folders(folders[:1], folders[1:])
    (found,) = made.comparisons
    assert found.labels == ("nnUNetTrainer__P__2d/fold_0", "nnUNetTrainerIACLTH__P__2d/fold_0")
    assert found.remarks[0].startswith("A is the network that B froze")
    assert (made.fisher, made.remarks) == (None, ())


def test_another_backbone_is_refused_unless_it_may_be_unrelated(folders):
    stock = write_stock_fold(folders[0], A, final=2.0)
    with pytest.raises(ValueError, match="none of its checkpoint_final"):
        compare_folders([stock], [folders[1]])
    made = compare_folders([stock], [folders[1]], unrelated=True)
    said = "A need not be the backbone of B (--unrelated)"
    assert made.comparisons[0].remarks[0] == said
    assert said in table(made)
    assert r"A need not be the backbone of B (--unrelated)" in latex(made)


ALLOWED = "setting allow_leakage, and no leak was found"


@pytest.mark.parametrize(
    ("values", "text", "leaked"),
    [
        ({"leakage": "was trained on all cases"}, "the backbone was trained on all cases", True),
        ({"settings": Settings(allow_leakage=True)}, ALLOWED, False),
    ],
)
def test_leakage_is_in_every_output_and_a_setting_is_none(tmp_path, values, text, leaked):
    stock = write_stock_fold(tmp_path / "stock" / "fold_0", A, final=1.0)
    run = write_run_fold(tmp_path / "run" / "fold_0", B, frozen=1.0, **values)
    made = compare_folders([stock], [run])
    written = write_comparisons(tmp_path / "out", made)
    escaped = text.replace("_", r"\_")
    written = [path for path in written if leaked or path.suffix != ".csv"]  # It has no remarks.
    for output in (table(made), *(path.read_text() for path in written)):
        assert text in output or escaped in output
    assert ("LEAKAGE: run/fold_0, fold_0: " in table(made)) is leaked
    assert bool(made.comparisons[0].leakage) is leaked


@pytest.mark.parametrize(
    ("of_stock", "of_run", "text"),
    [
        ((0, 1), None, "with mirroring along 0, 1 and by run/fold_0 without mirroring"),
        (None, (0,), "without mirroring and by run/fold_0 with mirroring along 0"),
        ((0, 1), (0, 1), None),
    ],
)
def test_what_was_predicted_with_other_mirroring_is_named_first(tmp_path, of_stock, of_run, text):
    stock = write_stock_fold(tmp_path / "stock" / "fold_0", A)
    run = write_run_fold(tmp_path / "run" / "fold_0", B, reference=A)
    for fold, axes in ((stock, of_stock), (run, of_run)):
        content = {"network_weights": weights(1.0), MIRRORING: axes}
        torch.save(content, fold / FINAL)
    said = table(compare_folders([stock], [run])).splitlines()[0]
    assert (text in said) if text else ("mirroring" not in said)
    write_json(run / "iac" / "reference" / "measured-on.json", {"mirrored": of_run})
    own = compare_folders([run / "iac" / "reference"], [run])
    assert own.headline == ""
    write_json(run / "iac" / "reference" / "measured-on.json", [of_run])
    with pytest.raises(ValueError, match=r"measured-on\.json must have the form"):
        compare_folders([run / "iac" / "reference"], [run])


def test_the_runs_own_patients_are_taken(tmp_path):
    folders = [
        write_run_fold(tmp_path / name / "fold_0", dice, settings=settings)
        for name, dice, settings in (
            ("a", {"p_1": 0.5, "p_2": 0.6}, Settings(patient_pattern="^.")),
            ("b", {"p_1": 0.5, "p_2": 0.7}, Settings(patient_pattern="^.")),
            ("c", {"p_1": 0.5, "p_2": 0.8}, Settings()),
        )
    ]
    assert compare_folders(folders[:1], folders[1:2]).comparisons[0].patients == 1
    with pytest.raises(ValueError, match=r"it is '\^\.' in a/fold_0 and None in c/fold_0"):
        compare_folders(folders[:1], folders[2:])
    made = compare_folders(folders[:1], folders[2:], patient_pattern="_.$")
    assert made.comparisons[0].patients == 2


def test_a_pattern_that_is_no_regular_expression_is_refused(folders):
    with pytest.raises(ValueError, match=r"regular expression; '\(' is none"):
        compare_folders(folders[:1], folders[1:], patient_pattern="(")


def test_several_comparisons_are_adjusted_for_each_other(tmp_path):
    a = write_summary(tmp_path / "a", A)
    b = write_summary(tmp_path / "b", B)
    mixed = {case: dice + (0.05 if i % 2 else -0.1) for i, (case, dice) in enumerate(A.items())}
    c = write_summary(tmp_path / "c", mixed)
    made = compare_folders([a], [b, c])
    first, second = made.comparisons
    assert first.p_holm == pytest.approx(min(1, 2 * first.p))
    assert second.p_holm == max(first.p_holm, second.p)
    assert made.fisher is None
    assert made.remarks[0].endswith("share patients, so they are not independent.")
    assert "adjusted for 2 comparisons." in table(made)


def test_comparisons_of_different_patients_are_combined_by_fisher(tmp_path):
    other = [{f"other_{case}": dice for case, dice in side.items()} for side in (A, B)]
    sides = zip("abcd", (A, B, *other), strict=True)
    a, b, other_a, other_b = (write_summary(tmp_path / name, dice) for name, dice in sides)
    made = compare_folders([a, other_a], [b, other_b])
    # Twice p = 1/32: c = 1/1024, c (1 - ln c) = 0.0009765625 * 7.931472.
    assert made.fisher == pytest.approx(0.00774558, abs=1e-8)
    assert "Fisher's combination (some difference, either way): p = 0.0077" in table(made)
    same = compare_folders([a, other_a], [b, other_a])
    assert (same.fisher, same.comparisons[1].p_holm) == (None, None)
    assert same.remarks == ("Fisher's combination is left out: a comparison has no p.",)


def test_references_must_be_one_or_as_many_as_the_others(tmp_path):
    with pytest.raises(ValueError, match="got 2 -a and 3 -b"):
        compare_folders([tmp_path] * 2, [tmp_path] * 3)


def test_folders_of_one_name_have_their_paths_as_names(tmp_path):
    paths = [write_summary(tmp_path / name / "out", dice) for name, dice in (("a", A), ("b", B))]
    (found,) = compare_folders(paths[:1], paths[1:]).comparisons
    assert found.labels == tuple(map(str, paths))


def test_an_interval_that_its_test_does_not_support_detects_nothing(tmp_path):
    # One of six loses: p = 2 * 2 / 64 at least, while the interval lies above 0.
    one_loses = {**B, "case_0": 0.6999}
    paths = [write_summary(tmp_path / name, dice) for name, dice in (("a", A), ("b", one_loses))]
    (found,) = compare_folders(paths[:1], paths[1:]).comparisons
    assert found.interval.low > 0
    assert (found.verdict, found.p) == ("no difference detected", pytest.approx(4 / 64))
    assert finding(found, "A").endswith("p = 0.0625 after Holm over 1 comparison, n = 6)")


def test_p_values_that_fail_together_detect_nothing(tmp_path):
    paths = [write_summary(tmp_path / name, B if name == "b" else A) for name in "abc"]
    assert compare_folders(paths[:1], paths[1:2]).comparisons[0].verdict == "better"
    third = write_summary(tmp_path / "d", {case: dice + 0.01 for case, dice in B.items()})
    made = compare_folders(paths[:1], [paths[1], third])
    # Two comparisons with p = 2 / 64 each: 4 / 64 after Holm.
    assert [c.verdict for c in made.comparisons] == ["no difference detected"] * 2


# -- controls ------------------------------------------------------------------------------------

GAINS = {"IAC-LTH": 0.03, "IAC": 0.01, "random cell": 0.02, "continued": -0.01}
"""Two methods and two controls: how far their Dice is above the reference's 0.7 in every case."""


@pytest.fixture
def models(tmp_path):
    """Models of two folds with three patients each: the reference, then as in `GAINS`."""
    for fold in range(2):
        cases = [f"case_{fold}{i}" for i in range(3)]
        stock = tmp_path / "nnUNetTrainer__P__2d" / f"fold_{fold}"
        write_stock_fold(stock, dict.fromkeys(cases, 0.7), final=1.0)
        for method, gain in GAINS.items():
            folder = tmp_path / f"{method.replace(' ', '_')}__P__2d" / f"fold_{fold}"
            write_run_fold(folder, dict.fromkeys(cases, 0.7 + gain), method=method)
    return [stock.parent, *(tmp_path / f"{m.replace(' ', '_')}__P__2d" for m in GAINS)]


def test_every_method_is_compared_with_the_reference_and_every_control(models):
    reference, accelerated, full, random, continued = models
    made = compare_folders([reference], [accelerated, full], [random, continued])
    names = {**made.names, "nnUNetTrainer__P__2d": "reference"}
    found = {
        tuple(names[label] for label in c.labels): round(c.difference, 9) for c in made.comparisons
    }
    assert found == {
        ("reference", "IAC-LTH"): 0.03,
        ("random cell", "IAC-LTH"): 0.01,  # 0.03 - 0.02.
        ("continued", "IAC-LTH"): 0.04,  # 0.03 + 0.01.
        ("reference", "IAC"): 0.01,
        ("random cell", "IAC"): -0.01,
        ("continued", "IAC"): 0.02,
        ("reference", "random cell"): 0.02,
        ("reference", "continued"): -0.01,
    }
    # Six patients of both folds who all change alike: p = 2 / 64, eight times that after Holm.
    assert {c.patients for c in made.comparisons} == {6}
    assert {c.p_holm for c in made.comparisons} == {8 * 2 / 64}
    assert made.controls == ("random_cell__P__2d", "continued__P__2d")


def test_the_table_ends_with_every_difference_to_reference_and_controls(models):
    made = compare_folders(models[:1], models[1:3], models[3:])
    head, *rows = (re.split(r"\s{2,}", line) for line in table(made).splitlines()[-5:])
    assert head == ["difference of Dice from", "backbone", "random cell", "continued"]
    size = "{0:+.4f} [{0:+.4f}, {0:+.4f}]".format
    assert rows == [
        ["IAC-LTH", size(0.03), size(0.01), size(0.04)],
        ["IAC", size(0.01), size(-0.01), size(0.02)],
        ["random cell", size(0.02)],
        ["continued", size(-0.01)],
    ]
    assert rows[0][1] == "+0.0300 [+0.0300, +0.0300]"


def test_the_first_line_names_the_methods_that_do_not_beat_a_random_cell(models):
    said = (
        "IAC-LTH: no difference detected from a random cell (+0.0100, 95 % CI +0.0100 to +0.0100, "
        "p = 0.2500 after Holm over 8 comparisons, n = 6). IAC: no difference detected from a "
        "random cell (-0.0100, 95 % CI -0.0100 to -0.0100, p = 0.2500 after Holm over 8 "
        "comparisons, n = 6)."
    )
    made = compare_folders(models[:1], models[1:3], models[3:])
    assert made.headline == said
    assert table(made).splitlines()[:2] == [said, ""]
    assert document(made)["headline"] == said
    assert r"\caption{IAC-LTH: no difference detected from a random cell (+0.0100" in latex(made)
    assert compare_folders(models[:1], models[1:3], models[4:]).headline == ""
    worse = compare_folders(models[3:4], models[2:3], unrelated=True).comparisons[0]
    assert finding(worse, "a random cell") == (
        "0.0100 lower than a random cell (95 % CI 0.0100 to 0.0100, n = 6)"
    )


def test_one_random_cell_among_several_is_named_by_its_folder(models):
    made = compare_folders(models[:1], models[2:3], [models[3], _copy(models[3], "again__P__2d")])
    assert made.headline == (
        "IAC: no difference detected from a random cell (random_cell__P__2d) (-0.0100, 95 % CI "
        "-0.0100 to -0.0100, p = 0.1562 after Holm over 5 comparisons, n = 6). "
        "IAC: no difference detected from a random cell (again__P__2d) (-0.0100, 95 % CI "
        "-0.0100 to -0.0100, p = 0.1562 after Holm over 5 comparisons, n = 6)."
    )


def _copy(model, name):
    return shutil.copytree(model, model.parent / name)


def test_few_patients_leave_it_undecided_whether_a_random_cell_is_beaten(models):
    one_fold = [model / "fold_0" for model in models]
    made = compare_folders(one_fold[:1], one_fold[2:3], one_fold[3:4])
    assert made.headline.startswith("IAC: too few patients to compare with a random cell (-0.0100")


def test_csv_and_latex_carry_the_controls(models, tmp_path):
    made = compare_folders(models[:1], models[1:3], models[3:])
    path, _, _ = write_comparisons(tmp_path / "out", made)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 8 * 6
    assert {(row["a_is"], row["b_is"]) for row in rows} == {
        ("backbone", "method"),
        ("control", "method"),
        ("backbone", "control"),
    }
    text = latex(made)
    assert text.count(r"\begin{tabular}") == 2
    assert r"\begin{tabular}{lrrr}" in text
    assert "random cell & +0.0200 {[}+0.0200, +0.0200{]} &  &  " in text


def test_two_references_with_a_control_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--control needs one -a, .* got 2 -a"):
        compare_folders([tmp_path] * 2, [tmp_path] * 2, [tmp_path / "c"])


def test_a_control_that_is_a_method_as_well_is_refused(models):
    with pytest.raises(ValueError, match=r"IAC__P__2d is given twice: name it once"):
        compare_folders(models[:1], models[1:3], [models[2]])
    with pytest.raises(ValueError, match=r"random_cell__P__2d is given twice"):
        compare_folders(models[:1], models[1:3], [models[3], models[3]])


def test_a_control_with_other_cases_is_refused(models):
    write_run_fold(models[3] / "fold_1", {"case_10": 0.7}, method="random cell")
    with pytest.raises(ValueError, match="random_cell__P__2d lacks case_11, case_12 of IAC-LTH"):
        compare_folders(models[:1], models[1:2], models[3:])


def test_a_control_of_another_frozen_network_is_refused(models):
    cases = dict.fromkeys([f"case_1{i}" for i in range(3)], 0.7)
    write_run_fold(models[3] / "fold_1", cases, method="random cell", frozen=2.0)
    with pytest.raises(ValueError, match="both sides must have the same backbone"):
        compare_folders(models[:1], models[1:2], models[3:])


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=40)
def test_a_verdict_needs_the_interval_the_adjusted_p_and_six_patients(differences, p_holm):
    a = {f"case_{i}": 0.5 for i in range(len(differences))}
    b = {f"case_{i}": 0.5 + d for i, d in enumerate(differences)}
    found = dataclasses.replace(_compared(a, b), p_holm=p_holm)
    detected = p_holm <= 0.05 and len(differences) >= 6
    assert (found.verdict == "better") == (detected and found.interval.low > 0)
    assert (found.verdict == "worse") == (detected and found.interval.high < 0)
    assert (found.verdict == "too few patients") == (len(differences) < 6)
    assert f"n = {len(differences)})" in finding(found, "A")


# -- surfaces ------------------------------------------------------------------------------------


def _with_surfaces(hd95, nsd):
    dice = dict.fromkeys(hd95, 0.5)
    scores = _scores(dice, classes=("1", "2"))
    return dataclasses.replace(scores, hd95=hd95, nsd=nsd)


def test_hd95_is_compared_where_both_sides_have_the_class():
    # Case p: class 2 is undefined in B, so class 1 alone counts: 4 and 3. Case q: (2 + 6) / 2 = 4
    # and (1 + 4) / 2 = 2.5. Means 4 and 2.75.
    a = _with_surfaces(
        {"p": {"1": 4.0, "2": 100.0}, "q": {"1": 2.0, "2": 6.0}, "r": {"1": None}},
        {"p": {"1": 0.5, "2": 0.1}, "q": {"1": 0.5, "2": 0.7}, "r": {"1": 0.0}},
    )
    b = _with_surfaces(
        {"p": {"1": 3.0, "2": None}, "q": {"1": 1.0, "2": 4.0}, "r": {}},
        {"p": {"1": 0.5, "2": 0.0}, "q": {"1": 0.9, "2": 0.9}, "r": {}},
    )
    hd95, nsd = compare_scores(a, b).surface
    assert (hd95.metric, hd95.mean_a, hd95.mean_b) == ("HD95 [mm]", 4.0, 2.75)
    assert hd95.difference == pytest.approx(-1.25)
    assert (hd95.undefined_a, hd95.undefined_b) == (1, 1)
    # NSD of p: 0.3 and 0.25; of q: 0.6 and 0.9; of r: 0 in A alone, where B gets its mean.
    assert (nsd.mean_a, nsd.mean_b) == (pytest.approx(0.3), pytest.approx(0.575))
    assert nsd.difference == pytest.approx(0.275)


def test_hd95_that_is_undefined_everywhere_is_none():
    a = _with_surfaces({"p": {"1": None}}, {"p": {"1": 0.0}})
    hd95, nsd = compare_scores(a, a).surface
    assert (hd95.mean_a, hd95.difference, hd95.interval) == (None, None, None)
    assert (nsd.mean_a, nsd.difference) == (0.0, 0.0)


@pytest.fixture
def images(tmp_path):
    """Predictions of two methods with images: B's lies on the truth, A's a row of 2 mm off."""
    folders = []
    for name, row in (("a", 1), ("b", 0)):
        folder = write_summary(tmp_path / name, {"one": 0.5, "two": 0.5})
        for case in ("one", "two"):
            for directory, place in ((folder, row), (folder / "truth", 0)):
                directory.mkdir(exist_ok=True)
                array = np.zeros((4, 4), dtype=np.uint8)
                array[place, 0] = 1
                image = SimpleITK.GetImageFromArray(array)
                image.SetSpacing((1.0, 2.0))
                SimpleITK.WriteImage(image, str(directory / f"{case}.nii.gz"))
        folders.append(folder)
    return folders


def test_surfaces_come_along_where_they_are_asked_for(images):
    (found,) = compare_folders(images[:1], images[1:], tolerance=1.0).comparisons
    assert [(s.metric, s.mean_a, s.mean_b) for s in found.surface] == [
        ("HD95 [mm]", 2.0, 0.0),
        ("NSD", 0.0, 1.0),
    ]
    assert compare_folders(images[:1], images[1:]).comparisons[0].surface == ()


# -- outputs -------------------------------------------------------------------------------------


def test_the_csv_has_a_line_per_case_with_every_metric(tmp_path, images):
    made = compare_folders(images[:1], images[1:], tolerance=1.0)
    path, _, _ = write_comparisons(tmp_path / "out", made)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["case"] for row in rows] == ["one", "two"]
    assert rows[0] == {
        "a": "a",
        "b": "b",
        "case": "one",
        "patient": "one",
        "dice_a": "0.5",
        "dice_b": "0.5",
        "dice_difference": "0.0",
        "dice_a_1": "0.5",
        "dice_b_1": "0.5",
        "hd95_mm_a_1": "2.0",
        "hd95_mm_b_1": "0.0",
        "nsd_a_1": "0.0",
        "nsd_b_1": "1.0",
        "leakage": "",
    }


def test_the_csv_leaves_cells_without_a_value_empty_and_quotes_regions(tmp_path):
    dice = {"x": {"(1, 2)": math.nan}, "y": {"(1, 2)": 0.5}}
    paths = [write_summary(tmp_path / name, dice) for name in "ab"]
    path, _, _ = write_comparisons(tmp_path / "out", compare_folders(paths[:1], paths[1:]))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["dice_a_(1, 2)"] for row in rows] == ["", "0.5"]
    assert [row["dice_difference"] for row in rows] == ["", "0.0"]


def test_the_json_has_everything_and_no_nan(tmp_path):
    paths = [write_summary(tmp_path / n, {**d, "x": math.nan}) for n, d in (("a", A), ("b", B))]
    made = compare_folders(paths[:1], paths[1:])
    _, path, _ = write_comparisons(tmp_path / "out", made)

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read == json.loads(json.dumps(document(made)))
    (found,) = read["comparisons"]
    assert (found["verdict"], found["patients"], found["p"]) == ("better", 6, 2 / 64)
    assert found["rows"][-1] == {
        "case": "x",
        "patient": "x",
        "a": None,
        "b": None,
        "difference": None,
        "classes": {"dice_a_1": None, "dice_b_1": None},
    }
    assert found["interval"]["method"] == "BCa"
    assert read["protocol"]["interval"].endswith("(BCa, 9999 resamples, seed 0).")


def test_the_latex_table_states_what_was_done_in_its_caption(tmp_path, folders):
    made = compare_folders(folders[:1], folders[1:], margin=0.02, seed=7)
    text = latex(made)
    caption = re.search(r"\\caption\{(.*)\}\n", text).group(1)
    for said in (
        "n = 6 patients (6 cases)",
        r"95\% bootstrap of the mean over patients (BCa, 9999 resamples, seed 7)",
        "two-sided Wilcoxon signed-rank test",
        "adjusted for 1 comparison.",
        r"lies above $-$0.02 Dice",
    ):
        assert said in caption
    rules = [r"\toprule", r"\midrule", r"\bottomrule"]
    assert [line for line in text.splitlines() if line in rules] == rules
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 2
    assert all(len(row.split(" & ")) == len(columns) for row in rows)
    assert r"nnUNetTrainer\_\_P\_\_2d/fold\_0" in rows[1]
    assert not re.search(r"(?<!\\)[_%#]", text)


def test_latex_has_a_second_tabular_for_surfaces(images):
    text = latex(compare_folders(images[:1], images[1:], tolerance=1.0))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"HD95 {[}mm{]} & 2.0000 & 0.0000 & $-$2.0000" in text


@given(st.text("a_%&#${}~^\\<>[]-1", max_size=12))
def test_a_label_with_any_character_leaves_latex_whole(label):
    comparison = compare_scores(_scores(A, label), _scores(B, "B"))
    text = latex(Comparisons((comparison,), 0.01, 0))
    plain = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$[<>-]\$|\{[\[\]]\}", "", text)
    row = next(line for line in plain.splitlines() if " & B & " in line)
    assert not re.search(r"[_%#$~^\[\]{}<>]", row)
    assert row.count("&") == 14


def test_the_table_shows_every_number_once_per_comparison(folders):
    lines = table(compare_folders(folders[:1], folders[1:])).splitlines()
    head, row = lines[0], lines[1]
    assert len(head) == len(row)
    assert row.split()[:5] == ["1", "6", "6", "0.7000", "0.7350"]
    assert "+0.0350" in row
    assert "0.0312" in row
    assert "6/0/0" in row
    assert row.endswith("better")
    assert "1  A = nnUNetTrainer__P__2d/fold_0" in lines
    found = compare_folders(folders[:1], folders[1:]).comparisons[0]
    assert f"   B: {finding(found, 'A')}" in lines


def test_small_p_values_are_not_printed_as_zero():
    many = {f"case_{i}": 0.5 for i in range(20)}
    found = _compared(many, {case: 0.6 + i / 1000 for i, case in enumerate(many)})
    made = Comparisons((found,), 0.01, 0)
    assert "<0.0001" in table(made)
    assert "$<$0.0001" in latex(made)
    assert document(made)["comparisons"][0]["p"] == pytest.approx(2 / 2**20)


# -- the command ---------------------------------------------------------------------------------


def test_compare_prints_the_table_and_writes_all_three_files(folders, tmp_path, capsys):
    stock, run = map(str, folders)
    assert main(["compare", "-a", stock, "-b", run, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(table(compare_folders(folders[:1], folders[1:])))
    for name in ("comparison.csv", "comparison.json", "comparison.tex"):
        assert f"wrote {tmp_path / 'out' / name}" in printed
        assert (tmp_path / "out" / name).is_file()


def test_the_commands_margin_is_the_statistics_own():
    assert cli._parser().parse_args(["compare", "-a", "x", "-b", "y"]).margin == MARGIN


def test_compare_takes_methods_and_controls_in_one_command(models, capsys):
    reference, *others = map(str, models)
    methods = [word for model in others[:2] for word in ("-b", model)]
    controls = [word for model in others[2:] for word in ("--control", model)]
    assert main(["compare", "-a", reference, *methods, *controls]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("IAC-LTH: no difference detected from a random cell")
    assert "adjusted for 8 comparisons." in printed


def test_compare_writes_nothing_where_it_is_not_asked_to(folders, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", "-a", str(folders[0]), "-b", str(folders[1])]) == 0
    assert "wrote" not in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_takes_margin_seed_patients_and_several_folders(tmp_path, capsys):
    cases = {f"p{i}_{j}": 0.5 for i in range(6) for j in range(2)}
    paths = [str(write_summary(tmp_path / name, cases)) for name in "abc"]
    words = ["compare", "-a", paths[0], "-b", paths[1], "-b", paths[2], "--margin", "0.5"]
    assert main([*words, "--seed", "3", "--patient-pattern", r"^p\d"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[1:3] for line in printed.splitlines()[1:3]] == [["6", "12"]] * 2
    assert "seed 3" in printed
    assert "above -0.5 Dice" in printed


def test_compare_measures_surfaces_at_the_tolerance_given(images, capsys):
    words = ["compare", "-a", str(images[0]), "-b", str(images[1]), "--surface"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"NSD\s+0\.0000\s+1\.0000", printed)
    assert "NSD: at 1 mm" in printed
    assert main([*words, "--tolerance", "2.5"]) == 0
    assert re.search(r"NSD\s+1\.0000\s+1\.0000", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-a absent -b absent", "absent must have summary.json"),
        ("-a {a} -b {a} --margin 0", "the margin of non-inferiority must be"),
        ("-a {a} -b {a} --tolerance 3", "--tolerance 3 is that of NSD"),
        ("-a {a} -b {a} --surface --tolerance 0", "the tolerance must be a positive number"),
        ("-a {a} -b {a} --patient-pattern x", "does not match 'case_0'"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(tmp_path, capsys, words, message):
    write_summary(tmp_path / "a", A)
    assert main(["compare", *shlex.split(words.format(a=tmp_path / "a"))]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.out == ""


def test_scores_that_were_read_compare_as_those_that_were_made(tmp_path):
    a, b = (
        read_case_scores(write_summary(tmp_path / name, dice))
        for name, dice in (("A", A), ("B", B))
    )
    read, made = compare_scores(a, b), _compared(A, B)
    assert dataclasses.replace(read, folders=made.folders) == made
