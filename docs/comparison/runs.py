"""Train everything that a searched cell must be compared with, on one data set.

    python docs/comparison/runs.py RAW WORKSPACE [PATIENT_PATTERN]

RAW is a data set in nnU-Net's raw layout; a `splits_final.json` in it is used. One backbone is
trained on fold 0 and frozen; every method then gets the same number of batches, three times with
another seed. Networks and lengths are for a CPU: two or three hours per data set on one core.
Interrupted, it goes on where it was.
"""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.plans import dataset_number, derived, write_new

CONFIGURATION = "2d"
FOLD = 0
SEEDS = range(3)
PLANS = "narrow"
BACKBONE = "nnUNetTrainerAdam_8epochs"

FEATURES = (8, 16, 32, 64, 64, 64)
"""Channels per stage of the narrow networks, as many of them as the plans have stages."""
SLICE = 56 * 40
"""Pixels of the Hippocampus plan's patch, of which a batch has eight."""
SLICES = 8
SMALLEST_BATCH = 2

SEARCH_EPOCHS, FINETUNE_EPOCHS = 9, 15
LITERAL_WARMUP = 3
"""Warm-up, and one operation less in each of six epochs: 9 epochs of search."""

COMMON: dict[str, Any] = {
    "backbone_trainer": BACKBONE,
    "backbone_plans": PLANS,
    "iterations_per_epoch": 10,
    "val_iterations_per_epoch": 1,
    "residual": "none",
    "finetune_lr": 3e-3,
    "finetune_epochs": SEARCH_EPOCHS + FINETUNE_EPOCHS,
}
SEARCHED = {
    "preset": "literal",
    "warmup_epochs": LITERAL_WARMUP,
    "search_epochs": SEARCH_EPOCHS,
    "finetune_epochs": FINETUNE_EPOCHS,
}


TRAIN_ON_ONE_THREAD = """
import multiprocessing
multiprocessing.cpu_count = lambda: 1  # nnU-Net gives torch as many threads.
from nnunetv2.run.run_training import run_training_entry
run_training_entry()
"""
"""nnUNetv2_train on one core, so that both data sets can be run side by side."""


@dataclass(frozen=True)
class Way:
    """One method: its trainer and what its settings differ in; `{seed}` is filled in."""

    trainer: str
    settings: dict[str, Any]


DISCRETE, CONTINUE = "nnUNetTrainerIACDiscreteNoDA", "nnUNetTrainerContinueNoDA"
WAYS = {
    "lth": Way("nnUNetTrainerIACLTHNoDA", SEARCHED),
    "iac": Way("nnUNetTrainerIACNoDA", SEARCHED),
    "random": Way(DISCRETE, {"genotype": "random:{seed}"}),
    "identity": Way(DISCRETE, {"genotype": "identity"}),
    "conv": Way(DISCRETE, {"genotype": "conv:{cells}"}),
    "attention": Way(DISCRETE, {"skip": "attention"}),
    "nested": Way(DISCRETE, {"skip": "nested"}),
    "residual": Way(DISCRETE, {"skip": "residual-attention"}),
    "continued": Way(CONTINUE, {"finetune_lr": 1e-3}),
    "decoder": Way(CONTINUE, {"finetune_lr": 1e-3, "trainable_part": "decoder"}),
    "continued_fast": Way(CONTINUE, {}),
    "decoder_fast": Way(CONTINUE, {"trainable_part": "decoder"}),
}
"""The backbone goes on at the learning rate of its own training, and at that of the cells."""


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders of one data set."""

    path: Path
    dataset: str
    patient_pattern: str | None

    @property
    def preprocessed(self) -> Path:
        """Plans and preprocessed cases."""
        return self.path / "nnUNet_preprocessed" / self.dataset

    @property
    def number(self) -> str:
        """The data set's id."""
        return str(dataset_number(self.dataset))

    def model(self, trainer: str, plans: str) -> Path:
        """Return a trained model's folder."""
        folder = f"{trainer}__{plans}__{CONFIGURATION}"
        return self.path / "nnUNet_results" / self.dataset / folder

    def run(self, *command: str, **environment: str) -> None:
        """Run one of nnU-Net's commands; its output goes to a log."""
        folders = {
            name: str(self.path / name)
            for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        own = {
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
        }
        program = [str(Path(sys.executable).parent / command[0])]
        if command[0] == "nnUNetv2_train":
            program = [sys.executable, "-c", TRAIN_ON_ONE_THREAD]
        print(*command, flush=True)
        with (self.path / f"{self.dataset}.log").open("a") as log:
            subprocess.run(
                [*program, *command[1:]],
                env={**os.environ, **folders, **own, **environment},
                stdout=log,
                stderr=log,
                check=True,
            )

    def train(self, trainer: str, plans: str) -> None:
        """Train and validate fold 0, unless that is done."""
        folder = self.model(trainer, plans) / f"fold_{FOLD}"
        if (folder / "validation" / "summary.json").is_file():
            return
        go_on = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
        self.run(
            *("nnUNetv2_train", self.number, CONFIGURATION, str(FOLD), "-tr", trainer),
            *("-p", plans, "-device", "cpu", *go_on),
        )


def main() -> None:
    """Plan and train."""
    raw = Path(sys.argv[1]).resolve()
    pattern = sys.argv[3] if len(sys.argv) > 3 else None
    workspace = Workspace(Path(sys.argv[2]).resolve(), raw.name, pattern)
    plan(workspace, raw)
    workspace.train(BACKBONE, PLANS)
    for seed in SEEDS:
        for name, way in WAYS.items():
            workspace.train(way.trainer, plans_of(workspace, name, seed))


def plan(workspace: Workspace, raw: Path) -> None:
    """Preprocess and write the plans of a narrow network."""
    path = workspace.preprocessed / f"{PLANS}.json"
    if path.is_file():
        return
    copied = workspace.path / "nnUNet_raw" / raw.name
    if not copied.exists():
        shutil.copytree(raw, copied)
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        (workspace.path / name).mkdir(exist_ok=True)
    workspace.run(
        *("nnUNetv2_plan_and_preprocess", "-d", workspace.number, "-c", CONFIGURATION),
        *("-np", "1", "-npfp", "1"),
        nnUNet_n_proc_DA="1",
    )
    if (raw / "splits_final.json").is_file():
        shutil.copy(raw / "splits_final.json", workspace.preprocessed)
    plans = read_json(workspace.preprocessed / "nnUNetPlans.json")
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    pixels = math.prod(configuration["patch_size"])
    configuration["batch_size"] = max(SMALLEST_BATCH, SLICES * SLICE // pixels)
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = list(FEATURES[: kwargs["n_stages"]])
    write_json(path, plans)


def plans_of(workspace: Workspace, name: str, seed: int) -> str:
    """Return the plans of a method and seed, written if they are not there."""
    cells = workspace.model(WAYS["lth"].trainer, f"lth_{seed}") / "fold_{fold}"
    settings = {**COMMON, **WAYS[name].settings, "seed": seed}
    if workspace.patient_pattern is not None:
        settings["patient_pattern"] = workspace.patient_pattern
    if "genotype" in settings:
        given = settings["genotype"].replace("{seed}", str(seed))
        settings["genotype"] = given.replace("{cells}", str(cells))
    plans = read_json(workspace.preprocessed / f"{PLANS}.json")
    identifier = f"{name}_{seed}"
    new = derived(plans, identifier, CONFIGURATION, settings)
    write_new(workspace.preprocessed / f"{identifier}.json", new)
    return identifier


if __name__ == "__main__":
    main()
