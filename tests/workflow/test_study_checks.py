"""Studies that must not begin."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.host.patient_folds import patient_folds
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.workflow import study_checks
from nnunet_iac.workflow.study_checks import (
    raw_cases,
    require_ready,
    wanted_splits,
)
from nnunet_iac.workflow.study_file import study_of

DATASET = "Dataset900_Frames"
CASES = [f"patient{number:02d}_{frame}" for number in range(10) for frame in ("ed", "es")]
PATIENTS = r"patient\d+"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw data set of ten patients with two frames each; only names matter here."""
    folder = tmp_path / "raw" / DATASET
    (folder / "labelsTr").mkdir(parents=True)
    for case in CASES:
        (folder / "labelsTr" / f"{case}.nii.gz").touch()
    write_json(
        folder / "dataset.json",
        {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"},
    )
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    preprocessed = tmp_path / "preprocessed" / DATASET
    preprocessed.mkdir(parents=True)
    for module in ("study_checks", "study_plans"):
        monkeypatch.setattr(
            f"nnunet_iac.workflow.{module}.preprocessed_folder", lambda name: preprocessed
        )
    return folder


def study(**dataset: Any) -> Any:
    return study_of(
        {
            "name": "s",
            "datasets": [{"dataset": DATASET, **dataset}],
            "backbones": {"short": {"trainer": "nnUNetTrainerAdam_8epochs"}},
            "methods": {"random": None},
        }
    )


def given(path: Path, train: list[str], val: list[str]) -> str:
    write_json(path, [{"train": train, "val": val}])
    return str(path)


def test_a_ready_study_passes_and_gets_folds_by_patient(raw: Path) -> None:
    made = study(patients=PATIENTS, folds=[4])
    require_ready(made)
    assert wanted_splits(made.datasets[0]) == patient_folds(CASES, PATIENTS)
    plain = study()
    assert wanted_splits(plain.datasets[0]) == patient_folds(CASES, None)


def test_two_frames_of_a_patient_on_both_sides_are_an_error(raw: Path, tmp_path: Path) -> None:
    splits = given(tmp_path / "bad.json", CASES[:5], CASES[5:])
    with pytest.raises(ValueError, match=r"on both sides .* patient02"):
        require_ready(study(splits=splits, patients=PATIENTS))
    require_ready(study(splits=splits))  # Without the pattern every case is a patient.


def test_the_splits_that_are_there_must_keep_patients_apart_too(raw: Path, tmp_path: Path) -> None:
    given(tmp_path / "preprocessed" / DATASET / "splits_final.json", CASES[:5], CASES[5:])
    with pytest.raises(ValueError, match="on both sides"):
        require_ready(study(patients=PATIENTS))


def test_splits_beside_the_raw_data_are_taken_unless_the_study_names_others(
    raw: Path, tmp_path: Path
) -> None:
    beside = [{"train": CASES[2:], "val": CASES[:2]}]
    write_json(raw / "splits_final.json", beside)
    plain = study()
    assert wanted_splits(plain.datasets[0]) == beside
    own = study(splits=given(tmp_path / "own.json", CASES[4:], CASES[:4]))
    assert wanted_splits(own.datasets[0])[0]["val"] == CASES[:4]


def test_cases_may_be_listed_with_files_anywhere(raw: Path) -> None:
    known = read_json(raw / "dataset.json")
    listed = {case: {"images": ["elsewhere/a.png"], "label": "elsewhere/b.png"} for case in "ba"}
    write_json(raw / "dataset.json", {**known, "dataset": listed})
    assert raw_cases(raw) == ["a", "b"]


def test_other_splits_are_not_overwritten(raw: Path, tmp_path: Path) -> None:
    given(tmp_path / "preprocessed" / DATASET / "splits_final.json", CASES[:4], CASES[4:])
    splits = given(tmp_path / "mine.json", CASES[4:], CASES[:4])
    with pytest.raises(ValueError, match="must be the splits that the study names"):
        require_ready(study(splits=splits))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"folds": [5], "patients": PATIENTS}, "must be among the 5"),
        ({"patients": "case"}, "does not match"),
        ({"splits": "nowhere.json"}, "nowhere.json does not exist"),
        ({"predict": True}, "imagesTs must exist"),
        ({"splits": [{"train": CASES, "val": []}]}, "needs cases to score; fold 0 .* has none"),
    ],
)
def test_what_a_data_set_lacks_is_named(raw: Path, dataset: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        require_ready(study(**dataset))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["a"], ["a", "b"], "every label its image; without the other: b"),
        (["a"], [], "without the other: a"),
        ([], [], "there is none"),
        (["a", "b"], ["a"], "without the other: b"),
        (["a"], ["a"], None),
    ],
)
def test_a_test_case_has_an_image_and_a_label(
    raw: Path, images: list[str], labels: list[str], message: str | None
) -> None:
    for folder, names in (
        ("imagesTs", [f"{i}_{n}" for i in images for n in ("0000", "0001")]),
        ("labelsTs", labels),
    ):
        (raw / folder).mkdir()
        for name in names:
            (raw / folder / f"{name}.nii.gz").touch()
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        require_ready(study(predict=True))


def test_a_test_case_without_a_patient_is_named(raw: Path) -> None:
    for folder, name in (("imagesTs", "other_0000"), ("labelsTs", "other")):
        (raw / folder).mkdir()
        (raw / folder / f"{name}.nii.gz").touch()
    with pytest.raises(ValueError, match="does not match 'other'"):
        require_ready(study(predict=True, patients=PATIENTS))


def test_cases_that_are_not_there_are_named(raw: Path, tmp_path: Path) -> None:
    splits = given(tmp_path / "mine.json", [*CASES[4:], "ghost"], CASES[:4])
    with pytest.raises(ValueError, match="ghost"):
        require_ready(study(splits=splits))


def test_a_data_set_or_a_variable_that_is_not_there_is_named(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="the data set must be there"):
        require_ready(study())
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(RuntimeError, match="nnUNet_raw must name"):
        require_ready(study())


def test_an_unknown_trainer_is_named(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> type:
        raise RuntimeError(f"no trainer {name}")

    monkeypatch.setattr(study_checks, "find_trainer", unknown)
    document = {
        "name": "s",
        "datasets": [{"dataset": DATASET}],
        "backbones": {"b": {"trainer": "nnUNetTrainerFast"}},
        "methods": {"random": None},
    }
    with pytest.raises(RuntimeError, match="nnUNetTrainerFast"):
        require_ready(study_of(document))


def test_plans_and_cells_that_are_not_there_are_named_before_anything_starts(
    raw: Path, tmp_path: Path
) -> None:
    document = {
        "name": "s",
        "datasets": [{"dataset": DATASET}],
        "backbones": {"short": {"plans": "nowhere"}},
        "methods": {"random": None},
    }
    with pytest.raises(FileNotFoundError, match="the plans nowhere must exist"):
        require_ready(study_of(document))
    lost = {"as": "random", "settings": {"genotype": str(tmp_path / "none.json")}}
    document |= {"backbones": {"short": None}, "methods": {"lost": lost}}
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        require_ready(study_of(document))
