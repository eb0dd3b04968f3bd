"""Real nnU-Net folders with the embedded cases, planned once for all tests by nnU-Net itself."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from forked_commands import command, in_fork, leave_out_what_takes_time

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json

DATASET = "Dataset004_Hippocampus"
TRAINING_CASES, TEST_CASES = 10, 2
FOLDS = 5
OWN_FILES = (
    "nnUNetPlans.json",
    "small.json",
    "dataset.json",
    "dataset_fingerprint.json",
    "splits_final.json",
)
"""Files of the preprocessed data set; every test in the tests' process has its own."""
HANGS_AFTER_SECONDS = 400
FORKING_POOLS = Path(__file__).parent / "forking_pools"


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
    def forking_pools(self) -> dict[str, str]:
        """What saves a command's own processes from importing nnU-Net for every pool."""
        path = [str(FORKING_POOLS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path)}

    @property
    def preprocessed(self) -> Path:
        return self.path / "preprocessed" / DATASET

    def share(self, preprocessed: Path) -> None:
        """Give another folder copies of the plans and splits, and links to the cases."""
        preprocessed.mkdir(parents=True)
        for path in self.preprocessed.iterdir():
            if path.is_dir():
                (preprocessed / path.name).symlink_to(path)
        for name in OWN_FILES:
            shutil.copy(self.preprocessed / name, preprocessed)

    def model(self, trainer: str, plans: str) -> Path:
        return self.path / "results" / DATASET / f"{trainer}__{plans}__2d"

    def command(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an installed command in a fork of this process; the test judges its exit status.

        What it prints and its errors are one text.
        """
        logs = self.path / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{os.getpid()}_{len(list(logs.iterdir()))}.txt"
        own = {**self.environment, **self.forking_pools, **environment}
        status = in_fork(command(*map(str, words)), own, log)
        return subprocess.CompletedProcess(words, status, log.read_text(), log.read_text())

    def process(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an installed command as a user does, in an interpreter of its own with its threads.

        A command that hangs is an error.
        """
        program = str(Path(sys.executable).parent / str(words[0]))
        return subprocess.run(
            [program, *map(str, words[1:])],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=HANGS_AFTER_SECONDS,
        )

    def run(self, *words: object, **environment: str) -> str:
        """Run a command that must succeed in a fork and return its output."""
        done = self.command(*words, **environment)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}"
        return done.stdout

    def study(self, file: Path) -> Path:
        """Run a study without Snakemake in a fork, and return the folder of its results."""
        from nnunet_iac.workflow.serial import run_serially
        from nnunet_iac.workflow.study_file import read_study

        log = file.with_suffix(".log")
        status = in_fork(lambda: run_serially(read_study(file), print), self.environment, log)
        assert status == 0, log.read_text()[-4000:]
        return self.path / "results" / "studies" / read_study(file).name

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


BuiltOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def planned(built_once: BuiltOnce) -> Workspace:
    """Folders with preprocessed cases and `small` plans: stock ones with a network of 3 stages."""
    return Workspace(built_once("nnunet", lambda path: _plan(Workspace(path))))


def _shrink(keywords: dict[str, Any]) -> None:
    """Leave three narrow stages of a planned network: the fewest with a cell above another."""
    keywords.update(n_stages=3, features_per_stage=[4, 8, 8], n_conv_per_stage_decoder=[1, 1])
    for key in ("kernel_sizes", "strides"):
        keywords[key] = keywords[key][:3]
    keywords["n_conv_per_stage"] = [1, 1, 1]


def _plan(workspace: Workspace) -> None:
    source = Path(str(files("nnunet_iac") / "data" / DATASET))
    raw = workspace.path / "raw" / DATASET
    shutil.copytree(source, raw)
    for image in sorted((raw / "imagesTr").iterdir())[TRAINING_CASES:]:
        image.unlink()
        (raw / "labelsTr" / image.name.replace("_0000", "")).unlink()
    for part in ("imagesTs", "labelsTs"):
        for image in sorted((raw / part).iterdir())[TEST_CASES:]:
            image.unlink()
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
    _shrink(configuration["architecture"]["arch_kwargs"])
    write_json(workspace.preprocessed / "small.json", plans)
    cases = sorted(p.name.removesuffix("_0000.nii.gz") for p in (raw / "imagesTr").iterdir())
    splits = [
        {"train": [c for c in cases if c not in cases[k::FOLDS]], "val": cases[k::FOLDS]}
        for k in range(FOLDS)
    ]
    write_json(workspace.preprocessed / "splits_final.json", splits)


@pytest.fixture(scope="session")
def workspace(planned: Workspace, built_once: BuiltOnce) -> Workspace:
    """The planned folders with a backbone of fold 0, trained by stock nnU-Net."""
    built_once("backbone", lambda _: planned.train("nnUNetTrainer_1epoch", "small"))
    return planned


@pytest.fixture
def in_process(planned: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    """The planned data with empty results, for trainers made in the test's own process.

    Plans and splits are the test's own, the cases all tests'. A stock checkpoint with initial
    weights takes the place of the trained backbone of fold 0.
    """
    own = Workspace(tmp_path)
    (tmp_path / "raw").symlink_to(planned.path / "raw")
    planned.share(own.preprocessed)
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    from nnunetv2.run import run_training

    leave_out_what_takes_time(monkeypatch.setattr)
    monkeypatch.setattr(run_training, "recursive_find_trainer_class_by_name", found_trainer)
    stock = make_stock_trainer()
    stock.initialize()
    stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # As its training does.
    stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
    return own


@cache
def found_trainer(name: str) -> Any:
    """Return the trainer that nnU-Net's own look-up finds, which reads all of its folders."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    return recursive_find_trainer_class_by_name(name)


def make_stock_trainer(fold: int = 0) -> Any:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(
        "4", "2d", fold, "nnUNetTrainer", "small", device=torch.device("cpu")
    )


@pytest.fixture
def checked_shapes(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the shapes in annotations checked throughout a run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)


@pytest.fixture
def make_trainer(in_process: Workspace) -> Callable[..., Any]:
    """Return a trainer as nnU-Net's own look-up makes it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    def make(
        name: str,
        plans: str = "small",
        fold: int | str = 0,
        resume: bool = False,
        device: str = "cpu",
    ) -> Any:
        trainer = get_trainer_from_args(
            "4", "2d", fold, name, plans, continue_training=resume, device=torch.device(device)
        )
        if resume:
            trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
        return trainer

    return make
