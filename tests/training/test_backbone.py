"""Where the backbone is found and what it must fulfil."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_iac.host.plans import INTENSITIES
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, CostRecord
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.backbone import (
    Fold,
    backbone_file,
    inherited_leakage,
    leakage,
    read_backbone,
    require_same_input,
    require_same_network,
    trained_cases,
)

FOLD = Fold("Dataset004_Hippocampus", "2d", 0, ("case_a", "case_b"))


def _touch(results: Path, trainer: str, plans: str, checkpoint: str, fold: int = 0) -> Path:
    path = results / f"{trainer}__{plans}__2d" / f"fold_{fold}" / checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _found(results: Path, **settings: Any) -> Path:
    return backbone_file(DataConfig(**settings), "nnUNetTrainer", ["own", "source"], FOLD, results)


def test_the_final_checkpoint_comes_before_the_best_and_the_given_plans_before_their_source(
    tmp_path: Path,
) -> None:
    order = [
        ("source", "checkpoint_best.pth"),
        ("source", "checkpoint_final.pth"),
        ("own", "checkpoint_best.pth"),
        ("own", "checkpoint_final.pth"),
    ]
    for plans, checkpoint in order:
        path = _touch(tmp_path, "nnUNetTrainer", plans, checkpoint)
        assert _found(tmp_path) == path


def test_a_missing_backbone_is_an_error_with_the_command_that_trains_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nnUNetv2_train 4 2d 0 -p source\n"):
        _found(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nnUNetv2_train 4 2d 0 -tr Other\n"):
        _found(tmp_path, backbone_trainer="Other", backbone_plans="nnUNetPlans")


def test_a_named_checkpoint_may_contain_the_fold(tmp_path: Path) -> None:
    path = tmp_path / "fold_0.pth"
    with pytest.raises(FileNotFoundError, match=r"fold_0\.pth does not exist"):
        _found(tmp_path, backbone_checkpoint=str(tmp_path / "fold_{fold}.pth"))
    path.touch()
    assert _found(tmp_path, backbone_checkpoint=str(tmp_path / "fold_{fold}.pth")) == path


def test_a_foreign_backbone_is_named_by_its_first_differing_key_and_shapes() -> None:
    wanted = {"a": torch.zeros(2), "head": torch.zeros(3, 4)}
    found = {"a": torch.zeros(2), "head": torch.zeros(5, 4)}
    with pytest.raises(ValueError, match=r"head is \(3, 4\) by the plans and \(5, 4\) in file"):
        require_same_network(found, wanted, Path("file"))
    with pytest.raises(ValueError, match=r"head is .* and absent in file"):
        require_same_network({"a": torch.zeros(2)}, wanted, Path("file"))
    with pytest.raises(ValueError, match="more is absent by the plans"):
        require_same_network({**wanted, "more": torch.zeros(1)}, wanted, Path("file"))


CONFIGURATION = {"spacing": [1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"]}
PLANS = {"configurations": {"2d": CONFIGURATION}}


def _init(fold: int | str, dataset: str = FOLD.dataset) -> dict[str, Any]:
    return {
        "fold": fold,
        "configuration": "2d",
        "plans": {"dataset_name": dataset, "configurations": {"2d": CONFIGURATION}},
        "dataset_json": {"file_ending": ".nii.gz"},
    }


def test_leakage_is_found_by_fold_by_split_and_by_what_was_validated(tmp_path: Path) -> None:
    splits = tmp_path / "splits_final.json"
    write_json(splits, [{"train": [], "val": []}, {"train": ["case_b"], "val": ["case_a"]}])
    checkpoint = tmp_path / "fold_0" / "checkpoint_final.pth"
    assert leakage(checkpoint, _init(0), FOLD, splits) is None
    assert leakage(checkpoint, _init(1), FOLD, splits) == (
        "was trained on fold 1, whose training cases are not this fold's, among them case_b"
    )
    assert leakage(checkpoint, _init("0"), FOLD, splits) is None
    assert leakage(checkpoint, _init("all"), FOLD, splits) == "was trained on all cases"
    assert leakage(checkpoint, _init(1, "Dataset005_Other"), FOLD, splits) is None
    row = {"prediction_file": "somewhere/case_a.nii.gz", "reference_file": "a", "metrics": {}}
    write_json(checkpoint.parent / "validation" / "summary.json", {"metric_per_case": [row]})
    assert leakage(checkpoint, _init(0), FOLD, splits) == (
        "was trained on another split: case_b was not among its validation cases"
    )


def trained_on(fold: Path, start: Path, leakage: str | None, number: int = 1) -> Path:
    """Write the record of a run that trained a checkpoint on; return where its own would be."""
    record = RunFolder.of_fold(fold)
    record.write_backbone(BackboneRecord(str(start), "nnUNetTrainer", 0, "hash", leakage=leakage))
    record.write_cost(CostRecord(run={"dataset": FOLD.dataset, "fold": number}))
    return fold / "checkpoint_final.pth"


def test_what_a_backbone_was_trained_from_must_not_leak_either(tmp_path: Path) -> None:
    splits, first = tmp_path / "splits_final.json", tmp_path / "fold_1" / "checkpoint_final.pth"
    assert inherited_leakage(first, FOLD, splits, None) is None
    second = trained_on(tmp_path / "there" / "fold_0", first, None)
    third = trained_on(tmp_path / "here" / "fold_0", second, None)
    assert inherited_leakage(third, FOLD, splits, None) is None
    first.parent.mkdir()
    torch.save({"init_args": _init(1), "network_weights": {}}, first)
    reason = inherited_leakage(third, FOLD, splits, None)
    assert str(reason).startswith(f"was trained from {first}, which was trained on fold 1")
    assert inherited_leakage(third, replace(FOLD, number=1), splits, None) is None


@pytest.mark.parametrize(("number", "leaks"), [(0, True), (1, False)])
def test_the_record_of_a_backbone_counts_where_its_start_is_gone(
    tmp_path: Path, number: int, leaks: bool
) -> None:
    backbone = trained_on(tmp_path / "fold_0", tmp_path / "gone", "has seen all", number)
    reason = inherited_leakage(backbone, FOLD, tmp_path / "splits_final.json", None)
    assert (reason is not None) == leaks
    assert reason is None or reason.endswith("gone, which has seen all")


def test_a_fold_that_holds_out_nobody_has_no_leakage(tmp_path: Path) -> None:
    fold = replace(FOLD, validation_cases=())
    assert leakage(tmp_path / "checkpoint", _init("all"), fold, tmp_path / "splits.json") is None


def test_a_patient_of_another_data_sets_model_is_found_by_name_and_by_pattern(
    tmp_path: Path,
) -> None:
    splits, other = (
        tmp_path / name / "splits_final.json" for name in (FOLD.dataset, "Dataset005_Other")
    )
    checkpoint, init = tmp_path / "fold_0" / "checkpoint_final.pth", _init(0, other.parent.name)
    write_json(other, [{"train": ["case_c", "case_a"], "val": ["case_b"]}])
    shared = "was trained on a patient called case_a, as a validation case here is"
    assert leakage(checkpoint, init, FOLD, splits) == shared
    write_json(other, [{"train": ["later_case_a", "case_c"], "val": ["case_b"]}])
    assert leakage(checkpoint, init, FOLD, splits) is None
    assert leakage(checkpoint, init, FOLD, splits, "case_[a-z]") == shared


@pytest.mark.parametrize(
    ("fold", "content"),
    [
        *((0, content) for content in (3, {"0": []}, [[]], [{"val": []}])),
        *(("all", content) for content in (3, {"0": []}, [[]])),
    ],
)
def test_damaged_splits_of_another_data_set_are_named(
    tmp_path: Path, fold: Any, content: Any
) -> None:
    splits, other = (
        tmp_path / name / "splits_final.json" for name in (FOLD.dataset, "Dataset005_Other")
    )
    write_json(other, content)
    checkpoint, init = tmp_path / "fold_0" / "checkpoint_final.pth", _init(fold, other.parent.name)
    with pytest.raises(ValueError, match=r"Dataset005_Other/splits_final\.json must have the form"):
        leakage(checkpoint, init, FOLD, splits)


def test_a_model_of_all_cases_names_its_patients_in_its_validation(tmp_path: Path) -> None:
    splits = tmp_path / FOLD.dataset / "splits_final.json"
    checkpoint, init = tmp_path / "fold_all" / "checkpoint_final.pth", _init("all", "Dataset005_O")
    assert leakage(checkpoint, init, FOLD, splits) is None
    row = {"prediction_file": "somewhere/case_b.nii.gz", "reference_file": "b", "metrics": {}}
    write_json(checkpoint.parent / "validation" / "summary.json", {"metric_per_case": [row]})
    assert "was trained on a patient called case_b" in str(leakage(checkpoint, init, FOLD, splits))


def test_a_leaking_backbone_is_refused_unless_allowed(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    path = tmp_path / "checkpoint_final.pth"
    weights = {"network_weights": network.state_dict(), "init_args": _init(3), "trainer_name": "T"}
    torch.save(weights, path)
    splits = tmp_path / "splits_final.json"
    with pytest.raises(ValueError, match=r"was trained on fold 3.*set allow_leakage=true"):
        read_backbone(path, network, PLANS, FOLD, DataConfig(), splits)
    allowed = read_backbone(path, network, PLANS, FOLD, DataConfig(allow_leakage=True), splits)
    assert allowed.leakage is not None


def test_an_unreadable_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.pth must be an nnU-Net checkpoint"):
        read_backbone(path, nn.Linear(1, 1), PLANS, FOLD, DataConfig(), tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spacing": [2.0, 1.0]}, r"spacing is \[2\.0, 1\.0\] in them and \[1\.0, 1\.0\] in"),
        ({"resampling_fn_data": "other"}, "resampling_fn_data is 'other' in them and None in"),
    ],
)
def test_a_backbone_of_other_preprocessing_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    network = nn.Linear(2, 2)
    path = tmp_path / "checkpoint_final.pth"
    weights = {"network_weights": network.state_dict(), "init_args": _init(0), "trainer_name": "T"}
    torch.save(weights, path)
    other = {"configurations": {"2d": {**CONFIGURATION, **changed}}}
    with pytest.raises(ValueError, match=message):
        read_backbone(path, network, other, FOLD, DataConfig(), tmp_path / "none.json")


def test_ct_must_be_normalised_by_the_same_intensities() -> None:
    config = {**CONFIGURATION, "normalization_schemes": ["CTNormalization"]}
    ours, theirs = (
        {"configurations": {"2d": config}, INTENSITIES: {"0": {"mean": mean}}} for mean in (1, 2)
    )
    init = {"configuration": "2d", "plans": theirs}
    with pytest.raises(ValueError, match=f"{INTENSITIES} is .*1.* in them and .*2.* in"):
        require_same_input(init, ours, "2d", Path("final.pth"))
    require_same_input({"configuration": "2d", "plans": ours}, ours, "2d", Path("final.pth"))


def test_the_validations_of_other_folds_name_the_training_cases(tmp_path: Path) -> None:
    for fold, case in (("0", "p1"), ("1", "p2"), ("all", "p1")):
        reference = f"labels/{case}.nii.gz"
        row = {"reference_file": reference, "prediction_file": reference, "metrics": {}}
        summary = tmp_path / "model" / f"fold_{fold}" / "validation" / "summary.json"
        write_json(summary, {"metric_per_case": [row]})
    init = {**_init(0), "dataset_json": {"file_ending": ".nii.gz"}}
    path = tmp_path / "model" / "fold_0" / "checkpoint_final.pth"
    splits = tmp_path / "a" / "b" / "splits_final.json"
    assert trained_cases(path, init, splits) == {"p2"}
    # Splits that train on p1, which the model was validated on, are not those it was trained with.
    own = splits.parent.with_name(init["plans"]["dataset_name"]) / splits.name
    write_json(own, [{"train": ["p1", "p3"], "val": ["p4"]}])
    assert trained_cases(path, init, splits) == {"p2", "p3", "p4"}
    write_json(own, [{"train": ["p3"], "val": ["p1"]}])
    assert trained_cases(path, init, splits) == {"p2", "p3"}
