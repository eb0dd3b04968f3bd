"""The demo: a fixed study on the embedded cases, in nnU-Net folders of its own."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from nnunet_iac.analysis.report.document import write_report
from nnunet_iac.host.planning import CONTINUE_TRAINER, LTH_TRAINER
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import SUMMARY, foreground_dice
from nnunet_iac.workflow.serial import Log, read_seconds, run_serially
from nnunet_iac.workflow.steps import predictions_folder, processors
from nnunet_iac.workflow.study import BackboneSpec, DataSet, Study, StudyMethod
from nnunet_iac.workflow.study_plans import fold_folder, study_folder

DATASET, FILE_ENDING, LICENCE = "Dataset004_Hippocampus", ".nii.gz", "LICENSE.md"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
BACKBONE_LR = 1e-3
MOST_THREADS = 4  # Threads of a training: more only wait for each other on networks this small.

SETTINGS: Mapping[str, Any] = {
    "preset": "adaptive",
    "warmup_epochs": 3,
    "search_epochs": 100,
    "finetune_epochs": 90,
    "finetune_lr": 3e-3,
    "iterations_per_epoch": 8,
    "val_iterations_per_epoch": 1,
}
"""Chosen for minutes on two CPU cores: few iterations, and cells finetuned at three times the
default rate. All other settings have their defaults; the control keeps the backbone's own rate."""

QUICK_SETTINGS: Mapping[str, Any] = {
    **SETTINGS,
    "warmup_epochs": 1,
    "search_epochs": 12,
    "finetune_epochs": 2,
    "iterations_per_epoch": 2,
}
SMALL = BackboneSpec(
    trainer="nnUNetTrainerAdam_8epochs", features_per_stage=(16, 32, 64, 128), batch_size=8
)
TINY = BackboneSpec(
    trainer="nnUNetTrainer_1epoch", features_per_stage=(8, 16, 16, 16), batch_size=2
)


def demo_study(device: str, quick: bool = False) -> Study:
    """Return the demo's study: a backbone, its retrofit, and the continued backbone.

    With `quick` a tiny network is trained for a few iterations, which shows that all steps work
    and nothing about Dice.
    """
    return Study(
        name="demo-quick" if quick else "demo",
        datasets=(DataSet(DATASET, predict=True),),
        backbones={"tiny": TINY} if quick else {"small": SMALL},
        settings=QUICK_SETTINGS if quick else SETTINGS,
        methods={
            "iac-lth": StudyMethod(LTH_TRAINER),
            "continued": StudyMethod(
                CONTINUE_TRAINER, {"finetune_lr": BACKBONE_LR}, epochs_of="iac-lth"
            ),
        },
        device=device,
        threads=1 if quick else min(os.cpu_count() or 1, MOST_THREADS),
    )


def run_demo(folder: Path, device: str, quick: bool, report: Log) -> Path:
    """Run the demo below a folder, and return its report; `summary.json` is in the folder itself.

    Finished steps are kept and an interrupted training is continued, so a second call only runs
    what the first left undone.

    Raises:
        RuntimeError: a command failed.
    """
    folder = folder.resolve()
    study = demo_study(device, quick)
    with as_file(files("nnunet_iac") / "data" / DATASET) as embedded:
        shutil.copytree(embedded, folder / FOLDERS[0] / DATASET, dirs_exist_ok=True)
    with _own_folders(folder, study):
        run_serially(study, report)
        summary = {**_summary(study, folder), **_stage_seconds(study)}
        write_json(folder / "summary.json", summary)
        page = write_report([folder / summary["run_folder"]], folder / "report")
    # Its slices are adapted from the images, and carry their licence.
    shutil.copy(folder / FOLDERS[0] / DATASET / LICENCE, page.parent)
    return page


@contextmanager
def _own_folders(folder: Path, study: Study) -> Iterator[None]:
    """Set nnU-Net's folders and processes to those of the demo, and no other variable of its."""
    with patch.dict(os.environ):
        for key in list(os.environ):
            if key.lower().startswith("nnunet"):
                del os.environ[key]
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(folder / name)
        os.environ.update(processors(study))
        yield


def _stage_seconds(study: Study) -> dict[str, Any]:
    seconds, stages = read_seconds(study_folder(study)), ("backbone", "retrofit", "continued")
    known = {
        "plan": seconds[f"prepared/{DATASET}"],
        **{k: seconds[f"runs/{run}"] for k, run in zip(stages, study.runs, strict=True)},
        "predict": round(sum(seconds[f"predictions/{run}"] for run in study.runs), 1),
    }
    return {"stage_seconds": known, "total_seconds": round(sum(known.values()), 1)}


def _summary(study: Study, folder: Path) -> dict[str, Any]:
    runs = dict(zip(("reference", "iac", "continued"), study.runs.values(), strict=True))
    record, control = (RunFolder.of_fold(fold_folder(study, runs[m])) for m in ("iac", "continued"))
    cost, trajectory = record.read_cost(), record.read_trajectory()
    phases = cost.phases
    predictions = {name: predictions_folder(study, run) for name, run in runs.items()}
    dice = {
        name: foreground_dice(path / SUMMARY, FILE_ENDING) for name, path in predictions.items()
    }
    per_case = [
        {"case": case, **{name: dice[name]["per_case"][case] for name in dice}}
        for case in dice["reference"]["per_case"]
    ]
    # A comparison with NaN, where an edge was not checked, is false.
    waited = (trajectory.divergence >= trajectory.threshold).any(axis=0)
    forced = any(event.rule == "forced" for event in record.read_events())
    length = re.search(r"(\d+)epochs?$", study.trainer_of(runs["reference"]))
    assert length is not None

    return {
        **{f"{name}_dice": dice[name]["mean"] for name in ("reference", "continued", "iac")},
        "per_case": per_case,
        "search_epochs": phases["warmup"].epochs + phases["search"].epochs,
        "search_seconds": round(phases["warmup"].seconds + phases["search"].seconds, 1),
        "finetune_seconds": round(phases["finetune"].seconds, 1),
        "genotype": record.read_genotype().to_document(),
        "backbone_unchanged": record.read_backbone().unchanged,
        "epochs": {
            "backbone": int(length[1]),
            **{name: phase.epochs for name, phase in phases.items()},
            "continued": sum(phase.epochs for phase in control.read_cost().phases.values()),
        },
        "edges_that_waited": int(np.count_nonzero(waited)),
        "stopped_by": "limit" if forced else "criterion",
        "run_folder": str(record.path.relative_to(folder)),
    }
