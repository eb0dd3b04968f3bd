"""A preprocessed data set as small as can be: five cases of noise, plans of three stages."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from planned_unets import architecture

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.width.source import Source

DATASET = "Dataset004_Hippocampus"
CASES = [f"case_{number}" for number in range(6)]
SHAPE = (2, 8, 20, 14)
"""Channels and voxels of every case: larger than the patch in one axis, smaller in another."""

DESCRIPTION = {
    "channel_names": {"0": "MRI", "1": "slice"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
}
"""Content of dataset.json."""

FEATURES = (8, 16, 32)


def plans() -> dict[str, Any]:
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 4,
                "patch_size": [16, 16],
                "architecture": architecture(2, FEATURES, 2),
            },
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 2,
                "patch_size": [8, 16, 16],
                "architecture": architecture(3, FEATURES, 2),
            },
            "residual": {
                "inherits_from": "2d",
                "architecture": architecture(2, FEATURES, 2, "ResidualEncoderUNet"),
            },
            "stage_two": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the preprocessed cases: channel 0 is noise, channel 1 counts the slices."""
    folder = tmp_path_factory.mktemp("cases")
    for number, case in enumerate(CASES):
        data = np.random.default_rng(number).standard_normal(SHAPE).astype(np.float32)
        data[1] = np.arange(SHAPE[1])[:, None, None]
        labels = np.zeros((1, *SHAPE[1:]), dtype=np.int8)
        chunks = {"chunks": SHAPE, "blocks": SHAPE, "chunks_seg": labels.shape}
        nnUNetDatasetBlosc2.save_case(
            data, labels, {}, str(folder / case), blocks_seg=labels.shape, **chunks
        )
    return folder


@pytest.fixture
def preprocessed(tmp_path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set's folder, with nnU-Net's variables pointing to it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    folder = tmp_path / "nnUNet_preprocessed" / DATASET
    folder.mkdir()
    (folder / "nnUNetPlans_2d").symlink_to(cases)
    write_json(folder / "nnUNetPlans.json", plans())
    write_json(
        folder / "dataset.json",
        DESCRIPTION,
    )
    write_json(
        folder / "splits_final.json",
        [{"train": CASES[:4], "val": CASES[4:]}, {"train": CASES[2:], "val": CASES[:2]}],
    )
    return folder


@pytest.fixture
def source(preprocessed: Path) -> Callable[..., Source]:
    """Return a builder of sources: a configuration, a trainer, and what the plans differ in."""

    def build(configuration: str = "2d", trainer: Any = None, **changes: Any) -> Source:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        content = copy.deepcopy(plans())
        content["configurations"][configuration].update(changes)
        return Source(preprocessed, content, configuration, DESCRIPTION, trainer or nnUNetTrainer)

    return build
