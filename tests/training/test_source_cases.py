"""Which validation cases of its source an adapted model can be scored on."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.source_cases import AdaptedRun, source_cases

SOURCE = "Dataset027_Source"
LABELS = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "heart": 1},
    "file_ending": ".nii.gz",
}
WEIGHTS = {"conv.weight": torch.ones(2)}
INIT = {
    "plans": {
        "dataset_name": SOURCE,
        "plans_name": "nnUNetPlans",
        "configurations": {
            "base": {"data_identifier": "nnUNetPlans_2d"},
            "2d": {"inherits_from": "base"},
        },
    },
    "configuration": "2d",
    "fold": 1,
    "dataset_json": LABELS,
}
SPLITS = [
    {"train": ["c_1", "c_2"], "val": ["c_0"]},
    {"train": ["c_0"], "val": ["c_1", "c_2"]},
    {"train": ["c_0", "c_1", "c_2"], "val": []},
]
RUN = AdaptedRun("Dataset030_Target", LABELS, ["site_0"], DataConfig())


def write_source(folder: Path, **init: Any) -> BackboneRecord:
    """Write a source with three cases, and a checkpoint of its model; return what froze that."""
    data, truths = folder / SOURCE / "nnUNetPlans_2d", folder / SOURCE / "gt_segmentations"
    for path in (data, truths):
        path.mkdir(parents=True)
    for case in ("c_0", "c_1", "c_2"):
        for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"):
            (data / name).touch()
        (truths / f"{case}.nii.gz").touch()
    write_json(folder / SOURCE / "splits_final.json", SPLITS)
    path = folder / "model" / "fold_1" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    torch.save({"network_weights": WEIGHTS, "init_args": {**INIT, **init}}, path)
    return BackboneRecord(str(path), "nnUNetTrainer", 1, tensors_hash(WEIGHTS))


def test_they_are_those_of_the_fold_that_the_model_was_trained_on(tmp_path: Path) -> None:
    found = source_cases(write_source(tmp_path), RUN, tmp_path)
    assert found is not None
    assert found.cases == ("c_1", "c_2")
    assert found.dataset == SOURCE
    assert found.data == tmp_path / SOURCE / "nnUNetPlans_2d"
    assert found.config == {"data_identifier": "nnUNetPlans_2d"}
    assert torch.equal(found.weights["conv.weight"], torch.ones(2))


def test_a_backbone_of_the_runs_own_data_set_has_no_source(tmp_path: Path) -> None:
    assert source_cases(write_source(tmp_path), replace(RUN, dataset=SOURCE), tmp_path) is None


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("model/fold_1/checkpoint_final.pth", "must be an existing file"),
        (f"{SOURCE}/splits_final.json", "does not exist"),
        (f"{SOURCE}/nnUNetPlans_2d", "no preprocessed cases"),
        (f"{SOURCE}/nnUNetPlans_2d/c_1.b2nd", "must list preprocessed cases only; c_1"),
        (f"{SOURCE}/gt_segmentations/c_2.nii.gz", "lacks c_2"),
    ],
)
def test_what_is_not_at_hand_is_named(tmp_path: Path, gone: str, message: str) -> None:
    record = write_source(tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        source_cases(record, RUN, tmp_path)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"fold": "all"}, "was trained on all cases"),
        ({"fold": 2}, "no validation cases of fold 2"),
        ({"fold": 3}, "no validation cases of fold 3"),
    ],
)
def test_a_model_that_held_no_case_out_cannot_be_scored(
    tmp_path: Path, init: dict[str, Any], message: str
) -> None:
    record = write_source(tmp_path, **init)
    with pytest.raises(ValueError, match=message):
        source_cases(record, RUN, tmp_path)


def test_the_second_stage_of_a_cascade_cannot_be_scored(tmp_path: Path) -> None:
    plans = copy.deepcopy(INIT["plans"])
    plans["configurations"]["2d"]["previous_stage"] = "first"
    record = write_source(tmp_path, plans=plans)
    with pytest.raises(ValueError, match="second stage of a cascade"):
        source_cases(record, RUN, tmp_path)


def test_cases_that_the_model_learned_from_are_not_scored(tmp_path: Path) -> None:
    record = write_source(tmp_path)
    rows = [
        {"prediction_file": f"{case}.nii.gz", "reference_file": case, "metrics": {}}
        for case in ("c_0", "c_1")
    ]
    write_json(Path(record.path).parent / "validation" / "summary.json", {"metric_per_case": rows})
    with pytest.raises(ValueError, match="c_2 was not among its validation cases"):
        source_cases(record, RUN, tmp_path)


@pytest.mark.parametrize(("pattern", "learned"), [(None, "c_1"), ("[a-z]_2", "c_2_later")])
def test_patients_that_the_run_learned_from_are_not_scored(
    tmp_path: Path, pattern: str | None, learned: str
) -> None:
    record = write_source(tmp_path)
    data = DataConfig(patient_pattern=pattern)
    run = replace(RUN, training_cases=[learned], data=data)
    write_json(
        tmp_path / SOURCE / "splits_final.json",
        [*SPLITS[:1], {"train": ["c_0"], "val": ["c_1"] if pattern is None else ["c_2"]}],
    )
    for allowed in (False, True):
        run = replace(run, data=replace(data, allow_leakage=allowed))
        with pytest.raises(ValueError, match=r"c_\d is among them and among the training cases"):
            source_cases(record, run, tmp_path)


def test_other_labels_cannot_be_scored_but_for_those_ignored(tmp_path: Path) -> None:
    record = write_source(tmp_path)

    def run(**labels: int) -> AdaptedRun:
        return replace(RUN, dataset_json={**LABELS, "labels": labels})

    assert source_cases(record, run(background=0, heart=1, ignore=2), tmp_path) is not None
    with pytest.raises(ValueError, match="other labels"):
        source_cases(record, run(background=0, liver=1), tmp_path)


def test_a_model_that_has_changed_since_cannot_be_scored(tmp_path: Path) -> None:
    record = replace(write_source(tmp_path), before="0" * 64)
    with pytest.raises(ValueError, match="has changed since the run began"):
        source_cases(record, RUN, tmp_path)
