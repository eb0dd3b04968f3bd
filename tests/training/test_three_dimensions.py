"""The embedded volumes in three dimensions, by nnU-Net's commands from raw data on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from variants_of_data import REGIONS, write_regions

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL
from nnunet_iac.runs.folder import RunFolder

RETROFIT = "nnUNetTrainerIACLTH_1warmup6search2finetune"
PLANS = "nnUNetResEncUNetMPlans"


@pytest.fixture
def volumes(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The raw data in folders of their own."""
    own = replace(planned, path=tmp_path)
    shutil.copytree(planned.path / "raw", own.path / "raw")
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    return own


def plan(workspace: Any, dataset: str, planner: str, plans_name: str, *patch: int) -> None:
    """Plan and preprocess a data set for a narrow network that validates on the first case."""
    number = int(dataset[7:10])
    words = ("-d", number, "-c", "3d_fullres", "-pl", planner, "-np", 1, "-npfp", 1)
    workspace.run("nnUNetv2_plan_and_preprocess", *words, nnUNet_n_proc_DA="1")
    folder = workspace.path / "preprocessed" / dataset
    plans = read_json(folder / f"{plans_name}.json")
    configuration = plans["configurations"]["3d_fullres"]
    configuration.update(batch_size=2, patch_size=patch, iac={"min_channels": 4})
    keywords = configuration["architecture"]["arch_kwargs"]
    keywords["features_per_stage"] = [4, *[8] * (keywords["n_stages"] - 1)]
    for key in ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        if key in keywords:
            keywords[key] = [1] * len(keywords[key])
    write_json(folder / f"{plans_name}.json", plans)
    names = sorted(case.stem for case in folder.glob(f"{configuration['data_identifier']}/*.pkl"))
    write_json(folder / "splits_final.json", [{"train": names[1:], "val": names[:1]}])


def save_untrained(dataset: str, plans: str) -> Path:
    """Write a stock model with initial weights, in place of a trained one; return its folder."""
    named = (dataset, "3d_fullres", 0, "nnUNetTrainer", plans)
    stock = get_trainer_from_args(*named, device=torch.device("cpu"))
    stock.initialize()
    stock.save_checkpoint(str(Path(stock.output_folder) / FINAL))
    model = Path(stock.output_folder_base)
    write_json(model / "plans.json", stock.plans_manager.plans)
    write_json(model / "dataset.json", stock.dataset_json)
    return model


@pytest.mark.slow
def test_a_volume_is_searched_validated_exported_and_predicted(volumes: Any) -> None:
    plan(volumes, volumes.preprocessed.name, "nnUNetPlannerResEncM", PLANS, 24, 40, 24)
    save_untrained("4", PLANS)
    words = (4, "3d_fullres", 0, "-tr", RETROFIT, "-p", PLANS, "-device", "cpu")
    volumes.run("nnUNetv2_train", *words)
    results = volumes.path / "results" / volumes.preprocessed.name
    fold = results / f"{RETROFIT}__{PLANS}__3d_fullres" / "fold_0"
    assert RunFolder.of_fold(fold).read_backbone().unchanged
    assert len(RunFolder.of_fold(fold).read_events()) == 14 * 6
    assert (fold / "validation" / "summary.json").is_file()
    model, out = volumes.path / "exported", volumes.path / "predicted"
    volumes.run("nnunet-iac", "export", fold, "-o", model)
    images = volumes.path / "raw" / volumes.preprocessed.name / "imagesTs"
    words = ("-m", model, "-f", 0, "-i", images, "-o", out, "-device", "cpu", "--disable_tta")
    volumes.run("nnUNetv2_predict_from_modelfolder", *words, "-npp", 1, "-nps", 1)
    assert len(list(out.glob("*.nii.gz"))) == len(list(images.iterdir()))


@pytest.mark.slow
def test_a_model_of_regions_is_adapted_to_volumes_that_are_ignored_in_part(volumes: Any) -> None:
    raw, target = volumes.path / "raw", "Dataset015_OtherSite"
    write_regions(raw)
    plan(volumes, REGIONS, "ExperimentPlanner", "nnUNetPlans", 16, 40, 24)
    model = save_untrained(REGIONS, "nnUNetPlans")
    shutil.copytree(raw / REGIONS, raw / target)
    for path in (raw / target).rglob("hippocampus_*"):
        path.rename(path.with_name(path.name.replace("hippocampus", "site")))
    adapt = ("nnunet-iac", "adapt", "-s", model, "-d", 15, "-c", "3d_fullres", "-np", 1)
    printed = volumes.run(*adapt, "--set", "genotype=random:0", "min_channels=4")
    assert "nnUNetv2_train 15 3d_fullres 0" in printed
    trainer, plans = "nnUNetTrainerIACDiscrete_2finetune", "nnUNetPlansFrom005"
    train = (15, "3d_fullres", 0, "-tr", trainer, "-p", plans, "-device", "cpu")
    volumes.run("nnUNetv2_train", *train)
    fold = volumes.path / "results" / target / f"{trainer}__{plans}__3d_fullres" / "fold_0"
    assert RunFolder.of_fold(fold).read_backbone().unchanged
    assert {*read_json(fold / "validation" / "summary.json")["mean"]} == {"(1, 2)", "2"}
    adapter, out = model / "adapters" / "site.safetensors", volumes.path / "predicted"
    volumes.run("nnunet-iac", "adapter", "save", fold, "-o", adapter, "-device", "cpu")
    quiet = ("-i", raw / target / "imagesTs", "-device", "cpu", "-npp", 1, "-nps", 1)
    which = ("--adapter", "site", "--adapter", "none")
    volumes.run("nnunet-iac", "predict", "-m", model, *which, *quiet, "-o", out)
    stock = ("nnUNetv2_predict_from_modelfolder", "-m", model, "-f", 0)
    volumes.run(*stock, *quiet, "-o", out / "stock")
    site, none, untouched = (
        {path.name: path.read_bytes() for path in (out / name).glob("*.nii.gz")}
        for name in ("site", "none", "stock")
    )
    assert none == untouched
    assert site.keys() == none.keys() == {"site_007.nii.gz"}
