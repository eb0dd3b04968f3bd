"""Make the runs that the example report shows: five folds, one of them searched fully as well.

    python docs/example/runs.py RAW WORKSPACE

RAW is `Dataset004_Hippocampus` in nnU-Net's raw layout (Medical Segmentation Decathlon, Task04).
Networks and lengths are a fraction of the paper's, so that it takes about an hour and a half on one
core: the report shows what a report shows, not what the method is worth.
Interrupted, it goes on where it was.
"""

import shutil
import sys
from pathlib import Path

from nnunet_iac.host.demo import BATCH_SIZE, CONFIGURATION, FEATURES_PER_STAGE, Demo
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import derived, write_new

BACKBONE = "nnUNetTrainerAdam_8epochs"
ACCELERATED, FULL, CONTINUED = "nnUNetTrainerIACLTH", "nnUNetTrainerIAC", "nnUNetTrainerContinue"
PLANS = "nnUNetPlans_example"
FOLDS = range(5)
FULLY_SEARCHED = range(1)
SETTINGS = {
    "preset": "adaptive",
    "residual": "none",
    "finetune_epochs": 60,
    "finetune_lr": 3e-3,
    "iterations_per_epoch": 8,
    "val_iterations_per_epoch": 1,
    "backbone_trainer": BACKBONE,
}


def main() -> None:
    """Plan and train."""
    raw, workspace = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    demo = Demo(workspace, "cpu", lambda line: print(line, flush=True))
    if not demo.raw.is_dir():
        shutil.copytree(raw, demo.raw)
    plan(demo)
    for trainer, folds in ((BACKBONE, FOLDS), (ACCELERATED, FOLDS), (FULL, FULLY_SEARCHED)):
        for fold in folds:
            train(demo, trainer, PLANS, fold)
    for fold in FOLDS:
        train(demo, CONTINUED, continued_plans(demo, fold), fold)


def plan(demo: Demo) -> None:
    """Preprocess and write the plans of a small network."""
    path = demo.preprocessed / f"{PLANS}.json"
    if path.is_file():
        return
    command = ["nnUNetv2_plan_and_preprocess", "-d", "4", "-c", CONFIGURATION]
    demo.run([*command, "-np", "2", "-npfp", "2"], "plan", nnUNet_n_proc_DA="1")
    small = derived(
        read_json(demo.preprocessed / "nnUNetPlans.json"), PLANS, CONFIGURATION, SETTINGS
    )
    configuration = small["configurations"][CONFIGURATION]
    configuration["batch_size"] = BATCH_SIZE
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = list(FEATURES_PER_STAGE)
    write_new(path, small)


def continued_plans(demo: Demo, fold: int) -> str:
    """Return plans that train on for as many epochs as this fold's accelerated run took.

    Named by that number, so that folds of equal length share them.
    """
    run = RunFolder.of_fold(demo.model(ACCELERATED, PLANS) / f"fold_{fold}")
    epochs = sum(phase.epochs for phase in run.read_cost().phases.values())
    name = f"{PLANS}_continued{epochs}"
    path = demo.preprocessed / f"{name}.json"
    if not path.is_file():
        settings = {**SETTINGS, "finetune_lr": 1e-3, "finetune_epochs": epochs}
        settings["backbone_plans"] = PLANS
        plans = read_json(demo.preprocessed / f"{PLANS}.json")
        write_new(path, derived(plans, name, CONFIGURATION, settings))
    return name


def train(demo: Demo, trainer: str, plans: str, fold: int) -> None:
    """Train and validate one fold, unless that is done."""
    folder = demo.model(trainer, plans) / f"fold_{fold}"
    if (folder / "validation" / "summary.json").is_file():
        return
    command = ["nnUNetv2_train", "4", CONFIGURATION, str(fold), "-tr", trainer, "-p", plans]
    go_on = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
    demo.run([*command, "-device", "cpu", *go_on], f"{trainer}_{fold}")


if __name__ == "__main__":
    main()
