"""The splits of a study, and the checks before anything starts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.folders import raw_folder
from nnunet_iac.host.patient_folds import patient_folds
from nnunet_iac.host.planning import preprocessed_folder, source_plans
from nnunet_iac.host.plans import read_dataset
from nnunet_iac.host.trainer_lookup import exported_trainers, find_trainer, trainers_dir
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import path_for_fold
from nnunet_iac.runs.genotype_source import find_genotype
from nnunet_iac.runs.splits import SPLITS, require_split, require_splits
from nnunet_iac.search.controls import CellSource
from nnunet_iac.search.patients import named, patient_of, shared_patients
from nnunet_iac.search.settings import Settings
from nnunet_iac.workflow.study import PLANNED, DataSet, PlannedRun, Study
from nnunet_iac.workflow.study_plans import (
    adapted_source,
    plans_file,
    plans_name,
    plans_of,
    require_own_results,
)

if TYPE_CHECKING:  # It imports nnU-Net's trainer: seconds that most studies need not wait.
    from nnunet_iac.adaptation.source import SourceModel

Splits = list[dict[str, list[str]]]


def require_ready(study: Study) -> None:
    """Check data sets, splits, trainers, plans and the results of earlier trainings.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: the study cannot be run as it is.
    """
    folders = [preprocessed_folder(dataset.dataset) for dataset in study.datasets]
    for dataset, folder in zip(study.datasets, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"a data set must be listed once; {folder.name} is there twice")
        if dataset.predict:
            _require_test_cases(raw_folder(folder.name), dataset.patients)
        wanted_splits(dataset)
    for trainer in dict.fromkeys(study.trainer_of(run) for run in study.runs.values()):
        if trainer not in exported_trainers(trainers_dir()):
            find_trainer(trainer)
    for run in study.runs.values():
        _require_genotype(study, run)
        _require_plans(study, run)
        require_own_results(study, run)


def _require_test_cases(raw: Path, pattern: str | None) -> None:
    """Check that there are test cases to predict and to score, each with a label and a patient."""
    for verb, name in (("predict", "imagesTs"), ("score", "labelsTs")):
        if not (raw / name).is_dir():
            raise FileNotFoundError(
                f"to {verb} test cases {raw / name} must exist; it does not: add it, or leave "
                "predict out"
            )
    ending = read_dataset(raw / "dataset.json")["file_ending"]
    images, labels = (
        {path.name.removesuffix(end) for path in (raw / name).glob(f"*{end}")}
        for name, end in (("imagesTs", f"_0000{ending}"), ("labelsTs", ending))
    )
    without = labels ^ images
    if without or not labels:
        found = f"without the other: {named(without)}" if without else "there is none"
        raise ValueError(
            f"to score test cases every image in {raw / 'imagesTs'} must have its label in "
            f"labelsTs, and every label its image; {found}: add what is missing, or leave predict "
            "out"
        )
    for case in labels:
        patient_of(case, pattern)


def _require_genotype(study: Study, run: PlannedRun) -> None:
    """Check that the cell that a method names is there, unless the study searches for it."""
    if run.seed is None or study.methods[run.method].cells_of is not None:
        return
    genotype = study.values_of(run.method, run.seed).get("genotype")
    if genotype is not None and (path := CellSource.of(genotype).path) is not None:
        find_genotype(path_for_fold(path, run.fold))


def _require_plans(study: Study, run: PlannedRun) -> None:
    """Check the plans of a run as far as what they start from is there."""
    folder = preprocessed_folder(run.dataset.dataset)
    adapted, reference = adapted_source(study, run), plans_name(study, run.reference)
    if adapted is not None and run.method == REFERENCE:
        require_fitting(study, run, adapted)
    if adapted is not None and not (folder / f"{reference}.json").is_file():
        return  # The step that prepares the data writes them.
    is_own = run.seed is None and adapted is None
    source = study.backbones[run.backbone].plans if is_own else reference
    if not (folder / f"{source}.json").is_file():
        if run.seed is None and source != PLANNED:
            raise FileNotFoundError(
                f"the plans {source} must exist; {folder / source}.json does not: make them with "
                "nnUNetv2_plan_experiment or nnunet-iac plan"
            )
        return
    source_plans(folder, run.configuration, source)
    wanted, path = plans_of(study, run), plans_file(study, run)
    if wanted is not None and path.is_file() and read_json(path) != json.loads(json.dumps(wanted)):
        raise ValueError(
            f"{path} was written for something else: give the study, or the backbone, another "
            "name, or remove it and the results under its name"
        )


def require_fitting(study: Study, run: PlannedRun, source: "SourceModel") -> list[str]:
    """Check channels, labels and patients of a data set that a model is adapted to.

    Notes on patients that cannot be compared are returned.
    """
    from nnunet_iac.adaptation.labels import require_same_labels
    from nnunet_iac.adaptation.target import Target, require_adaptable, require_other_patients

    target = Target.of(run.dataset.dataset)
    require_adaptable(source, target, plans_name(study, run))
    require_same_labels(source.dataset, target.dataset)
    settings = Settings.from_mapping({**study.settings, "patient_pattern": run.dataset.patients})
    splits = wanted_splits(run.dataset)
    return require_other_patients(source, target, settings.data, splits[run.fold]["val"])


def wanted_splits(dataset: DataSet) -> Splits:
    """Return the splits of a study's data set: given, those that are there, or five by patient.

    Splits beside the raw data are there as well: nnU-Net copies them when it plans.

    Raises:
        ValueError: no such fold, or one that holds no case out, an unknown case, a patient on both
            sides of a fold, or another splits_final.json, which is not overwritten.
    """
    own = preprocessed_folder(dataset.dataset) / SPLITS
    raw = raw_folder(own.parent.name)
    cases = raw_cases(raw)
    for case in cases:
        patient_of(case, dataset.patients)
    known = own if own.is_file() else raw / SPLITS
    if (given := dataset.splits) is not None:
        if isinstance(given, Path):
            if not given.is_file():
                raise FileNotFoundError(f"splits must name a file; {given} does not exist")
            given = read_json(given)
        for fold in dataset.folds:
            require_split(given, fold, cases, f"the splits of {dataset.dataset}")
        wanted = list(given)
        if own.is_file() and read_json(own) != wanted:
            raise ValueError(
                f"{own} must be the splits that the study names, and is another: move "
                "it away (models trained with it keep their own cases)"
            )
    elif known.is_file():
        for fold in dataset.folds:
            require_splits(known, fold, cases)
        wanted = read_json(known)
    else:
        wanted = patient_folds(cases, dataset.patients)
    for fold in dataset.folds:
        if fold >= len(wanted):
            raise ValueError(
                f"the folds of {dataset.dataset} must be among the {len(wanted)} of its splits; "
                f"got {fold}: name one from 0 to {len(wanted) - 1}"
            )
        if not wanted[fold]["val"]:
            raise ValueError(
                f"a study needs cases to score; fold {fold} of {dataset.dataset} has none under "
                "'val': name splits that hold some out"
            )
        if shared := shared_patients(wanted[fold]["train"], wanted[fold]["val"], dataset.patients):
            raise ValueError(
                f"a patient must not be on both sides of a split; fold {fold} of "
                f"{dataset.dataset} has {named(shared)} on both: name splits that group by "
                "patient, or none and `patients`"
            )
    return wanted


def raw_cases(raw: Path) -> list[str]:
    """Return the ids of a raw data set's training cases."""
    content = read_dataset(raw / "dataset.json")
    if isinstance(content.get("dataset"), dict):  # Their files may be anywhere.
        return sorted(content["dataset"])
    ending = content["file_ending"]
    labels = (raw / "labelsTr").glob(f"*{ending}")
    return sorted(path.name.removesuffix(ending) for path in labels)
