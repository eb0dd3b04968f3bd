"""A target prepared under the plans of a source model, and what to type next."""

import copy
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunet_iac.adaptation.labels import (
    require_same_labels,
)
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.adaptation.target import Target, changed, reader_under, require_adaptable
from nnunet_iac.host.patient_folds import patient_folds
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    SEARCHING,
    TRUTHS,
    preprocessed_folder,
    proposed_trainers,
    trainer_for,
    with_absolute_paths,
)
from nnunet_iac.host.plans import (
    SECTION,
    configuration_of,
    dataset_number,
    read_dataset,
    read_plans,
    settings_of,
    write_new,
)
from nnunet_iac.host.preprocessed import preprocessed_cases
from nnunet_iac.runs.atomic import content_of, read_json, write_json
from nnunet_iac.runs.fold import EXPORTED_FROM, held_or_waited_for
from nnunet_iac.runs.splits import FOLDS, SPLITS
from nnunet_iac.search.patients import named, patient_of, shared_patients
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.search.settings import ADAPTED_BACKBONE_LR, Settings
from nnunet_iac.training.method import CONTINUE, IAC_DISCRETE, IAC_LTH
from nnunet_iac.training.setting_checks import with_defaults_of

NOT_MOVED = (SECTION, "inherits_from", "next_stage")
"""Keys of the source's configuration that name what the target's plans do not have."""

ADAPT = {"preset": "adapt"}
"""Settings of an adaptation, unless others are given."""


def prepare(
    source: SourceModel,
    target: Target,
    name: str,
    values: Mapping[str, Any],
    processes: int,
    log: Callable[[str], None],
) -> Path:
    """Prepare a target under a source's plans; return the file of the new plans.

    nnU-Net's own functions extract the fingerprint and preprocess, with the source's spacing,
    normalisation and intensity statistics. What is there already is kept, unless raw files have
    changed since.

    Args:
        source: the model.
        target: the data set.
        name: identifier of the new plans.
        values: settings besides `backbone_checkpoint`.
        processes: worker processes of nnU-Net's.
        log: gets notes on what differs.
    """
    for note in require_adaptable(source, target, name):
        log(note)
    require_same_labels(source.dataset, target.dataset)
    pattern = require_settings(source, target, name, values).patient_pattern
    folder = preprocessed_folder(target.name)
    path = folder / f"{name}.json"
    own = adapted_plans(source, target, name, values)
    plans = _joined(path, own)
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    _require_own_labels(folder, target)
    _require_own_data(data, path)
    _require_raw_cases(data, target)
    _require_separate_patients(target.splits, pattern)
    require_valid(target, processes)
    folder.mkdir(parents=True, exist_ok=True)
    with held_or_waited_for(FileLock(folder / "adapt.lock"), log):
        # Another process may have added a configuration meanwhile.
        _write(folder, source, target, name, _joined(path, own), processes, log)
        write_splits(folder, list(target.cases), pattern)
    if left_out := set(target.cases) - _split_cases(target):
        log(
            f"WARNING: {folder / SPLITS} does not name {named(left_out)}: to train on all cases "
            "add them, or remove the file and run the same command again"
        )
    return path


def _write(
    folder: Path,
    source: SourceModel,
    target: Target,
    name: str,
    plans: dict[str, Any],
    processes: int,
    log: Callable[[str], None],
) -> None:
    """Write what is missing of a preprocessed target, its plans and splits included."""
    number, path = dataset_number(target.name), folder / f"{name}.json"
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    if not (folder / "dataset_fingerprint.json").is_file():
        with _readable(target, OSError, RuntimeError):  # A full disk, and a worker that died.
            extract_fingerprint_dataset(number, num_processes=processes, verbose=False)
    known = folder / "dataset.json"  # nnU-Net reads from it which cases there are.
    if not known.is_file() or read_json(known) != target.dataset:
        write_json(known, target.dataset)
    if not path.exists() or read_json(path) != plans:
        write_json(path, plans)
    if not (folder / SPLITS).is_file() and target.splits.is_file():
        write_json(folder / SPLITS, read_json(target.splits))  # As nnU-Net's planning does.
    given = target.raw / SPLITS
    if given.is_file() and read_json(given) != read_json(folder / SPLITS):
        log(f"WARNING: the splits in {folder / SPLITS} count; those in {given} differ")
    if not _is_preprocessed(folder, data, target):
        _remove_outdated_truths(folder, target)
        with _readable(target, OSError, RuntimeError):
            preprocess_dataset(number, name, [source.configuration], [processes])


def require_valid(target: Target, processes: int) -> None:
    """Check a target's raw images and labels as nnU-Net does."""
    with _readable(target):
        verify_dataset_integrity(str(target.raw), processes)


@contextmanager
def _readable(target: Target, *others: type[Exception]) -> Iterator[None]:
    """Name the target in errors of nnU-Net's, whose readers of images have some of their own.

    Those of `others` have another cause.
    """
    try:
        yield
    except others:
        raise
    except Exception as error:
        raise ValueError(
            f"the target must be a valid raw data set of nnU-Net; {target.raw} is not ({error}): "
            "correct it"
        ) from error


def require_settings(
    source: SourceModel, target: Target, name: str, values: Mapping[str, Any]
) -> DataConfig:
    """Check settings, and that their pattern finds a patient in every case, before any work.

    Returns those of the data.
    """
    adapted_plans(source, target, name, values)
    data = Settings.from_mapping({**ADAPT, **values}).data
    for case in target.cases:
        patient_of(case, data.patient_pattern)
    return data


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


def adapted_plans(
    source: SourceModel, target: Target, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the source's plans moved to the target, with the settings of an adaptation.

    As nnU-Net's move_plans_between_datasets, which needs the source's preprocessed data.
    """
    plans = copy.deepcopy({**source.plans, "dataset_name": target.name, "plans_name": name})
    for key in ("source_plans", EXPORTED_FROM):
        plans.pop(key, None)
    config = {key: value for key, value in source.config.items() if key not in NOT_MOVED}
    before, own = source.plans["plans_name"], config["data_identifier"]
    suffix = own[len(before) :] if own.startswith(before) else f"_{own}"
    config["data_identifier"] = f"{name}{suffix}"
    if "backbone_checkpoint" in values:
        raise ValueError(
            "backbone_checkpoint is the source's, and is not to be set; got "
            f"{values['backbone_checkpoint']!r}: name the source with -s"
        )
    settings = {**ADAPT, **values, "backbone_checkpoint": str(source.checkpoint)}
    trainer_for(Settings.from_mapping(settings))  # Raises where none takes them.
    config[SECTION] = dict(Settings.from_mapping(with_absolute_paths(settings)).written)
    plans["configurations"] = {source.configuration: config}
    plans["image_reader_writer"] = reader_under(source.plans, target)
    return plans


def write_splits(folder: Path, cases: Sequence[str], pattern: str | None) -> None:
    """Write splits by patient where nnU-Net would make none, or put a patient on both sides.

    Up to four patients are each left out once; more make five folds. A single one is trained on
    and not held back. Where every case is a patient nnU-Net makes five folds of five or more. A
    file that is there is kept, but for that of a single patient where there are more now.
    """
    path = folder / SPLITS
    patients = sorted({patient_of(case, pattern) for case in cases})
    nnunet_splits = len(patients) == len(cases) >= FOLDS
    if path.exists() and not (_is_of_one(read_json(path), pattern) and len(patients) > 1):
        return
    if nnunet_splits:
        path.unlink(missing_ok=True)
    elif len(patients) > 1:
        write_json(path, patient_folds(sorted(cases), pattern, min(FOLDS, len(patients))))
    else:
        write_json(path, [{"train": sorted(cases), "val": []}])


def _is_of_one(splits: Any, pattern: str | None) -> bool:
    """Return whether splits are those that are written for a single patient."""
    if not isinstance(splits, list) or [fold.get("val") for fold in splits] != [[]]:
        return False
    return len({patient_of(case, pattern) for case in splits[0]["train"]}) == 1


def _require_separate_patients(path: Path, pattern: str | None) -> None:
    """Check that no fold of a file of splits, if there is one, has a patient on both sides."""
    if not path.is_file():
        return
    with content_of(path):
        for fold in read_json(path):
            if shared := shared_patients(fold["train"], fold["val"], pattern):
                raise ValueError(
                    f"a patient must not be on both sides of a fold; {shared[0]} is, in {path}: "
                    "correct it, or remove it and run the same command again"
                )


def _require_own_data(data: Path, plans: Path) -> None:
    """Refuse preprocessed data without plans, since their spacing is unknown."""
    if not plans.exists() and data.is_dir() and any(data.iterdir()):
        raise ValueError(
            f"preprocessed data must be those of their plans; {data} has some, and {plans} does "
            "not exist: remove that folder, or choose another identifier with -o"
        )


def _joined(path: Path, plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans with what else a file of theirs has: configurations adapted earlier.

    Any other content is a ValueError, since nothing is overwritten.
    """
    new = json.loads(json.dumps(plans))
    if not path.exists():
        return dict(new)
    known = read_plans(path)
    joined = {**new, "configurations": {**known["configurations"], **new["configurations"]}}
    added = joined["configurations"].keys() - known["configurations"].keys()
    before = {k: c for k, c in joined["configurations"].items() if k not in added}
    if {**joined, "configurations": before} != known:
        began, own = (
            {c.get(SECTION, {}).get("backbone_checkpoint") for name, c in each if name not in added}
            for each in (known["configurations"].items(), new["configurations"].items())
        )
        if own - began and began - {None}:
            raise ValueError(
                f"plans are of one model and fold; {path} adapts {min(began - {None})}, not "
                f"{min(own)}: name the former with -s and -f, or choose another identifier with -o"
            )
        write_new(path, plans)  # Raises.
    return joined


def _require_raw_cases(data: Path, target: Target) -> None:
    """Check that what is preprocessed or split are cases of the raw data, none of them removed."""
    for path, cases in ((data, preprocessed_cases(data)), (target.splits, _split_cases(target))):
        if gone := set(cases) - set(target.cases):
            raise ValueError(
                f"all cases must be among the raw data; {path} has {named(gone)}, which "
                f"{target.raw} has not: remove {path}, or bring the case back"
            )


def _split_cases(target: Target) -> set[str]:
    """Return the cases that splits name; all of the target where there are no splits yet."""
    splits = target.splits
    if not splits.is_file():
        return set(target.cases)
    with content_of(splits):
        return {case for fold in read_json(splits) for side in fold.values() for case in side}


def _is_preprocessed(folder: Path, data: Path, target: Target) -> bool:
    """Return whether all cases were preprocessed after their raw files were changed last."""
    ending, there = target.dataset["file_ending"], set(preprocessed_cases(data))
    for case, files in target.cases.items():
        made, truth = data / f"{case}.pkl", folder / TRUTHS / f"{case}{ending}"
        if case not in there or not made.is_file() or not truth.is_file():
            return False
        given = [Path(name) for name in (*files["images"], files["label"])]
        spacings = {path.with_name(f"{case}.json") for path in given}  # Those of .tif.
        given += [path for path in spacings if path.is_file()]
        if changed(made) < max(map(changed, given)):
            return False
        if not _is_copy(truth, Path(files["label"])):
            return False
    return True


def _remove_outdated_truths(folder: Path, target: Target) -> None:
    """Remove copies of labels that have changed since: nnU-Net may keep them, by their times."""
    for case, files in target.cases.items():
        truth = folder / TRUTHS / f"{case}{target.dataset['file_ending']}"
        if truth.is_file() and not _is_copy(truth, Path(files["label"])):
            truth.unlink()


def _is_copy(truth: Path, label: Path) -> bool:
    """Return whether nnU-Net has copied a label since it was changed, all of it.

    It copies the label last, with the whole seconds of its time.
    """
    is_whole = truth.stat().st_size == label.stat().st_size
    return is_whole and int(changed(truth)) >= int(changed(label))


def _require_own_labels(folder: Path, target: Target) -> None:
    """Check that preprocessed data of the target, if there are any, have its raw data's labels."""
    path = folder / "dataset.json"
    if path.is_file() and read_dataset(path)["labels"] != target.dataset["labels"]:
        raise ValueError(
            f"the labels in {path} must be those of the raw data; they differ: preprocess the "
            "data set again, or remove that folder"
        )
