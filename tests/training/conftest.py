"""Real nnU-Net folders with the embedded cases, planned once per session by nnU-Net itself."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json

DATASET = "Dataset004_Hippocampus"
TRAINING_CASES = 10
FOLDS = 5


@dataclass(frozen=True)
class Workspace:
    """One set of nnU-Net's three folders."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "nnUNet_raw": str(self.path / "raw"),
            "nnUNet_preprocessed": str(self.path / "preprocessed"),
            "nnUNet_results": str(self.path / "results"),
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
        }

    @property
    def preprocessed(self) -> Path:
        return self.path / "preprocessed" / DATASET

    def model(self, trainer: str, plans: str) -> Path:
        return self.path / "results" / DATASET / f"{trainer}__{plans}__2d"

    def command(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one of the installed commands; the test judges its exit status."""
        program = str(Path(sys.executable).parent / str(words[0]))
        return subprocess.run(
            [program, *map(str, words[1:])],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
        )

    def run(self, *words: object, **environment: str) -> str:
        """Run a command that must succeed and return its output."""
        done = self.command(*words, **environment)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def train(self, trainer: str, plans: str, fold: int = 0, *flags: str) -> str:
        return self.run(
            "nnUNetv2_train", 4, "2d", fold, "-tr", trainer, "-p", plans, "-device", "cpu", *flags
        )

    def write_plans(self, name: str, **settings: Any) -> str:
        """Write plans derived from the small ones with the given settings."""
        plans = read_json(self.preprocessed / "small.json")
        plans.update(plans_name=name, source_plans="small")
        plans["configurations"]["2d"]["iac"] = {"backbone_plans": "small", **settings}
        write_json(self.preprocessed / f"{name}.json", plans)
        return name


@pytest.fixture(scope="session")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Folders with preprocessed cases and `small` plans: stock ones with a narrow network."""
    workspace = Workspace(tmp_path_factory.mktemp("nnunet"))
    source = Path(str(files("nnunet_iac") / "data" / DATASET))
    raw = workspace.path / "raw" / DATASET
    shutil.copytree(source, raw)
    for image in sorted((raw / "imagesTr").iterdir())[TRAINING_CASES:]:
        image.unlink()
        (raw / "labelsTr" / image.name.replace("_0000", "")).unlink()
    write_json(
        raw / "dataset.json", {**read_json(raw / "dataset.json"), "numTraining": TRAINING_CASES}
    )
    workspace.run(
        *("nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "2d", "-np", 1, "-npfp", 1),
        nnUNet_n_proc_DA="1",
    )
    plans = read_json(workspace.preprocessed / "nnUNetPlans.json")
    plans["plans_name"] = "small"
    configuration = plans["configurations"]["2d"]
    configuration["batch_size"] = 4
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 8, 8]
    write_json(workspace.preprocessed / "small.json", plans)
    cases = sorted(p.name.removesuffix("_0000.nii.gz") for p in (raw / "imagesTr").iterdir())
    splits = [
        {"train": [c for c in cases if c not in cases[k::FOLDS]], "val": cases[k::FOLDS]}
        for k in range(FOLDS)
    ]
    write_json(workspace.preprocessed / "splits_final.json", splits)
    return workspace


@pytest.fixture(scope="session")
def workspace(planned: Workspace) -> Workspace:
    """The planned folders with backbones of folds 0 and 1, trained by stock nnU-Net."""
    for fold in (0, 1):
        planned.train("nnUNetTrainer_1epoch", "small", fold)
    return planned


@pytest.fixture
def in_process(planned: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    """The planned data with empty results, for trainers made in the test's own process.

    A stock checkpoint with initial weights stands in for the backbone of fold 0.
    """
    own = Workspace(tmp_path)
    for part in ("raw", "preprocessed"):
        (tmp_path / part).symlink_to(planned.path / part)
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    stock = make_stock_trainer()
    stock.initialize()
    stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
    return own


def make_stock_trainer(fold: int = 0) -> Any:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(
        "4", "2d", fold, "nnUNetTrainer", "small", device=torch.device("cpu")
    )


@pytest.fixture
def make_trainer(in_process: Workspace) -> Callable[..., Any]:
    """Return a trainer as nnU-Net's own look-up makes it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    def make(name: str, plans: str = "small", fold: int | str = 0, resume: bool = False) -> Any:
        trainer = get_trainer_from_args(
            "4", "2d", fold, name, plans, continue_training=resume, device=torch.device("cpu")
        )
        if resume:
            trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
        return trainer

    return make
