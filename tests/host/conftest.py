"""nnU-Net's folders with one preprocessed data set, as small as plans can be."""

import json
from pathlib import Path

import pytest
from planned_unets import architecture

DATASET = "Dataset004_Hippocampus"


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return tmp_path


@pytest.fixture
def preprocessed(nnunet_folders) -> Path:
    """Return the data set's preprocessed folder with its plans."""
    folder = nnunet_folders / "nnUNet_preprocessed" / DATASET
    folder.mkdir()
    plans = {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 12,
                "architecture": architecture(2, (4, 8, 8, 8), 2),
            },
            "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
        },
    }
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    return folder
