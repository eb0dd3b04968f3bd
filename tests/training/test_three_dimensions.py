"""The embedded volumes in three dimensions, by nnU-Net's commands from raw data on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder

RETROFIT = "nnUNetTrainerIACLTH_1warmup6search2finetune"
PLANS = "nnUNetResEncUNetMPlans"


@pytest.fixture
def volumes(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The raw data, planned for 3d_fullres by nnU-Net, with a narrow residual-encoder U-Net."""
    own = replace(planned, path=tmp_path)
    shutil.copytree(planned.path / "raw", own.path / "raw")
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    words = ("-d", 4, "-c", "3d_fullres", "-pl", "nnUNetPlannerResEncM", "-np", 1, "-npfp", 1)
    own.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="1")
    plans = read_json(own.preprocessed / f"{PLANS}.json")
    configuration = plans["configurations"]["3d_fullres"]
    configuration.update(batch_size=2, patch_size=[24, 40, 24], iac={"min_channels": 4})
    keywords = configuration["architecture"]["arch_kwargs"]
    keywords["features_per_stage"] = [4, *[8] * (keywords["n_stages"] - 1)]
    write_json(own.preprocessed / f"{PLANS}.json", plans)
    cases = sorted(own.preprocessed.glob(f"{configuration['data_identifier']}/*.pkl"))
    names = [case.stem for case in cases]
    write_json(own.preprocessed / "splits_final.json", [{"train": names[1:], "val": names[:1]}])
    return own


@pytest.mark.slow
def test_a_volume_is_searched_validated_exported_and_predicted(volumes: Any) -> None:
    named = ("4", "3d_fullres", 0, "nnUNetTrainer", PLANS)
    stock = get_trainer_from_args(*named, device=torch.device("cpu"))
    stock.initialize()  # Initial weights replace those of a trained backbone.
    stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
    words = (4, "3d_fullres", 0, "-tr", RETROFIT, "-p", PLANS, "-device", "cpu")
    volumes.run("nnUNetv2_train", *words)
    results = volumes.path / "results" / volumes.preprocessed.name
    fold = results / f"{RETROFIT}__{PLANS}__3d_fullres" / "fold_0"
    assert RunFolder.of_fold(fold).read_backbone().unchanged
    assert len(RunFolder.of_fold(fold).read_events()) == 14 * 6
    assert (fold / "validation" / "summary.json").is_file()
    model, out = volumes.path / "exported", volumes.path / "predicted"
    said = volumes.run("nnunet-iac", "export", fold, "-o", model, "--onnx", "--cases", 1)
    assert said.count(": same") == 1
    images = volumes.path / "raw" / volumes.preprocessed.name / "imagesTs"
    words = ("-m", model, "-f", 0, "-i", images, "-o", out, "-device", "cpu", "--disable_tta")
    volumes.run("nnUNetv2_predict_from_modelfolder", *words, "-npp", 1, "-nps", 1)
    assert len(list(out.glob("*.nii.gz"))) == len(list(images.iterdir()))
