"""What a validation of the backbone depends on, so that another run's may be copied."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_iac.training import shared_validation
from nnunet_iac.training.shared_validation import prediction_circumstances, validate_once


def test_scores_depend_on_labels_and_images_of_the_cases(tmp_path: Path) -> None:
    trainer = SimpleNamespace(
        inference_allowed_mirroring_axes=(0, 1),
        device=torch.device("cpu"),
        preprocessed_dataset_folder_base=str(tmp_path),
        preprocessed_dataset_folder=str(tmp_path / "2d"),
        dataset_json={"file_ending": ".nii.gz"},
        do_split=lambda: (["a"], ["b", "c"]),
    )
    folder = tmp_path / "gt_segmentations"
    folder.mkdir()
    for case in "abc":
        (folder / f"{case}.nii.gz").write_text(case)
    before = prediction_circumstances(trainer, {})
    (folder / "a.nii.gz").write_text("corrected")
    assert prediction_circumstances(trainer, {}) == before
    (folder / "c.nii.gz").write_text("corrected")
    corrected = prediction_circumstances(trainer, {})
    assert corrected != before
    (tmp_path / "2d").mkdir()
    (tmp_path / "2d" / "b.pkl").touch()
    assert prediction_circumstances(trainer, {}) != corrected


def test_nothing_is_predicted_for_a_second_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = []
    monkeypatch.setattr(
        shared_validation.nnUNetTrainer, "perform_actual_validation", validated.append
    )
    config = ConfigurationManager(
        {"patch_size": [8, 8], "next_stage": "second", "architecture": {}}
    )
    trainer = SimpleNamespace(
        configuration_manager=config,
        device=torch.device("cpu"),
        is_ddp=False,
        local_rank=0,
        logger=SimpleNamespace(loggers=["a logger"]),
        network=torch.nn.Identity(),
        print_to_log_file=lambda line: None,
    )
    validate_once(trainer, trainer.network, tmp_path / "alone", {}, (), "the backbone")
    (other,) = validated
    assert other.configuration_manager.next_stage_names is None
    assert other.configuration_manager.patch_size == [8, 8]
    assert trainer.configuration_manager.next_stage_names == ["second"]
