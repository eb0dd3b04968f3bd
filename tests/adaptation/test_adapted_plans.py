"""What the plans of a target take over from the model that is adapted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nnunet_iac.adaptation.adapted_plans import adapted_plans
from nnunet_iac.adaptation.source import SourceModel

DOCUMENT = {"file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIO"}


def test_the_first_stage_of_a_cascade_is_adapted_without_its_second() -> None:
    own = {"data_identifier": "nnUNetPlans_3d_lowres", "inherits_from": "3d_fullres"}
    configurations: dict[str, Any] = {
        "3d_fullres": {"spacing": [1, 1, 1], "iac": {"seed": 3}},
        "3d_lowres": {**own, "next_stage": "3d_cascade_fullres"},
    }
    plans = {
        "dataset_name": "Dataset027_Source",
        "plans_name": "nnUNetPlans",
        "configurations": configurations,
    }
    source = SourceModel(Path("/model/final.pth"), "3d_lowres", plans, DOCUMENT)
    target: Any = SimpleNamespace(name="Dataset030_Target", reader="SimpleITKIO")
    found = adapted_plans(source, target, "nnUNetPlansFrom027", {"seed": 1})
    assert found["dataset_name"] == "Dataset030_Target"
    assert found["image_reader_writer"] == "SimpleITKIO"
    assert found["configurations"] == {
        "3d_lowres": {
            "data_identifier": "nnUNetPlansFrom027_3d_lowres",
            "spacing": [1, 1, 1],
            "iac": {"preset": "adapt", "seed": 1, "backbone_checkpoint": "/model/final.pth"},
        }
    }
