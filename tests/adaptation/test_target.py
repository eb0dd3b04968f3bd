"""What is checked before a target is prepared, and how few cases are split."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from planned_unets import architecture
from trained_models import DATASET, planned, write_model

from nnunet_iac.adaptation.adapted_plans import adapted_plans, require_settings
from nnunet_iac.adaptation.next_commands import next_commands
from nnunet_iac.adaptation.preparation import _is_copy, prepare, require_valid
from nnunet_iac.adaptation.source import SourceModel, model_folder
from nnunet_iac.adaptation.target import (
    Target,
    mapped_target,
    require_adaptable,
    require_other_patients,
)
from nnunet_iac.adaptation.target_splits import write_splits
from nnunet_iac.cli import main
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    DISCRETE_TRAINER,
    LTH_TRAINER,
    preprocessed_folder,
    trainer_for,
)
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.search.settings import Settings, parse_assignment
from nnunet_iac.training.method import CONTINUE
from nnunet_iac.training.setting_checks import require_usable
from nnunet_iac.workflow.study_checks import require_fitting, require_ready
from nnunet_iac.workflow.study_file import study_of

NAME = "nnUNetPlansFrom027"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folders: a trained model, and the raw data of another site without labels."""
    for part in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{part}", str(tmp_path / part))
        (tmp_path / part).mkdir()
    write_model(tmp_path / "results", "2d", planned(2))
    raw = tmp_path / "raw" / "Dataset030_Site"
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (raw / part).mkdir(parents=True)
        for case in ("p1_ed", "p1_es", "p2_ed"):
            (raw / part / f"{case}{ending}").touch()
    write_json(raw / "dataset.json", {**DATASET, "numTraining": 3})
    return tmp_path


@pytest.fixture
def source(folders: Path) -> SourceModel:
    return SourceModel.at(model_folder("27", "2d", "nnUNetTrainer", "nnUNetPlans"))


@pytest.fixture
def target(folders: Path) -> Target:
    return Target.of("30")


def test_an_installed_zip_is_a_source_without_its_data(
    folders: Path, source: SourceModel, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = source.checkpoint.parent
    write_json(fold / "validation" / "summary.json", {"metric_per_case": []})
    (fold / "progress.png").touch()
    write_json(source.model / "dataset_fingerprint.json", {})
    zipped = folders / "model.zip"
    export_pretrained_model(27, str(zipped), ("2d",), folds=(0,))
    shutil.rmtree(folders / "results")
    monkeypatch.setenv("nnUNet_results", str(folders / "elsewhere"))
    install_model_from_zip_file(str(zipped))
    again = SourceModel.at(model_folder("27", "2d", "nnUNetTrainer", "nnUNetPlans"))
    assert again.checkpoint.is_relative_to(folders / "elsewhere")
    assert require_adaptable(again, target, NAME) == []
    (note,) = require_other_patients(again, target, DataConfig())
    assert note.startswith("note: the cases that the source was trained on are not known")


def test_a_short_search_is_checked_with_the_warm_up_of_an_adaptation(
    source: SourceModel, target: Target
) -> None:
    assert require_settings(source, target, NAME, {"search_epochs": 12}) == DataConfig()


def test_an_image_that_nobody_can_read_is_named_without_a_traceback(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {k: v for k, v in target.dataset.items() if k != "overwrite_image_reader_writer"}
    with pytest.raises(ValueError, match=r"readable by nnU-Net; .*p1_ed_0000\.nii\.gz is not"):
        _ = Target(target.name, document).reader
    assert capsys.readouterr() == ("", "")


def test_what_the_source_was_itself_trained_from_must_not_have_seen_the_patients_either(
    folders: Path, source: SourceModel, target: Target
) -> None:
    first = folders / "first" / "fold_0" / "checkpoint_final.pth"
    first.parent.mkdir(parents=True)
    checkpoint = torch.load(source.checkpoint, weights_only=False)
    checkpoint["init_args"]["plans"] = {**checkpoint["init_args"]["plans"], "dataset_name": "D"}
    torch.save(checkpoint, first)
    write_json(folders / "preprocessed" / "D" / "splits_final.json", [{"train": ["p2_ed"]}])
    record = RunFolder.of_fold(source.checkpoint.parent)
    record.write_backbone(BackboneRecord(str(first), "nnUNetTrainer", 0, "hash"))
    seen = "which was trained on a patient called p2_ed"
    with pytest.raises(ValueError, match=f"was trained from {first}, {seen}"):
        require_other_patients(source, target, DataConfig())
    note, *_ = require_other_patients(source, target, DataConfig(allow_leakage=True))
    assert f"was trained from {first}, {seen}" in note
    # On the way back to a data set its fold decides.
    checkpoint["init_args"]["plans"]["dataset_name"] = target.name
    torch.save(checkpoint, first)
    note, *_ = require_other_patients(source, target, DataConfig())
    assert f"was trained from {first}, which was trained on fold 0" in note
    first.unlink()
    note, *_ = require_other_patients(source, target, DataConfig())
    assert f"trained from {first}, whose own training cases are not known" in note
    record.backbone_file.unlink()
    own = torch.load(source.checkpoint, weights_only=False)
    torch.save({**own, "trainer_name": CONTINUE_TRAINER}, source.checkpoint)
    note, *_ = require_other_patients(source, target, DataConfig())
    assert "trained by nnUNetTrainerContinue from a model that is not known" in note


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (IndexError("empty"), "must be a valid raw data set"),
        (RuntimeError("no worker"), "no worker"),
    ],
)
def test_an_error_of_nnunets_preprocessing_names_the_target_unless_it_is_another_cause(
    source: SourceModel,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    place = "nnunet_iac.adaptation.preparation."
    monkeypatch.setattr(f"{place}verify_dataset_integrity", lambda *_: None)
    monkeypatch.setattr(f"{place}extract_fingerprint_dataset", fail)
    with pytest.raises((ValueError, RuntimeError), match=message):
        prepare(source, target, NAME, {}, 1, print)


def test_the_plans_of_another_fold_are_named(source: SourceModel, target: Target) -> None:
    path = preprocessed_folder(target.name) / f"{NAME}.json"
    write_json(path, adapted_plans(source, target, NAME, {}))
    shutil.copytree(source.checkpoint.parent, source.model / "fold_1")
    other = SourceModel.at(source.model, fold="1")
    with pytest.raises(
        ValueError, match=r"plans are of one model and fold; .* adapts .*fold_0/checkpoint"
    ):
        prepare(other, target, NAME, {}, 1, print)


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("name", ["somewhere/model", "99"])
def test_a_source_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be a model folder, or the id or name of a data set"):
        model_folder(name, "2d", "nnUNetTrainer", "nnUNetPlans")


def test_two_data_sets_of_one_number_are_named(folders: Path) -> None:
    (folders / "raw" / "Dataset027_Other").mkdir()
    with pytest.raises(ValueError, match=r"got '27' .*More than one dataset"):
        model_folder("27", "2d", "nnUNetTrainer", "nnUNetPlans")


@pytest.mark.parametrize("name", ["dataset", "dataset_fingerprint", "splits_final"])
def test_plans_are_not_called_as_another_file(
    source: SourceModel, target: Target, name: str
) -> None:
    with pytest.raises(ValueError, match="must not be the name of another file"):
        prepare(source, target, name, {}, 1, print)


@pytest.mark.parametrize("pattern", [r"p\d+", None])
def test_a_patient_of_the_source_is_refused_by_name_and_by_pattern(
    folders: Path, source: SourceModel, target: Target, pattern: str | None
) -> None:
    shared = "p1_later" if pattern else "p1_es"
    known = folders / "preprocessed" / "Dataset027_Source" / "splits_final.json"
    write_json(known, [{"train": [shared, "p7_ed"], "val": ["p2_ed"]}])
    data = DataConfig(patient_pattern=pattern)
    with pytest.raises(ValueError, match=r"must not have seen the patients .* called p1"):
        require_other_patients(source, target, data)
    require_other_patients(source, target, replace(data, allow_leakage=True))
    own = folders / "preprocessed" / "Dataset030_Site" / "splits_final.json"
    write_json(own, [{"train": ["p1_ed", "p1_es"], "val": ["p2_ed"]}])
    require_other_patients(source, target, data)
    write_json(own, [["p1_ed"]])
    with pytest.raises(ValueError, match=r"Dataset030_Site/splits_final\.json must have the form"):
        require_other_patients(source, target, data)


def test_images_without_spacing_do_not_fit_those_with(source: SourceModel, target: Target) -> None:
    plans = {**source.plans, "image_reader_writer": "NaturalImage2DIO"}
    with pytest.raises(ValueError, match="must both have a spacing in mm, or neither"):
        require_adaptable(replace(source, plans=plans), target, NAME)


def test_a_model_with_an_unknown_preprocessor_is_refused(
    source: SourceModel, target: Target
) -> None:
    plans = read_json(source.model / "plans.json")
    plans["configurations"]["2d"]["preprocessor_name"] = "Absent"
    with pytest.raises(ValueError, match="it has no Absent: install what the model was planned"):
        require_adaptable(replace(source, plans=plans), target, NAME)


def test_a_target_with_a_number_of_others_is_refused(folders: Path) -> None:
    (folders / "results" / "Dataset030_Other").mkdir()
    with pytest.raises(ValueError, match="Dataset030_Site shares it with another data set"):
        Target.of("Dataset030_Site")


def test_whatever_a_reader_of_images_raises_is_an_error_of_the_target(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EOFError("file ended too soon")

    monkeypatch.setattr("nnunet_iac.adaptation.preparation.verify_dataset_integrity", fail)
    with pytest.raises(ValueError, match=r"is not \(file ended too soon\): correct it"):
        require_valid(target, 1)


def test_a_target_is_read_as_the_source_was(source: SourceModel, target: Target) -> None:
    plans = {**source.plans, "image_reader_writer": "NibabelIOWithReorient"}
    turned = replace(source, plans=plans)
    require_adaptable(turned, target, NAME)
    made = adapted_plans(turned, target, NAME, {})
    assert made["image_reader_writer"] == "NibabelIOWithReorient"
    other = replace(target, dataset={**target.dataset, "file_ending": ".nrrd"})
    other.__dict__["cases"] = {"a": {"images": ["a_0000.nrrd"], "label": "a.nrrd"}}
    with pytest.raises(ValueError, match="turned to one orientation as they are read, or neither"):
        require_adaptable(turned, other, NAME)
    assert adapted_plans(source, other, NAME, {})["image_reader_writer"] == "SimpleITKIO"


def test_a_model_whose_plans_have_another_spacing_is_refused(
    source: SourceModel, target: Target
) -> None:
    plans = read_json(source.model / "plans.json")
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    with pytest.raises(ValueError, match=r"trained under the given plans; spacing is \[2.0, 2.0\]"):
        require_adaptable(replace(source, plans=plans), target, NAME)


def test_preprocessed_data_of_unknown_plans_are_not_taken(
    folders: Path, source: SourceModel, target: Target
) -> None:
    data = folders / "preprocessed" / "Dataset030_Site" / f"{NAME}_own"
    data.mkdir(parents=True)
    (data / "p1_ed.b2nd").touch()
    with pytest.raises(ValueError, match="preprocessed data must be those of their plans"):
        prepare(source, target, NAME, {}, 1, print)
    assert not data.with_name(f"{NAME}.json").exists()


def test_a_pattern_that_does_not_match_is_found_before_any_work(
    source: SourceModel, target: Target
) -> None:
    with pytest.raises(ValueError, match="patient_pattern must match every case"):
        prepare(source, target, NAME, {"patient_pattern": r"site_\d+"}, 1, print)


def test_a_data_set_that_was_mapped_otherwise_is_not_taken(
    source: SourceModel, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(raw: Path, document: Any, of: Any, values: dict[int, int], folder: Path) -> None:
        mapped = {"dataset": raw.name, "numbers": {str(k): v for k, v in values.items()}}
        written = {**document, "dataset": target.cases, "mapped_from": mapped}
        write_json(folder / "dataset.json", written)

    monkeypatch.setattr("nnunet_iac.adaptation.target.write_mapped_dataset", write)
    swapped, name = {"head": "tail", "tail": "head"}, "Dataset130_Mapped"
    first = mapped_target(source, target, name, swapped, ())
    assert mapped_target(source, target, name, swapped, ()) == first
    with pytest.raises(ValueError, match="or mapped otherwise, and is not overwritten"):
        mapped_target(source, target, name, {"head": "tail"}, ["head"])
    other = target.raw.with_name("Dataset131_Other")
    (other / "labelsTr").mkdir(parents=True)
    write_json(target.splits, [])
    with pytest.raises(ValueError, match="must get a folder of its own"):
        mapped_target(source, target, other.name, swapped, ())
    assert [path.name for path in other.iterdir()] == ["labelsTr"]


def test_images_without_a_number_are_refused(folders: Path) -> None:
    images = folders / "raw" / "Dataset030_Site" / "imagesTr"
    for image in images.iterdir():
        image.rename(images / image.name.replace("_0000", ""))
    with pytest.raises(ValueError, match="images must be called CASE_0000, CASE_0001"):
        Target.of("30")


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channel_names": {"0": None}}, r"must name channels, .* got \{'0': None\}"),
        ({"labels": {"background": 0, "organ": None}}, "give every label a number"),
        ({"dataset": {"a": {}}}, r"dataset\.json must have the form of such a file"),
    ],
)
def test_a_malformed_data_set_is_named(folders: Path, changed: Any, message: str) -> None:
    path = folders / "raw" / "Dataset030_Site" / "dataset.json"
    write_json(path, {**read_json(path), **changed})
    with pytest.raises(ValueError, match=message):
        Target.of("30")


def test_a_mapped_data_set_takes_over_splits_and_later_cases(
    folders: Path, source: SourceModel, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(raw: Path, document: Any, of: Any, values: dict[int, int], folder: Path) -> None:
        mapped = {"dataset": raw.name, "numbers": {str(k): v for k, v in values.items()}}
        cases = Target.of("30").cases
        write_json(folder / "dataset.json", {**document, "dataset": cases, "mapped_from": mapped})

    monkeypatch.setattr("nnunet_iac.adaptation.target.write_mapped_dataset", write)
    splits = [{"train": ["p1_ed", "p1_es"], "val": ["p2_ed"]}]
    write_json(target.raw / "splits_final.json", splits)
    given = "Dataset130_Mapped", {"head": "tail", "tail": "head"}, ()
    mapped = mapped_target(source, target, *given)
    assert read_json(mapped.raw / "splits_final.json") == splits
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (target.raw / part / f"p3_ed{ending}").touch()
    assert {*mapped_target(source, Target.of("30"), *given).cases} == {*target.cases, "p3_ed"}
    with pytest.raises(ValueError, match="exists with other cases"):
        mapped_target(source, target, *given)


def test_a_study_that_adapts_is_checked_before_anything_starts(
    folders: Path, source: SourceModel, target: Target
) -> None:
    splits = [{"train": ["p1_ed", "p1_es"], "val": ["p2_ed"]}]
    dataset = {"dataset": target.name, "folds": [0], "patients": r"p\d+", "splits": splits}
    backbones = {"adapted": {"adapt": str(source.checkpoint.parent)}}
    document = {"name": "s", "datasets": [dataset], "backbones": backbones, "methods": {}}
    require_ready(study_of(document))
    (run,) = study_of(document).runs.values()
    (note,) = require_fitting(study_of(document), run, source)
    assert "patients were not compared with the target's" in note
    known = folders / "preprocessed" / "Dataset027_Source" / "splits_final.json"
    write_json(known, [{"train": ["p1_es"], "val": []}])
    require_ready(study_of(document))  # It is trained on that patient, not scored.
    write_json(known, [{"train": ["p2_es"], "val": []}])
    with pytest.raises(ValueError, match="was trained on a patient called p2"):
        require_ready(study_of(document))
    require_ready(study_of({**document, "settings": {"allow_leakage": True}}))
    write_json(known, [{"train": ["p1_es"], "val": []}])
    plans = folders / "preprocessed" / target.name / "adapted.json"
    write_json(
        plans,
        {
            **read_json(source.model / "plans.json"),
            "plans_name": "adapted",
            "dataset_name": target.name,
        },
    )
    with pytest.raises(ValueError, match=r"adapted\.json was written for something else"):
        require_ready(study_of(document))
    plans.unlink()
    other = {**read_json(target.raw / "dataset.json"), "labels": {"background": 0, "heart": 1}}
    write_json(target.raw / "dataset.json", other)
    with pytest.raises(ValueError, match="the target must have the source's labels"):
        require_ready(study_of(document))


def test_a_target_without_a_folder_of_images_has_no_cases(folders: Path) -> None:
    shutil.rmtree(folders / "raw" / "Dataset030_Site" / "imagesTr")
    with pytest.raises(ValueError, match="at least one training case"):
        Target.of("30")


def test_patients_of_known_validations_alone_are_noted(source: SourceModel, target: Target) -> None:
    shutil.copytree(source.checkpoint.parent, source.model / "fold_1")
    cases = [{"prediction_file": "q1.nii.gz", "reference_file": "q1.nii.gz", "metrics": {}}]
    (source.model / "fold_1" / "validation").mkdir()
    write_json(source.model / "fold_1" / "validation" / "summary.json", {"metric_per_case": cases})
    (note,) = require_other_patients(source, target, DataConfig())
    assert "from the validations of its folds: 1; only" in note


def test_patients_that_cannot_be_compared_are_noted(source: SourceModel, target: Target) -> None:
    (note,) = require_other_patients(source, target, DataConfig())
    assert "patients were not compared" in note


def test_a_model_folder_is_its_own_trainer_and_plans(source: SourceModel) -> None:
    found = model_folder(str(source.model), "2d", "nnUNetTrainer", "nnUNetPlans")
    assert found == source.model
    with pytest.raises(ValueError, match=r"-s names a model folder, .*; got Other and nnUNetPlans"):
        model_folder(str(source.model), "2d", "Other", "nnUNetPlans")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"trainable_part": "norms", "genotype": "random:0"},
            r"trainable_part of a retrofit must be one of .* norms",
        ),
        ({"retention": "l2-sp", "trainable_part": "cells"}, "l2-sp is for nnUNetTrainerContinue"),
        ({"retention": "ewc", "genotype": "identity"}, "ewc is for nnUNetTrainerContinue"),
        ({"retention": "rehearsal", "search_epochs": 5}, "rehearsal must prune; search_epochs=5"),
    ],
)
def test_settings_that_no_trainer_takes_together_are_refused(
    source: SourceModel, target: Target, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(source, target, NAME, values, 1, print)


def test_labels_are_mapped_again_after_one_was_corrected(
    folders: Path, source: SourceModel, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(raw: Path, document: Any, of: Any, values: dict[int, int], folder: Path) -> None:
        written.append(folder)
        (folder / "labelsTr").mkdir(parents=True, exist_ok=True)
        listed = {}
        for case, files in target.cases.items():
            (folder / "labelsTr" / f"{case}.nii.gz").touch()
            listed[case] = {"images": files["images"], "label": f"labelsTr/{case}.nii.gz"}
        mapped = {"dataset": raw.name, "numbers": {str(k): v for k, v in values.items()}}
        write_json(folder / "dataset.json", {**document, "dataset": listed, "mapped_from": mapped})

    monkeypatch.setattr("nnunet_iac.adaptation.target.write_mapped_dataset", write)
    given = source, target, "Dataset130_Mapped", {"head": "tail", "tail": "head"}, ()
    mapped_target(*given)
    mapped_target(*given)
    assert len(written) == 1
    label = folders / "raw" / "Dataset030_Site" / "labelsTr" / "p1_ed.nii.gz"
    os.utime(label, ns=(label.stat().st_mtime_ns + 10**9,) * 2)
    mapped_target(*given)
    assert len(written) == 2
    time.sleep(1)
    mapped_target(*given)
    mapped_target(*given)
    assert len(written) == 3
    earlier = label.with_name("earlier")  # Copied with the time it had elsewhere.
    earlier.touch()
    os.utime(earlier, ns=(0, 0))
    time.sleep(0.05)
    earlier.replace(label)
    mapped_target(*given)
    assert len(written) == 4
    path = folders / "raw" / "Dataset130_Mapped" / "dataset.json"
    moved = read_json(path)
    moved["dataset"]["p1_ed"]["images"] = ["/elsewhere/p1_ed_0000.nii.gz"]
    write_json(path, moved)
    mapped_target(*given)
    assert len(written) == 5


@pytest.mark.parametrize("name", ["Dataset027_Mapped", "Dataset027_Source", "Dataset040_Mapped"])
def test_a_mapped_data_set_needs_a_number_of_its_own(
    folders: Path, source: SourceModel, target: Target, name: str
) -> None:
    (folders / "results" / "Dataset040_Trained").mkdir()
    with pytest.raises(ValueError, match="number must be its own"):
        mapped_target(source, target, name, {"head": "tail", "tail": "head"}, ())
    assert not (folders / "raw" / name).exists()


def test_a_network_that_takes_no_cells_is_refused(folders: Path, target: Target) -> None:
    shallow = planned(2, architecture=architecture(2, (4, 8), 1))
    model = write_model(folders / "elsewhere", "2d", shallow)
    with pytest.raises(ValueError, match="at least 3 stages"):
        require_adaptable(SourceModel.at(model), target, NAME)


def test_a_folder_called_as_a_data_set_is_not_taken_for_a_model(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders / "results")
    found = model_folder("Dataset027_Source", "2d", "nnUNetTrainer", "nnUNetPlans")
    assert found.name == "nnUNetTrainer__nnUNetPlans__2d"


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins of what nnU-Net does with images; the list has the configurations preprocessed."""
    done: list[str] = []
    place = "nnunet_iac.adaptation.preparation."
    for name in ("verify_dataset_integrity", "extract_fingerprint_dataset"):
        monkeypatch.setattr(place + name, lambda *_, **__: None)
    monkeypatch.setattr(place + "preprocess_dataset", lambda *given: done.extend(given[2]))
    return done


def test_a_second_configuration_joins_the_plans_of_the_first(
    folders: Path, source: SourceModel, target: Target, preparing: list[str]
) -> None:
    deep = SourceModel.at(write_model(folders / "results", "3d_fullres", planned(3)))
    for model in (source, deep, source):
        path = prepare(model, target, NAME, {}, 1, print)
    assert [*read_json(path)["configurations"]] == ["2d", "3d_fullres"]
    assert preparing == ["2d", "3d_fullres", "2d"]
    with pytest.raises(ValueError, match="exists with other content"):
        prepare(deep, target, NAME, {"seed": 1}, 1, print)


def test_settings_name_their_files_for_every_folder(
    source: SourceModel, target: Target, preparing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target.raw)
    path = prepare(source, target, NAME, {"genotype": "cell.json"}, 1, print)
    section = read_json(path)["configurations"]["2d"]["iac"]
    assert section["genotype"] == str(target.raw / "cell.json")
    with pytest.raises(ValueError, match="backbone_checkpoint is the source's"):
        prepare(source, target, "other", {"backbone_checkpoint": "final.pth"}, 1, print)


@pytest.mark.usefixtures("preparing")
def test_splits_beside_the_raw_data_are_taken_over(
    folders: Path, source: SourceModel, target: Target
) -> None:
    splits = [{"train": ["p1_ed", "p1_es"], "val": ["p2_ed"]}]
    write_json(target.raw / "splits_final.json", splits)
    given, log = {"patient_pattern": r"p\d+"}, list[str]()
    path = prepare(source, target, NAME, given, 1, print)
    assert read_json(path.with_name("splits_final.json")) == splits
    write_json(target.raw / "splits_final.json", [{"train": ["p1_ed"], "val": ["p2_ed"]}])
    prepare(source, target, NAME, given, 1, log.append)
    assert "splits_final.json count; those in" in log[0]
    assert read_json(path.with_name("splits_final.json")) == splits


@pytest.mark.usefixtures("preparing")
def test_splits_that_hold_nobody_out_are_kept(source: SourceModel, target: Target) -> None:
    splits = [{"train": ["p1_ed", "p1_es", "p2_ed"], "val": []}]
    write_json(target.raw / "splits_final.json", splits)
    path = prepare(source, target, NAME, {"patient_pattern": r"p\d+"}, 1, print)
    assert read_json(path.with_name("splits_final.json")) == splits


@pytest.mark.usefixtures("preparing")
def test_splits_by_case_are_refused_once_patients_are_known(
    source: SourceModel, target: Target
) -> None:
    prepare(source, target, NAME, {}, 1, print)
    with pytest.raises(ValueError, match=r"p1 is, in .*: correct it, or remove it and run"):
        prepare(source, target, "other", {"patient_pattern": r"p\d+"}, 1, print)


def test_a_label_that_was_copied_in_part_is_no_copy(tmp_path: Path) -> None:
    label, truth = tmp_path / "label", tmp_path / "truth"
    label.write_text("whole")
    truth.write_text("who")
    assert not _is_copy(truth, label)
    truth.write_text("whole")
    assert _is_copy(truth, label)


@pytest.mark.usefixtures("preparing")
def test_cases_that_splits_do_not_name_are_reported_and_removed_ones_refused(
    folders: Path, source: SourceModel, target: Target
) -> None:
    log: list[str] = []
    path = prepare(source, target, NAME, {"patient_pattern": r"p\d+"}, 1, log.append)
    assert log == []
    raw = target.raw
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (raw / part / f"p3{ending}").touch()
    prepare(source, Target.of("30"), NAME, {"patient_pattern": r"p\d+"}, 1, log.append)
    assert "does not name p3: to train on all cases add them" in log[0]
    write_json(path.with_name("splits_final.json"), [{"train": ["gone"], "val": ["p1_ed"]}])
    with pytest.raises(ValueError, match=r"splits_final\.json has gone, which"):
        prepare(source, target, NAME, {"patient_pattern": r"p\d+"}, 1, print)


FRAMES = [f"p{n}_{frame}" for n in range(6) for frame in ("ed", "es")]


@pytest.mark.parametrize(
    ("cases", "folds"),
    [
        (["p1", "p2"], 2),
        (["p1_ed", "p1_es", "p2_ed"], 2),
        ([f"p{n}" for n in range(5)], None),
        (FRAMES[:6], 3),
        (FRAMES, 5),
    ],
)
def test_few_patients_are_split_without_one_on_both_sides(
    tmp_path: Path, cases: list[str], folds: int | None
) -> None:
    write_splits(tmp_path, cases, r"p\d+")
    path = tmp_path / "splits_final.json"
    assert path.is_file() == (folds is not None)
    if folds is not None:
        written = read_json(path)
        assert len(written) == folds
        assert sorted(case for fold in written for case in fold["val"]) == sorted(cases)
        for fold in written:
            assert sorted([*fold["train"], *fold["val"]]) == sorted(cases)
            assert not {case[:2] for case in fold["train"]} & {case[:2] for case in fold["val"]}


@pytest.mark.parametrize("cases", [["p1"], [f"p1_{n}" for n in range(5)]])
def test_a_single_patient_is_trained_on_until_there_are_more(
    tmp_path: Path, cases: list[str]
) -> None:
    write_splits(tmp_path, cases, r"p\d+")
    assert read_json(tmp_path / "splits_final.json") == [{"train": cases, "val": []}]
    write_splits(tmp_path, [*cases, "p2"], r"p\d+")
    assert [fold["val"] for fold in read_json(tmp_path / "splits_final.json")] == [["p2"], cases]


@pytest.mark.parametrize(("pattern", "fold"), [("site", "all"), (None, "0")])
def test_the_next_command_names_a_fold_that_can_be_trained(
    folders: Path, source: SourceModel, pattern: str | None, fold: str
) -> None:
    raw = folders / "raw" / "Dataset031_Many"
    (raw / "imagesTr").mkdir(parents=True)
    for number in range(5):
        (raw / "imagesTr" / f"site_{number}_0000.nii.gz").touch()
    write_json(raw / "dataset.json", {**DATASET, "numTraining": 5})
    path = folders / "preprocessed" / "Dataset031_Many" / f"{NAME}.json"
    write_settings(path, {"patient_pattern": pattern})
    command, search, plans, control, *use = next_commands(path, source, Target.of("31"))
    train = f"nnUNetv2_train 31 2d {fold} -tr nnUNetTrainer"
    assert command == f"next: {train}IACDiscrete -p {NAME}"
    assert search == f"or, to search the cell: {train}IACLTH -p {NAME}"
    plan = f"nnunet-iac plan -d 31 -c 2d -p {NAME} -o {NAME}_control"
    assert plans == f"plans of the control: {plan} --set finetune_lr=0.0003"
    assert control == f"control: {train}Continue -p {NAME}_control"
    of_all = f"nnUNetv2_train 31 2d all -tr nnUNetTrainerIACDiscrete -p {NAME}"
    assert use == ([] if fold == "all" else [f"for use, with all cases: {of_all}"])


@pytest.mark.parametrize(
    ("settings", "trainer", "control"),
    [
        ({}, "IACDiscrete", ""),
        ({"genotype": "random:0"}, "IACDiscrete", ""),
        ({"finetune_lr": 0.1}, "IACDiscrete", "finetune_lr=0.0003"),
        ({"finetune_epochs": 4}, "IACDiscrete", ""),
        ({"search_epochs": 9, "finetune_epochs": 4}, "IACLTH", "finetune_epochs=12"),
        (
            {"skip": "attention", "finetune_lr": 0.1, "trainable_part": "cells+norms"},
            "IACDiscrete",
            "finetune_lr=0.0003 trainable_part=network genotype=null skip=cell",
        ),
        ({"retention": "rehearsal"}, "IACDiscrete", ""),
        (
            {"trainable_part": "cells+norms"},
            "IACDiscrete",
            "finetune_lr=0.0003 trainable_part=network genotype=null skip=cell",
        ),
        ({"trainable_part": "decoder"}, "Continue", None),
        ({"retention": "l2-sp"}, "Continue", None),
    ],
)
def test_the_next_commands_are_those_of_the_settings(
    folders: Path,
    source: SourceModel,
    target: Target,
    settings: dict[str, Any],
    trainer: str,
    control: str | None,
) -> None:
    path = folders / "preprocessed" / "Dataset030_Site" / f"{NAME}.json"
    write_settings(path, {"preset": "adapt", **settings})
    lines = next_commands(path, source, target)
    command, *others = (line for line in lines if not line.startswith("or, to search"))
    assert f"-tr nnUNetTrainer{trainer} " in command
    assert [line.partition("--set ")[2] for line in others][:1] == (
        [] if control is None else [control]
    )
    if control:
        changes = dict(parse_assignment(word) for word in control.split())
        changed = Settings.from_mapping({"preset": "adapt", **settings, **changes})
        assert trainer_for(changed) in (CONTINUE_TRAINER, LTH_TRAINER, DISCRETE_TRAINER)
        require_usable(CONTINUE, changed)


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write plans of a data set with nothing but settings."""
    names = {"plans_name": NAME, "dataset_name": path.parent.name}
    write_json(path, {**names, "configurations": {"2d": {"iac": settings}}})


MAP, FEW = "--mapped-dataset Dataset130_M", "--adapter a.safetensors --adapter b/a.safetensors"


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("adapt", "-np 0", "-np must be at least 1; got 0"),
        ("adapt", "--map head", "a mapping must have the form TARGET=SOURCE; got 'head'"),
        ("adapt", f"--map head=tail head=head {MAP}", "label of the target once"),
        ("adapt", "--map head=tail", "name one with --mapped-dataset"),
        ("adapt", f"--absent tail {MAP}", "labels that the target lacks; it has"),
        ("adapt", f"--set backbone_checkpoint=final.pth {MAP}", "is the source's"),
        ("adapt", f"--set patient_pattern=x --map head=head {MAP}", "every case"),
        ("adapt", "-c 3d_fullres", "must be a model of the configuration -c 3d_fullres"),
        ("predict", "--adapter auto --adapter none", "give auto alone"),
        ("predict", "--adapter site -f 0", "-f chooses folds of the backbone alone"),
        ("predict", FEW, "must have different names"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_written(
    folders: Path,
    source: SourceModel,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    words: str,
    message: str,
) -> None:
    before, images = sorted(folders.rglob("*")), folders / "raw" / "Dataset030_Site" / "imagesTr"
    given = {
        "adapt": ["-s", str(source.model), "-d", "30", "-c", "2d"],
        "predict": ["-m", str(source.model), "-i", str(images), "-o", str(folders / "out")],
    }
    assert main([verb, *given[verb], *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(folders.rglob("*")) == before


@pytest.mark.usefixtures("preparing")
def test_labels_that_were_preprocessed_otherwise_are_refused(
    folders: Path, source: SourceModel, target: Target
) -> None:
    known = folders / "preprocessed" / target.name / "dataset.json"
    write_json(known, {**DATASET, "labels": {"background": 0, "head": 2, "tail": 1}})
    with pytest.raises(ValueError, match="must be those of the raw data; they differ"):
        prepare(source, target, NAME, {}, 1, print)


def test_images_that_end_otherwise_are_noted(source: SourceModel, target: Target) -> None:
    other = replace(source, dataset={**source.dataset, "file_ending": ".nrrd"})
    (note,) = require_adaptable(other, target, NAME)
    assert note.endswith("of the source they must end with .nrrd")
