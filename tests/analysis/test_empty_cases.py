"""Classes that a case lacks: what false positives and misses cost, and that they decide."""

import json
import re
import warnings
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from study_documents import document, run

from nnunet_iac.analysis.report.case_figures import paired_dots
from nnunet_iac.analysis.report.summary import advice
from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled, read_case_scores
from nnunet_iac.analysis.scores.comparison import adjusted, compare_scores
from nnunet_iac.analysis.scores.forgetting import forgetting
from nnunet_iac.analysis.scores.method_table import cells, method_tables
from nnunet_iac.analysis.scores.statistics import sign_test
from nnunet_iac.analysis.scores.wording import NONE, finding
from nnunet_iac.cli import main
from nnunet_iac.workflow.study_report import errors_of, scored_as, write_study_report

SHAPE = (3, 10, 20)
IGNORED = 9
CASES = [f"case_{number:02d}" for number in range(16)]
WITH, WITHOUT = CASES[:8], CASES[8:]


def _box(label: int, voxels: int, start: int = 0) -> np.ndarray:
    """Return an image in which so many voxels in a row have a label."""
    image = np.zeros(SHAPE, np.uint8)
    image.flat[start : start + voxels] = label
    return image


def _evaluated(folder: Path, images: dict, truths: dict, labels=(1,), ignore=None) -> Path:
    """Write images and score them with nnU-Net's own functions; return their folder."""
    (folder / "truth").mkdir(parents=True)
    rows = []
    for case in images:
        paths = str(folder / "truth" / f"{case}.nii.gz"), str(folder / f"{case}.nii.gz")
        for path, image in zip(paths, (truths[case], images[case]), strict=True):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), path)
        rows.append(compute_metrics(*paths, SimpleITKIO(), list(labels), ignore))
    dice = {label: [row["metrics"][label]["Dice"] for row in rows] for label in labels}
    with warnings.catch_warnings():  # As nnU-Net does, of nothing as well.
        warnings.simplefilter("ignore", RuntimeWarning)
        means = {label: {"Dice": float(np.nanmean(dice[label]))} for label in labels}
    mean = {"Dice": fmean(means[label]["Dice"] for label in labels)}
    found = {"metric_per_case": rows, "mean": means, "foreground_mean": mean}
    for row in rows:
        recursive_fix_for_json_export(row)
    save_summary_json(found, str(folder / "summary.json"))
    return folder


def _truths(label: int = 1) -> dict:
    return {case: _box(label, 100 if case in WITH else 0) for case in CASES}


def _predictions(found: int, invented: int, label: int = 1) -> dict:
    """Return predictions of so many voxels of 100, and so many where there is nothing."""
    more = {case: number % 3 for number, case in enumerate(CASES)}  # No two patients are equal.
    known = {case: _box(label, found + more[case]) for case in WITH}
    return known | {case: _box(label, invented, start=300) for case in WITHOUT}


@pytest.fixture
def hallucinating(tmp_path):
    """The scores of A, and of B that is better but predicts 50 voxels in every empty case."""
    a = _evaluated(tmp_path / "A", _predictions(67, 0), _truths())
    return a, _evaluated(tmp_path / "B", _predictions(70, 50), _truths())


def _nnunets_mean(folder: Path) -> float:
    return json.loads((folder / "summary.json").read_text())["foreground_mean"]["Dice"]


def test_a_model_that_hallucinates_on_every_empty_case_is_worse(hallucinating):
    found = compare_scores(*map(read_case_scores, hallucinating))
    assert (found.mean_a, found.mean_b) == pytest.approx([*map(_nnunets_mean, hallucinating)])
    assert found.mean_b < found.mean_a / 1.9
    assert (found.cases, found.patients) == (16, 16)
    assert (found.false_positives, found.misses) == ((0, 8), (0, 0))
    assert (found.better, found.worse) == (8, 8)
    assert found.p > 0.05 > found.p_errors == pytest.approx(2 / 2**8)
    assert (found.verdict, found.not_inferior) == ("worse", False)
    assert "false positives 8 instead of 0" in finding(found, "A")
    assert any("B predicts a class that the truth lacks in case_08" in r for r in found.remarks)
    turned = compare_scores(*map(read_case_scores, hallucinating[::-1]))
    assert (turned.verdict, turned.false_positives) == ("better", (8, 0))


def test_compare_shows_false_positives_and_draws_the_cases(hallucinating, tmp_path, capsys):
    a, b = map(str, hallucinating)
    assert main(["compare", "-a", a, "-b", b, "-o", str(tmp_path / "out"), "--unrelated"]) == 0
    shown = capsys.readouterr().out
    assert "false positives A/B" in shown
    assert "0 / 8" in shown
    assert "false positives 8 instead of 0" in shown
    assert re.search(r"not shown +worse\n", shown)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"][0]
    assert (written["false_positives"], written["not_inferior"]) == ([0, 8], False)
    assert "0 / 8" in (tmp_path / "out" / "comparison.tex").read_text()
    found = compare_scores(*map(read_case_scores, hallucinating))
    assert len([row for row in found.rows if row.difference is not None]) == 16
    labels = {text.get_text() for text in paired_dots(found).axes[0].get_yticklabels()}
    assert labels == set(CASES)


def test_a_higher_dice_with_one_more_false_positive_is_mixed():
    a = {f"{n:02d}": 0.5 + n / 1000 for n in range(60)} | {"empty": None}
    b = {case: dice and dice + 0.1 for case, dice in a.items()} | {"empty": 0.0}
    found = compare_scores(CaseScores.of_dice(a, "A"), CaseScores.of_dice(b, "B"))
    assert found.interval.low > 0
    assert (found.verdict, found.not_inferior) == ("mixed", False)
    assert finding(found, "A").startswith("a higher Dice but more false positives or misses than A")
    healthy = {**b, "empty": None}
    found = compare_scores(CaseScores.of_dice(a, "A"), CaseScores.of_dice(healthy, "B"))
    assert (found.verdict, found.not_inferior, found.cases) == ("better", True, 60)


def test_fewer_errors_make_no_method_worse():
    """In eight patients A misses the class, and B's Dice is lower where both find it."""
    a = {case: 0.9 if case in WITH else 0.0 for case in CASES}
    b = {case: 0.01 if case in WITHOUT else 0.5 for case in CASES}
    found = compare_scores(CaseScores.of_dice(a, "A"), CaseScores.of_dice(b, "B"))
    assert found.interval.high < 0
    assert found.p > 0.05 > found.p_errors
    assert (found.more_errors, found.verdict) == (-8, "no difference detected")


def test_misses_count_as_false_positives_do(tmp_path):
    """B finds nothing in a case more."""
    a = _evaluated(tmp_path / "A", _predictions(60, 0), _truths())
    missed = _predictions(90, 0) | {CASES[0]: _box(1, 0)}
    b = _evaluated(tmp_path / "B", missed, _truths())
    found = compare_scores(*map(read_case_scores, (a, b)))
    assert (found.misses, found.false_positives) == ((0, 1), (0, 0))
    assert not found.not_inferior
    assert "misses 1 instead of 0" in finding(found, "A")


def test_regions_an_empty_class_and_an_ignored_one(tmp_path):
    """Regions (1, 2) and (2,): no truth has label 2, and the ignored part is not scored."""
    truths = {case: np.maximum(image, _box(IGNORED, 50, 500)) for case, image in _truths().items()}
    a = _predictions(67, 0)
    a = {case: np.maximum(image, _box(2, 50, 500)) for case, image in a.items()}  # Ignored.
    b = {case: np.maximum(image, _box(2, 5, 400)) for case, image in _predictions(70, 0).items()}
    how = {"labels": [(1, 2), (2,)], "ignore": IGNORED}
    sides = [
        _evaluated(tmp_path / name, side, truths, **how) for name, side in (("A", a), ("B", b))
    ]
    found = compare_scores(*map(read_case_scores, sides))
    # B has label 2, and so the region (1, 2), in the empty cases, too.
    assert found.false_positives == (0, 16 + 8)
    assert found.misses == (0, 0)
    assert (found.verdict, found.mean_a > found.mean_b) == ("worse", True)


def test_surfaces_of_classes_on_one_side_alone(hallucinating):
    found = compare_scores(*(read_case_scores(side, tolerance=1.0) for side in hallucinating))
    hd95, nsd = found.surface
    assert (hd95.undefined_a, hd95.undefined_b) == (0, 8)  # HD95 is undefined there, and counted.
    assert nsd.mean_b < 0.6 * nsd.mean_a  # Half of the cases have an NSD of 0.


@pytest.mark.parametrize(
    ("a", "b", "verdict"), [(0.0, 0.0, "no verdict"), (0.0, 0.5, "no verdict"), (0.5, 0.0, "worse")]
)
def test_nothing_is_decided_against_a_validation_that_is_all_zero(a, b, verdict):
    sides = (CaseScores.of_dice(dict.fromkeys(CASES, dice), "x") for dice in (a, b))
    found = compare_scores(*sides)
    assert (found.verdict, found.not_inferior) == (verdict, False)
    if verdict == "no verdict":
        assert finding(found, "A").startswith("no verdict against A")
        assert "every Dice of the backbone is 0" in finding(found, "the backbone")


def test_validations_that_are_all_empty_are_refused(tmp_path):
    empty = {case: _box(1, 0) for case in CASES}
    sides = [tmp_path / "A", tmp_path / "B"]
    for side in sides:
        _evaluated(side, empty, empty)
    with pytest.raises(ValueError, match="every prediction and truth is empty"):
        compare_scores(*map(read_case_scores, sides))


def test_one_seed_of_three_that_hallucinates_counts_as_one_third():
    seeds = [CaseScores.of_dice({"a": 0.8, "b": dice}, "x", {}) for dice in (0.0, None, None)]
    both = pooled(seeds, "x")
    assert both.dice == pytest.approx({"a": 0.8, "b": (0.0 + 0.8 + 0.8) / 3})
    seeds[0] = CaseScores.of_dice(seeds[0].dice, "x", {"b": [1, 0]})
    assert pooled(seeds, "x").errors["b"] == pytest.approx((1 / 3, 0))


def test_p_values_of_errors_are_adjusted_apart_from_those_of_dice(hallucinating):
    a, b = map(read_case_scores, hallucinating)
    others = [compare_scores(a, pooled([b], str(number))) for number in range(5)]
    found = adjusted(others)
    assert [one.p_errors_holm for one in found] == pytest.approx([5 * others[0].p_errors] * 5)
    assert found[0].p_errors_holm > 0.0390  # 5 * 2 / 2**8
    assert found[0].verdict == "worse"


def test_a_study_without_any_foreground_has_a_page_without_tables(tmp_path):
    empty = dict.fromkeys(CASES)
    made = document(run("random", 0, 0.0, dice=empty, frozen_dice=empty, patient_pattern=None))
    write_study_report(made, tmp_path / "report.html")
    assert "Nothing is compared" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == made


@pytest.mark.parametrize(
    ("differences", "p"), [([], None), ([0, 0], None), ([1] * 8, 2 / 2**8), ([1, -1, 0], 1.0)]
)
def test_the_sign_test_is_exact(differences, p):
    assert sign_test(differences) == (None if p is None else pytest.approx(p))


def test_studies_and_their_forgetting_count_empty_cases(hallucinating):
    a, b = map(read_case_scores, hallucinating)
    scores = scored_as("", b) | scored_as("frozen_", a)
    assert scores["errors"] == {case: [1, 0] for case in WITHOUT}
    (table,) = method_tables(document(run("random", 0, 0.0, patient_pattern=None, **scores)))
    (row,) = table.rows
    assert row.against["reference"].verdict == "worse"
    assert (table.cases, row.dice) == (16, pytest.approx(_nnunets_mean(hallucinating[1])))
    head, line = cells(table)
    assert line[head.index("false positives, backbone / method")] == "0 / 8"
    sides = {"before": a, "after": b}
    source = {name: side.dice for name, side in sides.items()}
    known = {"errors": {name: errors_of(side) for name, side in sides.items()}, **source}
    runs = [run(name, 0, 0.0, patient_pattern=None, **scores) for name in ("random", "continued")]
    (table,) = method_tables(document({**runs[0], "source": known}, runs[1]))
    head, *lines = cells(table)
    at = head.index("source false positives, before / after")
    assert [line[at : at + 2] for line in lines] == [["0 / 8", "0 / 0"], [NONE, NONE]]
    lost = forgetting([(a, b)], "method")
    assert (lost.false_positives, lost.verdict) == ((0, 8), "worse")


def test_no_page_advises_a_retrofit_that_adds_false_positives(hallucinating):
    a, b = map(read_case_scores, hallucinating)
    backbone = SimpleNamespace(paired=compare_scores(a, b))
    assert advice(backbone, []) == "Keep your backbone."
