"""What is read of nnU-Net's folders, and what is refused."""

import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from scored_folders import write_dataset_json, write_run_fold, write_stock_fold, write_summary

from nnunet_iac.analysis.scores.case_scores import read_case_scores
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import case_id, foreground_dice, labels_of, patient_means, read_summary

MODEL = "nnUNetTrainer__nnUNetPlans__2d"


# -- summaries -----------------------------------------------------------------------------------


def test_a_cases_dice_is_the_mean_over_the_classes_that_are_there(tmp_path):
    dice = {"a": {"1": 0.5, "2": 0.9}, "b": {"1": math.nan, "2": 0.4}, "c": {"1": math.nan}}
    scores = read_case_scores(write_summary(tmp_path / "predictions", dice))
    assert scores.dice == {"a": pytest.approx(0.7), "b": 0.4, "c": None}
    assert scores.per_class == {
        "a": {"1": 0.5, "2": 0.9},
        "b": {"1": None, "2": 0.4},
        "c": {"1": None},
    }
    assert (scores.hd95, scores.nsd) == (None, None)


def test_the_background_is_no_class(tmp_path):
    scores = read_case_scores(write_summary(tmp_path, {"a": {"0": 0.99, "1": 0.5}}))
    assert scores.dice == {"a": 0.5}
    assert scores.classes == ("1",)


def test_classes_and_regions_have_the_order_of_their_labels(tmp_path):
    dice = {"a": {"10": 0.5, "2": 0.5}, "b": {"(1, 2)": 0.5}}
    assert read_case_scores(write_summary(tmp_path, dice)).classes == ("(1, 2)", "2", "10")
    assert labels_of("(1, 2)") == (1, 2)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png", ".mha"])
def test_a_case_is_its_files_name_without_the_ending(tmp_path, ending):
    folder = write_summary(tmp_path, {"case_1.2": 0.5}, ending=ending)
    assert read_case_scores(folder).dice == {"case_1.2": 0.5}
    assert case_id(f"case_1.2{ending}", ending) == "case_1.2"


def test_the_records_mean_is_over_classes_then_a_patients_cases_then_patients(tmp_path):
    # Patient p: (0.2 + 0.4) / 2 = 0.3; patient q: 0.9; (0.3 + 0.9) / 2.
    dice = {"p_1": {"1": 0.2}, "p_2": {"1": 0.3, "2": 0.5}, "q_1": 0.9, "q_2": math.nan}
    summary = write_summary(tmp_path, dice) / "summary.json"
    found = foreground_dice(summary, ".nii.gz", "^.")
    assert found["mean"] == pytest.approx(0.6)
    assert found["per_case"] == {"p_1": 0.2, "p_2": 0.4, "q_1": 0.9, "q_2": None}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "TypeError"),
        ({}, "metric_per_case"),
        ({"metric_per_case": [{"prediction_file": "a.nii.gz"}]}, "'metrics'"),
        ({"metric_per_case": [3]}, "TypeError"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, document, message):
    write_json(tmp_path / "summary.json", document)
    with pytest.raises(ValueError, match=rf"summary\.json must be nnU-Net's .*{message}"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("dice", [1.5, -0.1, math.inf])
def test_a_dice_outside_its_range_is_refused(tmp_path, dice):
    with pytest.raises(ValueError, match=f"a Dice of {dice}"):
        read_case_scores(write_summary(tmp_path, {"a": dice}))


def test_a_case_that_stands_twice_in_a_summary_is_refused(tmp_path):
    folder = write_summary(tmp_path, {"a": 0.5, "sub/a": 0.6})
    with pytest.raises(ValueError, match="a is listed twice"):
        read_case_scores(folder)


# -- folders -------------------------------------------------------------------------------------


def test_a_fold_stands_for_its_validation_and_is_called_after_its_model(tmp_path):
    fold = write_stock_fold(tmp_path / MODEL / "fold_0", {"a": 0.5})
    for folder in (fold, fold / "validation"):
        scores = read_case_scores(folder)
        assert (scores.dice, scores.label) == ({"a": 0.5}, f"{MODEL}/fold_0")
        assert [source.fold for source in scores.sources] == [fold]
        assert scores.sources[0].record is None


def test_a_model_stands_for_its_numbered_folds_together(tmp_path):
    for number, case in enumerate("abc"):
        write_stock_fold(tmp_path / MODEL / f"fold_{number}", {case: number / 10})
    scores = read_case_scores(tmp_path / MODEL)
    assert scores.dice == {"a": 0.0, "b": 0.1, "c": 0.2}
    assert scores.label == MODEL
    assert [source.cases for source in scores.sources] == [("a",), ("b",), ("c",)]
    assert scores.remarks == ()


def test_a_model_of_one_fold_is_called_by_its_own_name(tmp_path):
    write_stock_fold(tmp_path / MODEL / "fold_0", {"a": 0.5})
    assert read_case_scores(tmp_path / MODEL).label == MODEL


def test_predictions_are_called_by_their_folder(tmp_path, monkeypatch):
    write_summary(tmp_path / "predictions", {"a": 0.5})
    assert read_case_scores(tmp_path / "predictions").label == "predictions"
    monkeypatch.chdir(tmp_path / "predictions")
    assert read_case_scores(type(tmp_path)(".")).label == "predictions"


def test_a_runs_record_comes_with_its_scores_and_its_reference_is_known_as_frozen(tmp_path):
    fold = write_run_fold(tmp_path / MODEL / "fold_2", {"a": 0.7}, reference={"a": 0.5})
    run, reference = read_case_scores(fold), read_case_scores(fold / "iac" / "reference")
    assert (run.dice, reference.dice) == ({"a": 0.7}, {"a": 0.5})
    assert reference.label == f"{MODEL}/fold_2/iac/reference"
    assert [(s.frozen, s.method) for s in (*run.sources, *reference.sources)] == [
        (False, "IAC-LTH"),
        (True, "IAC-LTH"),
    ]
    recorded = RunFolder.of_fold(fold).read_backbone()
    assert run.sources[0].record == reference.sources[0].record == recorded


@pytest.mark.parametrize("name", ["fold_all", "fold_1"])
def test_a_fold_that_holds_nothing_out_is_left_out_aloud_and_refused_by_itself(tmp_path, name):
    write_stock_fold(tmp_path / MODEL / "fold_0", {"a": 0.5})
    seen = write_stock_fold(tmp_path / MODEL / name, {"b": 0.9})
    if name != "fold_all":
        RunFolder.of_fold(seen).write_split({"training": ["b"], "validation": ["b"]})
    scores = read_case_scores(tmp_path / MODEL)
    assert scores.dice == {"a": 0.5}
    assert scores.remarks == (
        f"{name} of {MODEL} is left out: it was validated on its training cases",
    )
    with pytest.raises(ValueError, match=rf"{name}/validation/summary\.json is {name}'s"):
        read_case_scores(seen)


def test_a_case_is_known_by_its_name_on_every_system(tmp_path):
    folder = write_summary(tmp_path, {"a": 0.5})
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("elsewhere/", r"C:\\results\\validation\\"))
    (found,) = read_summary(path).values()
    assert found.prediction.name == "a.nii.gz"


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name} must have summary\.json"):
        read_case_scores(tmp_path)


def test_a_fold_that_is_not_validated_yet_is_named(tmp_path):
    write_stock_fold(tmp_path / MODEL / "fold_0", {"a": 0.5})
    (tmp_path / MODEL / "fold_1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"fold_1/validation/summary\.json does not exist"):
        read_case_scores(tmp_path / MODEL)


def test_a_case_in_two_folds_is_refused(tmp_path):
    for number in range(2):
        write_stock_fold(tmp_path / MODEL / f"fold_{number}", {"twice": 0.5})
    with pytest.raises(ValueError, match=r"twice is in .*fold_0.* and .*fold_1"):
        read_case_scores(tmp_path / MODEL)


def test_a_summary_that_lacks_cases_of_its_split_is_refused_by_their_names(tmp_path):
    split = ["a", "m1", "m2", "m3", "m4"]
    fold = write_run_fold(tmp_path / "fold_0", {"a": 0.5}, reference={"a": 0.4}, split=split)
    for folder in (fold, fold / "iac" / "reference"):
        with pytest.raises(ValueError, match=r"it lacks m1, m2, m3, … \(4\): validate again"):
            read_case_scores(folder)


def test_a_summary_with_cases_that_its_split_learned_from_is_refused(tmp_path):
    fold = write_run_fold(tmp_path / "fold_0", {"a": 0.5, "old": 0.9}, split=["a"])
    with pytest.raises(ValueError, match=r"it has old: remove their predictions"):
        read_case_scores(fold)


def test_a_damaged_split_is_named(tmp_path):
    fold = write_run_fold(tmp_path / "fold_0", {"a": 0.5})
    write_json(RunFolder.of_fold(fold).split_file, {"validation": 3})
    with pytest.raises(ValueError, match=r"split\.json must list .* got 3"):
        read_case_scores(fold)


def test_a_summary_older_than_the_predictions_beside_it_is_refused(tmp_path):
    folder = write_summary(tmp_path / "predictions", {"a": 0.5})
    for name in ("a.nii.gz", "a.npz", "a.pkl", "plans.json"):
        (folder / name).touch()
    assert read_case_scores(folder).dice == {"a": 0.5}
    (folder / "new.nii.gz").touch()
    with pytest.raises(ValueError, match=r"every case predicted beside it; it lacks new: "):
        read_case_scores(folder)


# -- patients ------------------------------------------------------------------------------------


def test_a_patients_mean_is_over_its_cases_that_have_a_value():
    values = {"p1_a": 0.2, "p1_b": 0.4, "p2_a": 0.9, "p2_b": None, "p3_a": None}
    means, left_out = patient_means(values, r"^p\d+")
    assert means == {"p1": pytest.approx(0.3), "p2": 0.9}
    assert left_out == ("p2_b", "p3_a")


def test_a_pattern_that_misses_a_case_is_refused():
    with pytest.raises(ValueError, match="does not match 'other'"):
        patient_means({"p1_a": 0.2, "other": 0.3}, r"^p\d+")


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(0, 1), min_size=1))
def test_without_a_pattern_every_case_is_its_own_patient(values):
    assert patient_means(values, None) == (values, ())


@given(st.dictionaries(st.from_regex(r"\A[pq][ab]\Z"), st.floats(0, 1), min_size=1))
def test_a_patients_mean_lies_among_its_values(values):
    means, _ = patient_means(values, "^.")
    for patient, mean in means.items():
        own = [value for case, value in values.items() if case[0] == patient]
        assert min(own) - 1e-12 <= mean <= max(own) + 1e-12


# -- surfaces ------------------------------------------------------------------------------------


def _write_image(path, array, spacing=(1.0, 2.0)):
    path.parent.mkdir(exist_ok=True)
    image = SimpleITK.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def predictions(tmp_path):
    """One case whose class 1 is predicted two rows of 1 mm off, and whose class 2 is not."""
    folder = write_summary(tmp_path / "predictions", {"a": {"1": 0.0, "2": 0.0, "3": math.nan}})
    predicted, true = np.zeros((5, 5)), np.zeros((5, 5))
    predicted[0, 0], true[2, 0], true[4, 4] = 1, 1, 2
    _write_image(folder / "a.nii.gz", predicted)
    _write_image(folder / "truth" / "a.nii.gz", true)
    return folder


def test_surfaces_are_measured_where_they_are_asked_for(predictions):
    scores = read_case_scores(predictions, tolerance=2.0)
    assert scores.hd95 == {"a": {"1": 2.0, "2": None}}
    assert scores.nsd == {"a": {"1": 1.0, "2": 0.0}}
    assert read_case_scores(predictions, tolerance=1.5).nsd == {"a": {"1": 0.0, "2": 0.0}}


def test_a_tolerance_that_is_no_length_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"millimetres; got -1\.0"):
        read_case_scores(tmp_path / "absent", tolerance=-1.0)


def test_images_that_are_gone_are_named(predictions):
    (predictions / "truth" / "a.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"truth/a\.nii\.gz does not exist"):
        read_case_scores(predictions, tolerance=1.0)


def test_an_ignore_label_is_refused_for_behind_it_no_surface_is_known(predictions):
    write_dataset_json(predictions, background=0, one=1)
    read_case_scores(predictions, tolerance=1.0)
    write_dataset_json(predictions.parent, background=0, one=1, ignore=2)
    with pytest.raises(ValueError, match=r"dataset\.json has an ignore label"):
        read_case_scores(predictions, tolerance=1.0)
