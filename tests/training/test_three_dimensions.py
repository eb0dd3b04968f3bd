"""The embedded volumes in three dimensions, by nnU-Net's commands from raw data on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder

BACKBONE, RETROFIT = "nnUNetTrainer_1epoch", "nnUNetTrainerIACLTH_1warmup6search2finetune"
PLANNERS = {"plain": "nnUNetPlans", "residual encoder": "nnUNetResEncUNetMPlans"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def volumes(planned: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The raw data, planned and preprocessed for 3d_fullres by two of nnU-Net's planners."""
    own = replace(planned, path=tmp_path_factory.mktemp("volumes"))
    shutil.copytree(planned.path / "raw", own.path / "raw")
    own.run(
        *("nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "3d_fullres", "-np", 1, "-npfp", 1),
        nnUNet_n_proc_DA="1",
    )
    own.run(
        *("nnUNetv2_plan_experiment", "-d", 4, "-pl", "nnUNetPlannerResEncM"),
        nnUNet_n_proc_DA="1",
    )
    labels = own.path / "raw" / own.preprocessed.name / "labelsTr"
    cases = sorted(path.name.partition(".")[0] for path in labels.iterdir())
    splits = [{"train": cases[1:], "val": cases[:1]}]
    write_json(own.preprocessed / "splits_final.json", splits)
    return own


@pytest.mark.parametrize("network", PLANNERS)
def test_a_volume_is_searched_validated_and_predicted(volumes: Any, network: str) -> None:
    source, name = PLANNERS[network], network.replace(" ", "")
    plans = read_json(volumes.preprocessed / f"{source}.json")
    plans.update(plans_name=name)
    configuration = plans["configurations"]["3d_fullres"]
    configuration["batch_size"] = 2
    keywords = configuration["architecture"]["arch_kwargs"]
    keywords["features_per_stage"] = [4, *[8] * (keywords["n_stages"] - 1)]
    write_json(volumes.preprocessed / f"{name}.json", plans)
    settings = ("--set", f"backbone_trainer={BACKBONE}")
    volumes.run(
        "nnunet-iac", "plan", "-d", 4, "-c", "3d_fullres", "-p", name, "-o", "own", *settings
    )

    def train(trainer: str, plans: str) -> Path:
        words: tuple[Any, ...] = (4, "3d_fullres", 0, "-tr", trainer, "-p", plans, "-device", "cpu")
        volumes.run("nnUNetv2_train", *words)
        model = f"{trainer}__{plans}__3d_fullres"
        return volumes.path / "results" / volumes.preprocessed.name / model / "fold_0"

    train(BACKBONE, name)
    fold = train(RETROFIT, "own")
    record = RunFolder.of_fold(fold)
    assert record.read_backbone().unchanged
    assert len(record.read_events()) == 14 * 6
    assert (fold / "validation" / "summary.json").is_file()
    volumes.run("nnunet-iac", "export", fold, "-o", volumes.path / f"{name} exported")
    images = volumes.path / "raw" / volumes.preprocessed.name / "imagesTs"
    out = volumes.path / f"{name} predicted"
    volumes.run(
        *("nnUNetv2_predict_from_modelfolder", "-m", volumes.path / f"{name} exported", "-f", 0),
        *("-i", images, "-o", out, "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta"),
    )
    assert len(list(out.glob("*.nii.gz"))) == len(list(images.iterdir()))
    (volumes.preprocessed / "own.json").unlink()
