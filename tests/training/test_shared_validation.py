"""What a validation of the backbone depends on, so that another run's may be copied."""

from pathlib import Path
from types import SimpleNamespace

import torch

from nnunet_iac.training.shared_validation import prediction_circumstances


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
