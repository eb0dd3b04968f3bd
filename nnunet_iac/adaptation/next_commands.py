"""The commands to type after a target has been prepared: those of an adapter, and its control."""

import shlex
from pathlib import Path

from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.adaptation.target import Target
from nnunet_iac.host.planning import CONTINUE_TRAINER, SEARCHING, proposed_trainers
from nnunet_iac.host.plans import configuration_of, dataset_number, read_plans, settings_of
from nnunet_iac.runs.splits import FOLDS, SPLITS
from nnunet_iac.search.patients import patient_of
from nnunet_iac.search.settings import ADAPTED_BACKBONE_LR, Settings
from nnunet_iac.training.method import CONTINUE, IAC_DISCRETE, IAC_LTH
from nnunet_iac.training.setting_checks import with_defaults_of


def next_commands(path: Path, source: SourceModel, target: Target) -> list[str]:
    """Return how to adapt, and how to train the control for as many epochs."""
    settings = settings_of(configuration_of(read_plans(path), source.configuration))
    patients = {patient_of(case, settings.data.patient_pattern) for case in target.cases}
    has_splits = (path.parent / SPLITS).is_file() or len(patients) >= FOLDS
    fold = "0" if has_splits and len(patients) > 1 else "all"
    number, config = str(dataset_number(target.name)), source.configuration
    own, control = path.stem, f"{path.stem}_control"
    trainers = proposed_trainers(settings)
    trainer = trainers["next"]
    train = ["nnUNetv2_train", number, config, fold, "-tr"]
    lines = [f"{what}: {shlex.join([*train, one, '-p', own])}" for what, one in trainers.items()]
    if trainer == CONTINUE_TRAINER:
        return lines
    searches = trainer in SEARCHING
    method = IAC_LTH if searches else IAC_DISCRETE
    epochs = with_defaults_of(method, settings).schedule.finetune_epochs
    epochs += settings.latest_end if searches else 0
    changes = control_changes(settings, epochs)
    if changes:
        plan = ["nnunet-iac", "plan", "-d", number, "-c", config, "-p", own, "-o", control]
        lines.append(f"plans of the control: {shlex.join([*plan, '--set', *changes])}")
    of_control = [*train, CONTINUE_TRAINER, "-p", control if changes else own]
    lines.append(f"control: {shlex.join(of_control)}")
    if fold != "all":
        of_all = ["nnUNetv2_train", number, config, "all", "-tr", trainer, "-p", own]
        lines.append(f"for use, with all cases: {shlex.join(of_all)}")
    return lines


def control_changes(settings: Settings, epochs: int) -> list[str]:
    """Return what to change in a retrofit's settings for the control of as many epochs, if any."""
    own = with_defaults_of(CONTINUE, settings)
    changes = []
    if own.schedule.finetune_epochs != epochs:
        changes.append(f"finetune_epochs={epochs}")
    if own.optimisation.finetune_lr != ADAPTED_BACKBONE_LR:  # That of the cells was given.
        changes.append(f"finetune_lr={ADAPTED_BACKBONE_LR}")
    if CONTINUE.trained_part(settings.cell) not in CONTINUE.parts:
        changes += ["trainable_part=network", "genotype=null", "skip=cell"]
    return changes
