"""The plans and folders of a study's runs."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.folders import results_folder
from nnunet_iac.host.planning import NetworkChanges, preprocessed_folder, source_plans
from nnunet_iac.host.plans import (
    SECTION,
    architecture_of,
    configuration_of,
    derived,
    read_plans,
    write_new,
)
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import VALIDATION_SUMMARY
from nnunet_iac.width.candidates import FEATURES, capped, features_of
from nnunet_iac.workflow.study import DEFAULT, BackboneSpec, DataSet, PlannedRun, Study

if TYPE_CHECKING:  # What adapts imports nnU-Net's trainer: seconds that most steps need not wait.
    from nnunet_iac.adaptation.source import SourceModel


def study_folder(study: Study, folder: Path | None = None) -> Path:
    """Return where a study's results go: the given folder, or its place in nnUNet_results."""
    return (results_folder() / "studies" / study.name if folder is None else folder).resolve()


def plans_name(study: Study, run: PlannedRun) -> str:
    """Return the identifier of a run's plans.

    A backbone's plans are shared by all studies. Plans whose epochs come from another run differ
    from fold to fold.
    """
    spec = study.backbones[run.backbone]
    if run.method == REFERENCE:
        if spec.is_planned:
            return spec.plans
        first = run.configuration == run.dataset.configurations[0]
        return run.backbone if first else f"{run.backbone}_{run.configuration}"
    parts = [study.name, run.configuration, run.backbone, run.method]
    parts += [] if run.augmentation == DEFAULT else [run.augmentation]
    parts.append(f"{run.seed}")
    if study.methods[run.method].epochs_of:
        parts.append(f"fold{run.fold}")
    return "_".join(parts)


def fold_folder(study: Study, run: PlannedRun) -> Path:
    """Return nnU-Net's folder of a run."""
    model = f"{study.trainer_of(run)}__{plans_name(study, run)}__{run.configuration}"
    dataset = preprocessed_folder(run.dataset.dataset).name
    return results_folder() / dataset / model / f"fold_{run.fold}"


def is_finished(study: Study, run: PlannedRun) -> bool:
    """Return whether a run is trained and validated."""
    return (fold_folder(study, run) / VALIDATION_SUMMARY).is_file()


def untrained_settings(study: Study, dataset: DataSet) -> dict[str, Any]:
    """Return the settings of the run that only validates a model of another data set."""
    own = ("score_source", "allow_leakage")
    shared = {key: study.settings[key] for key in own if key in study.settings}
    if dataset.patients is not None:
        shared["patient_pattern"] = dataset.patients
    return {"finetune_epochs": 0, **shared}


def plans_file(study: Study, run: PlannedRun) -> Path:
    """Return the file of a run's plans."""
    return preprocessed_folder(run.dataset.dataset) / f"{plans_name(study, run)}.json"


def write_plans_of(study: Study, run: PlannedRun) -> Path | None:
    """Write the plans of a run; return their file, or None if there is nothing to write (yet)."""
    if (plans := plans_of(study, run)) is None:
        return None
    write_new(path := plans_file(study, run), plans)
    return path


def plans_of(study: Study, run: PlannedRun) -> dict[str, Any] | None:
    """Return the plans that must be written for a run.

    None if it takes plans that are there, or if a run whose epochs it takes is not finished.
    """
    folder, name = preprocessed_folder(run.dataset.dataset), plans_name(study, run)
    if run.method == REFERENCE:
        spec = study.backbones[run.backbone]
        if (adapted := adapted_source(study, run)) is not None:
            from nnunet_iac.adaptation.adapted_plans import adapted_plans
            from nnunet_iac.adaptation.target import Target

            target = Target.of(run.dataset.dataset)
            return adapted_plans(adapted, target, name, untrained_settings(study, run.dataset))
        return None if spec.is_planned else _backbone_plans(folder, run.configuration, name, spec)
    method = study.methods[run.method]
    cells, epochs = "", None
    for source in study.sources_of(run)[1:]:
        if source.method == method.cells_of:
            cells = str(fold_folder(study, source).with_name("fold_{fold}"))
        if source.method == method.epochs_of:
            if not is_finished(study, source):
                return None
            phases = RunFolder.of_fold(fold_folder(study, source)).read_cost().phases
            epochs = sum(phase.epochs for phase in phases.values())
    assert run.seed is not None
    backbone = plans_name(study, run.reference)
    values = study.values_of(run.method, run.seed, cells, epochs)
    if (adapted := adapted_source(study, run)) is None:
        values |= {"backbone_trainer": study.trainer_of(run.reference), "backbone_plans": backbone}
    else:
        values["backbone_checkpoint"] = str(adapted.checkpoint)
    if run.dataset.patients is not None:
        values["patient_pattern"] = run.dataset.patients
    plans = source_plans(folder, run.configuration, backbone)
    return derived(plans, name, run.configuration, values)


def adapted_source(study: Study, run: PlannedRun) -> "SourceModel | None":
    """Return the fold of another data set's model that is adapted, or None if none is."""
    adapt = study.backbones[run.backbone].adapt
    if adapt is None:
        return None
    from nnunet_iac.adaptation.source import SourceModel

    fold = Path(adapt)
    return SourceModel.at(fold.parent, run.configuration, fold.name.removeprefix("fold_"))


def _backbone_plans(
    folder: Path, configuration: str, name: str, spec: BackboneSpec
) -> dict[str, Any]:
    """Return the plans of a backbone that differs from the plans it starts from."""
    plans = copy.deepcopy(source_plans(folder, configuration, spec.plans))
    if name == spec.plans:
        raise ValueError(f"backbone {name!r} must have another name than its plans: rename it")
    plans.update(plans_name=name, source_plans=spec.plans)
    config = configuration_of(plans, configuration)
    changes = NetworkChanges(spec.encoder, spec.skip).changed(dict(config))
    architecture = architecture_of({**config, **changes})
    if spec.cap is not None:
        changes["architecture"] = architecture = capped(architecture, spec.cap)
    if spec.features_per_stage is not None:
        stages = len(features_of(architecture))
        if len(spec.features_per_stage) < stages:
            raise ValueError(
                f"features_per_stage must have a number for each of the {stages} stages of the "
                f"plans; got {list(spec.features_per_stage)}: add the missing ones"
            )
        changes["architecture"] = own = copy.deepcopy(dict(architecture))
        own["arch_kwargs"][FEATURES] = list(spec.features_per_stage[:stages])
    if spec.batch_size is not None:
        changes["batch_size"] = spec.batch_size
    plans["configurations"][configuration] |= changes
    return plans


def require_own_results(study: Study, run: PlannedRun) -> None:
    """Check that a model under a run's name was trained with the run's plans."""
    model, wanted = fold_folder(study, run).parent, plans_file(study, run)
    both = (wanted, model / "plans.json")
    if not all(path.is_file() for path in both):
        return
    ours, theirs = (configuration_of(read_plans(path), run.configuration) for path in both)
    unused = dict.fromkeys([SECTION]) if run.method == REFERENCE else {}
    if ours | unused != theirs | unused:
        raise ValueError(
            f"{model} must have been trained with the plans {wanted.stem} as they are now, and was "
            "trained with others: move it elsewhere, or give the study another name"
        )
