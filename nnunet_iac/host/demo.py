"""The main job on the embedded data, through the commands a user types."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import dataset_number, derived, write_new
from nnunet_iac.runs.scores import foreground_dice

DATASET = "Dataset004_Hippocampus"
CONFIGURATION = "2d"
PLANS = "nnUNetPlans_demo"
CONTINUED_PLANS = "nnUNetPlans_demo_continued"
BACKBONE_TRAINER = "nnUNetTrainerAdam_8epochs"
RETROFIT_TRAINER = "nnUNetTrainerIACLTH"
CONTINUE_TRAINER = "nnUNetTrainerContinue"
FILE_ENDING = ".nii.gz"

BACKBONE_LR = 1e-3
FEATURES_PER_STAGE = (16, 32, 64, 128)
BATCH_SIZE = 8
SETTINGS: Mapping[str, Any] = {
    "preset": "adaptive",
    "warmup_epochs": 3,
    "search_epochs": 100,
    "finetune_epochs": 90,
    "finetune_lr": 3e-3,
    "iterations_per_epoch": 8,
    "val_iterations_per_epoch": 1,
    "backbone_trainer": BACKBONE_TRAINER,
}
"""Chosen for minutes on two CPU cores: few iterations, and cells finetuned at three times the
default rate. Everything else has its default; the control keeps the backbone's own rate."""

PROGRESS = re.compile(r"(Epoch \d+|Phase: .*|Pseudo dice .*|Pruned .*|predicting .*|Mean Val.*)$")
"""Lines of nnU-Net's output that show how far it is."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """The folders of a demo and how to run nnU-Net's commands in them.

    Args:
        folder: all files of the demo lie below it.
        device: as nnU-Net's -device.
        report: receives lines of progress.
    """

    folder: Path
    device: str
    report: Report

    @property
    def raw(self) -> Path:
        """nnU-Net's raw data of the demo."""
        return self.folder / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's preprocessed data and plans."""
        return self.folder / "nnUNet_preprocessed" / DATASET

    def model(self, trainer: str, plans: str) -> Path:
        """Return a trained model's folder."""
        name = f"{trainer}__{plans}__{CONFIGURATION}"
        return self.folder / "nnUNet_results" / DATASET / name

    def predictions(self, method: str) -> Path:
        """Return the folder of a method's test predictions."""
        return self.folder / "predictions" / method

    def run(self, command: Sequence[str], log: str, **environment: str) -> None:
        """Run a command with the demo's environment, its output in a log, its progress shown.

        Raises:
            RuntimeError: it failed; the message has the end of its output.
        """
        path = self.folder / "logs" / f"{log}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.report(f"    $ {' '.join(command)}")
        with (
            open(path, "w", encoding="utf-8") as file,
            subprocess.Popen(
                command,
                env={**self._environment(), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                if shown := PROGRESS.search(line.rstrip()):
                    self.report(f"      {shown.group(1)}")
        if process.returncode != 0:
            tail = "\n".join(path.read_text(encoding="utf-8").splitlines()[-15:])
            raise RuntimeError(
                f"{command[0]} must succeed and exited with {process.returncode}; {path} ends "
                f"with\n{tail}"
            )

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")}
        scripts = str(Path(sys.executable).parent)
        return {
            **inherited,
            "PATH": scripts + os.pathsep + inherited.get("PATH", ""),
            "PYTHONUNBUFFERED": "1",
            "nnUNet_raw": str(self.raw.parent),
            "nnUNet_preprocessed": str(self.preprocessed.parent),
            "nnUNet_results": str(self.folder / "nnUNet_results"),
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_def_n_proc": "2",
            **({"nnUNet_n_proc_DA": "0"} if self.device == "cpu" else {}),
        }


def run_demo(folder: Path, device: str, report: Report) -> dict[str, Any]:
    """Run the whole retrofit on the embedded cases and return what `summary.json` holds.

    Finished stages are not run again, an interrupted training is continued, so a second call
    only takes what the first left undone.

    Args:
        folder: made if absent; everything the demo writes lies below it.
        device: cpu or cuda.
        report: receives lines of progress.

    Raises:
        RuntimeError: a command failed.
    """
    demo = Demo(folder.resolve(), device, report)
    stages = [
        ("data", "Copy the embedded cases", _copy_data),
        ("plan", "Plan and preprocess", _plan),
        ("backbone", "Train a small U-Net: the backbone", _train_backbone),
        ("retrofit", "Retrofit it: warm-up, search, finetuning", _train_retrofit),
        ("continued", "Control: train the backbone on for as many epochs", _train_continued),
        ("predict", "Predict the test cases with all three", _predict),
    ]
    seconds_file = demo.folder / "stages.json"
    seconds: dict[str, float] = read_json(seconds_file) if seconds_file.is_file() else {}
    for number, (name, title, stage) in enumerate(stages, start=1):
        if name in seconds:
            report(f"[{number}/{len(stages)}] {title}: done before")
            continue
        report(f"[{number}/{len(stages)}] {title}")
        started = time.monotonic()
        stage(demo)
        seconds[name] = round(time.monotonic() - started, 1)
        write_json(seconds_file, seconds)
        report(f"    {seconds[name]:.0f} s")
    summary = {**_summary(demo), "stage_seconds": seconds, "total_seconds": sum(seconds.values())}
    write_json(demo.folder / "summary.json", summary)
    return summary


def _copy_data(demo: Demo) -> None:
    with as_file(files("nnunet_iac") / "data" / DATASET) as embedded:
        shutil.copytree(embedded, demo.raw, dirs_exist_ok=True)


def _plan(demo: Demo) -> None:
    number = str(dataset_number(DATASET))
    command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", CONFIGURATION]
    # Planning divides by the number of augmentation workers, so it needs one.
    demo.run([*command, "-np", "2", "-npfp", "2"], "plan", nnUNet_n_proc_DA="1")
    plans = read_json(demo.preprocessed / "nnUNetPlans.json")
    small = derived(plans, PLANS, CONFIGURATION, SETTINGS)
    configuration = small["configurations"][CONFIGURATION]
    configuration["batch_size"] = BATCH_SIZE
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = list(FEATURES_PER_STAGE)
    write_new(demo.preprocessed / f"{PLANS}.json", small)


def _train_backbone(demo: Demo) -> None:
    _train(demo, BACKBONE_TRAINER, PLANS, "backbone")


def _train_retrofit(demo: Demo) -> None:
    _train(demo, RETROFIT_TRAINER, PLANS, "retrofit")


def _train_continued(demo: Demo) -> None:
    phases = _record(demo).read_cost().phases
    extra = sum(phase.epochs for phase in phases.values())
    plans = read_json(demo.preprocessed / f"{PLANS}.json")
    own_rate = {"finetune_lr": BACKBONE_LR}
    settings = {**SETTINGS, **own_rate, "backbone_plans": PLANS, "finetune_epochs": extra}
    continued = derived(plans, CONTINUED_PLANS, CONFIGURATION, settings)
    write_new(demo.preprocessed / f"{CONTINUED_PLANS}.json", continued)
    _train(demo, CONTINUE_TRAINER, CONTINUED_PLANS, "continued")


def _train(demo: Demo, trainer: str, plans: str, log: str) -> None:
    number = str(dataset_number(DATASET))
    command = ["nnUNetv2_train", number, CONFIGURATION, "0", "-tr", trainer, "-p", plans]
    fold = demo.model(trainer, plans) / "fold_0"
    interrupted = any(fold.glob("checkpoint_*.pth"))
    demo.run([*command, "-device", demo.device, *(["--c"] if interrupted else [])], log)


def _predict(demo: Demo) -> None:
    for method, (trainer, plans) in _models().items():
        output = demo.predictions(method)
        shutil.rmtree(output, ignore_errors=True)
        names = [
            "-d",
            str(dataset_number(DATASET)),
            "-c",
            CONFIGURATION,
            "-tr",
            trainer,
            "-p",
            plans,
        ]
        folders = ["-i", str(demo.raw / "imagesTs"), "-o", str(output)]
        workers = ["-npp", "1", "-nps", "1", "-device", demo.device]
        demo.run(["nnUNetv2_predict", *folders, *names, "-f", "0", *workers], f"predict_{method}")
        model = demo.model(trainer, plans)
        described = ["-djfile", str(model / "dataset.json"), "-pfile", str(model / "plans.json")]
        truth = str(demo.raw / "labelsTs")
        command = ["nnUNetv2_evaluate_folder", truth, str(output), *described, "-np", "2"]
        demo.run(command, f"evaluate_{method}")


def _models() -> dict[str, tuple[str, str]]:
    return {
        "reference": (BACKBONE_TRAINER, PLANS),
        "continued": (CONTINUE_TRAINER, CONTINUED_PLANS),
        "iac": (RETROFIT_TRAINER, PLANS),
    }


def _record(demo: Demo) -> RunFolder:
    return RunFolder.of_fold(demo.model(RETROFIT_TRAINER, PLANS) / "fold_0")


def _summary(demo: Demo) -> dict[str, Any]:
    record = _record(demo)
    cost, trajectory, events = record.read_cost(), record.read_trajectory(), record.read_events()
    dice = {
        method: foreground_dice(demo.predictions(method) / "summary.json", FILE_ENDING)
        for method in _models()
    }
    per_case = [
        {"case": case, **{method: dice[method]["per_case"][case] for method in dice}}
        for case in dice["reference"]["per_case"]
    ]
    phases = cost.phases
    # A comparison with NaN, where an edge was not checked, is false.
    waited = (trajectory.divergence >= trajectory.threshold).any(axis=0)
    forced = any(event.rule == "forced" for event in events)
    continued = read_json(demo.preprocessed / f"{CONTINUED_PLANS}.json")
    section = continued["configurations"][CONFIGURATION]["iac"]
    return {
        "reference_dice": dice["reference"]["mean"],
        "continued_dice": dice["continued"]["mean"],
        "iac_dice": dice["iac"]["mean"],
        "per_case": per_case,
        "search_epochs": phases["warmup"].epochs + phases["search"].epochs,
        "search_seconds": round(phases["warmup"].seconds + phases["search"].seconds, 1),
        "finetune_seconds": round(phases["finetune"].seconds, 1),
        "genotype": record.read_genotype().to_document(),
        "backbone_unchanged": record.read_backbone().unchanged,
        "epochs": {
            "backbone": int(BACKBONE_TRAINER.rpartition("_")[2].removesuffix("epochs")),
            **{name: phase.epochs for name, phase in phases.items()},
            "continued": section["finetune_epochs"],
        },
        "edges_that_waited": int(np.count_nonzero(waited)),
        "stopped_by": "limit" if forced else "criterion",
        "run_folder": str(record.path.relative_to(demo.folder)),
        "images": str((demo.raw / "imagesTs").relative_to(demo.folder)),
        "labels": str((demo.raw / "labelsTs").relative_to(demo.folder)),
        "predictions": {
            method: str(demo.predictions(method).relative_to(demo.folder)) for method in dice
        },
        "hardware": _hardware(cost.hardware),
    }


def _hardware(recorded: Mapping[str, Any]) -> str:
    processor = f"{recorded['processor']}, {recorded['cores']} cores"
    return f"{recorded['gpu']} with {processor}" if recorded["gpu"] else processor
