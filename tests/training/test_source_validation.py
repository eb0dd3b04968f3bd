"""What an adapted run scores on its source is scored once, shared, and written whole."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scored_folders import write_summary
from torch import nn

from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, CostRecord
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training import shared_validation, source_validation
from nnunet_iac.training.source_validation import validate_source

CASES = ("patient1_a", "patient1_b", "patient2_a")


def network(weight: float) -> nn.Module:
    made = nn.Linear(1, 1)
    with torch.no_grad():
        made.weight.fill_(weight)
        made.bias.zero_()
    return made


SOURCE = SimpleNamespace(
    dataset="Dataset027_Source",
    cases=CASES,
    config={"spacing": [1, 1]},
    init={"configuration": "2d", "fold": 0, "dataset_json": {"file_ending": ".nii.gz"}},
    weights=network(0.9).state_dict(),
    given_to=lambda trainer: trainer,
)
"""A source with three cases of two patients."""


def make_trainer(results: Path, weight: float = 0.8, fold: int = 0, **data: Any) -> Any:
    """Return what a trainer must have; its network scores its own weight as Dice."""
    log: list[str] = []
    own = {"backbone_checkpoint": "model.pth", "patient_pattern": r"patient\d", **data}
    settings = SimpleNamespace(data=DataConfig(**own))
    record = BackboneRecord("model.pth", "nnUNetTrainer", 0, tensors_hash(SOURCE.weights))
    checks = SimpleNamespace(
        settings=settings,
        plans={"dataset_name": "Dataset030_Target"},
        data=results / "preprocessed" / "target" / "2d",
        log=log.append,
    )
    recorder = SimpleNamespace(backbone=record, cost=CostRecord())
    trained = network(weight)
    return SimpleNamespace(
        run=SimpleNamespace(checks=checks, recorder=recorder),
        log=log,
        local_rank=0,
        is_ddp=False,
        unet=trained,
        network=trained,
        stock_network=lambda: network(0),
        output_folder=str(results / "model" / f"fold_{fold}"),
        dataset_json={"file_ending": ".nii.gz"},
        preprocessed_dataset_folder_base=str(results / "preprocessed" / "target"),
        preprocessed_dataset_folder=str(results / "preprocessed" / "target" / "2d"),
        device=torch.device("cpu"),
        configuration_manager=SimpleNamespace(configuration={"architecture": {}}),
        inference_allowed_mirroring_axes=(0, 1),
        logger=SimpleNamespace(loggers=[]),
        print_to_log_file=log.append,
        do_split=lambda: (["site_0"], ["site_1"]),
    )


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders that are validated: by an nnU-Net whose networks score their own weight."""
    folders: list[str] = []

    def validate(trainer: Any) -> None:
        folder = Path(trainer.output_folder)
        folders.append(folder.name)
        dice = trainer.network.weight.item()
        write_summary(
            folder / "validation", dict(zip(CASES, (dice, dice, dice - 0.4), strict=True))
        )

    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", validate)
    monkeypatch.setattr(source_validation, "source_cases", lambda *_: SOURCE)
    return folders


def test_backbone_and_network_are_scored_and_recorded(tmp_path: Path, validated: list[str]) -> None:
    trainer = make_trainer(tmp_path)
    validate_source(trainer)
    assert validated == ["source_before", "source_after"]
    record = RunFolder.of_fold(trainer.output_folder).read_source()
    assert record is not None
    # Patients first: (0.9 + 0.5) / 2 before, (0.8 + 0.4) / 2 after.
    assert record.before["mean"] == pytest.approx(0.7)
    assert record.after["mean"] == pytest.approx(0.6)
    assert record.forgetting == pytest.approx(-0.1)
    assert list(record.after["per_case"]) == list(CASES)
    assert record.backbone == tensors_hash(SOURCE.weights)
    assert record.network == tensors_hash(trainer.unet.state_dict())
    assert (record.dataset, record.configuration, record.fold) == ("Dataset027_Source", "2d", 0)
    assert trainer.log[-1] == (
        "Mean Dice on Dataset027_Source: 0.6000, and 0.7000 before the model was adapted"
    )


def test_a_pattern_that_does_not_fit_the_source_is_not_used(
    tmp_path: Path, validated: list[str]
) -> None:
    trainer = make_trainer(tmp_path, patient_pattern="site_")
    validate_source(trainer)
    record = RunFolder.of_fold(trainer.output_folder).read_source()
    assert record is not None
    assert record.before["mean"] == pytest.approx((0.9 + 0.9 + 0.5) / 3)


def test_a_second_validation_scores_only_another_network(
    tmp_path: Path, validated: list[str]
) -> None:
    validate_source(make_trainer(tmp_path))
    validate_source(make_trainer(tmp_path))
    assert validated == ["source_before", "source_after"]
    validate_source(make_trainer(tmp_path, weight=0.85))
    assert validated == ["source_before", "source_after", "source_after"]
    record = RunFolder.of_fold(tmp_path / "model" / "fold_0").read_source()
    assert record is not None
    assert record.after["mean"] == pytest.approx(0.65)


@pytest.mark.parametrize("changed", ["gt_segmentations/site_1.nii.gz", "2d/site_1.pkl"])
def test_cases_that_were_corrected_are_scored_again(
    tmp_path: Path, validated: list[str], changed: str
) -> None:
    validate_source(make_trainer(tmp_path))
    path = tmp_path / "preprocessed" / "target" / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("corrected")
    validate_source(make_trainer(tmp_path))
    assert validated == ["source_before", "source_after"] * 2


def test_the_backbones_score_is_shared_and_serves_a_network_that_was_not_trained(
    tmp_path: Path, validated: list[str]
) -> None:
    validate_source(make_trainer(tmp_path))
    trainer = make_trainer(tmp_path, weight=0.9, fold=1)
    validate_source(trainer)
    assert validated == ["source_before", "source_after"]
    record = RunFolder.of_fold(trainer.output_folder).read_source()
    assert record is not None
    assert record.forgetting == 0


def test_what_a_kill_leaves_is_no_record_and_is_done_again(
    tmp_path: Path, validated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.of_fold(make_trainer(tmp_path).output_folder)
    complete: Callable[[Any], None] = nnUNetTrainer.perform_actual_validation

    def killed(trainer: Any) -> None:
        complete(trainer)
        if trainer.output_folder.endswith("source_after"):
            raise KeyboardInterrupt

    validate_source(make_trainer(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(nnUNetTrainer, "perform_actual_validation", killed)
        with pytest.raises(KeyboardInterrupt):
            validate_source(make_trainer(tmp_path, weight=0.7))
    assert folder.read_source() is None
    (folder.source_after_folder / "validation" / "foreign.nii.gz").touch()
    validated.clear()
    validate_source(make_trainer(tmp_path, weight=0.7))
    assert validated == ["source_after"]
    assert not (folder.source_after_folder / "validation" / "foreign.nii.gz").exists()
    record = folder.read_source()
    assert record is not None
    assert record.after["mean"] == pytest.approx(0.5)


def test_a_copied_validation_counts_only_once_it_is_whole(
    tmp_path: Path, validated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    validate_source(make_trainer(tmp_path))
    trainer = make_trainer(tmp_path, fold=1)
    with monkeypatch.context() as patch:
        patch.setattr(shared_validation, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            validate_source(trainer)
    before = RunFolder.of_fold(trainer.output_folder).source_before_folder
    assert (before / "validation" / "summary.json").exists()
    assert not (before / "measured-on.json").exists()
    validate_source(trainer)
    assert validated == ["source_before", "source_after", "source_after"]


def test_a_damaged_record_is_written_again(tmp_path: Path, validated: list[str]) -> None:
    trainer = make_trainer(tmp_path)
    validate_source(trainer)
    folder = RunFolder.of_fold(trainer.output_folder)
    folder.source_file.write_text("{")
    validate_source(trainer)
    assert folder.read_source() is not None
    assert validated == ["source_before", "source_after"]


def test_a_source_that_is_not_at_hand_is_one_line_of_the_log(
    tmp_path: Path, validated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise FileNotFoundError("splits_final.json does not exist")

    scored = make_trainer(tmp_path, fold=1)
    validate_source(scored)
    validated.clear()
    monkeypatch.setattr(source_validation, "source_cases", absent)
    validate_source(scored)
    assert RunFolder.of_fold(scored.output_folder).read_source() is not None
    trainer = make_trainer(tmp_path)
    validate_source(trainer)
    assert validated == []
    assert trainer.log == [
        "The validation cases of the source are not scored: splits_final.json does not exist"
    ]


@pytest.mark.parametrize("data", [{"score_source": False}, {"backbone_checkpoint": None}])
def test_nothing_is_scored_where_nobody_wants_it_or_no_model_is_adapted(
    tmp_path: Path, validated: list[str], data: dict[str, Any]
) -> None:
    trainer = make_trainer(tmp_path, **data)
    validate_source(trainer)
    assert validated == trainer.log == []
