"""A target data set, prepared under the plans of a source model."""

import copy
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_iac.adaptation.labels import (
    MAPPED_FROM,
    mapped_values,
    mapping_record,
    require_same_channels,
    require_same_labels,
    write_mapped_dataset,
)
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.host.folders import raw_folder
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    DISCRETE_TRAINER,
    TRUTHS,
    preprocessed_folder,
    trainer_for,
    with_absolute_paths,
)
from nnunet_iac.host.plans import (
    SECTION,
    configuration_of,
    dataset_number,
    read_dataset,
    read_plans,
    require_dataset_name,
    require_identifier,
    settings_of,
    write_new,
)
from nnunet_iac.runs.atomic import content_of, read_json, write_json
from nnunet_iac.runs.checkpoint import read_checkpoint
from nnunet_iac.runs.splits import FOLDS, SPLITS
from nnunet_iac.search.patients import named, patient_of
from nnunet_iac.search.setting_parts import ControlPart, DataConfig
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.backbone import Fold, leakage

WITHOUT_SPACING = NaturalImage2DIO.__name__
"""nnU-Net's class that reads images whose spacing is that of pixels."""

NOT_MOVED = (SECTION, "inherits_from", "next_stage")
"""Keys of the source's configuration that name what the target's plans do not have."""


@dataclass(frozen=True)
class Target:
    """A raw data set whose channels and labels fit a source."""

    name: str
    dataset: dict[str, Any]

    @property
    def raw(self) -> Path:
        """The folder of the raw data."""
        return raw_folder(self.name)

    @cached_property
    def cases(self) -> dict[str, Any]:
        """Image and label files of every training case."""
        found: dict[str, Any] = get_filenames_of_train_images_and_targets(
            str(self.raw), copy.deepcopy(self.dataset)
        )
        return found

    @property
    def reader(self) -> str:
        """The name of nnU-Net's class that reads the images."""
        example = next(iter(self.cases.values()))["images"][0]
        found = determine_reader_writer_from_dataset_json(self.dataset, example, True, False)
        name: str = found.__name__
        return name

    @classmethod
    def of(cls, dataset: str) -> "Target":
        """Return a raw data set, given by id or name, that has at least one training case."""
        name = preprocessed_folder(dataset).name
        require_dataset_name(name)
        found = cls(name, read_dataset(raw_folder(name) / "dataset.json"))
        if not found.cases:
            raise ValueError(
                f"a target must have at least one training case; {found.raw}/imagesTr has none: "
                "add a case with its label"
            )
        return found


def mapped_target(
    source: SourceModel,
    target: Target,
    name: str,
    renamed: Mapping[str, str],
    absent: Sequence[str],
) -> Target:
    """Return a new raw data set with the target's images and its labels as the source has them.

    One that exists is kept, and written again where a label file of the target has changed since.

    Raises:
        ValueError: no such mapping; or the data set exists with other cases or another mapping.
    """
    values = mapped_values(source.dataset, target.dataset, renamed, absent)
    require_dataset_name(name)
    folder = target.raw.with_name(name)
    its, other = f"{name.partition('_')[0]}_", source.plans["dataset_name"]
    known = {*map(str, find_candidate_datasets(dataset_number(name)))} - {name} | {other}
    others = sorted(one for one in known if one.startswith(its))
    if others:
        raise ValueError(
            f"a data set's number must be its own; {others[0]} has that of {name}: choose another "
            "with --mapped-dataset"
        )
    if (folder / "dataset.json").is_file():
        found = Target.of(name)
        mapped = found.dataset.get(MAPPED_FROM)
        if mapped != mapping_record(target.name, values) or {*found.cases} != {*target.cases}:
            raise ValueError(
                f"{folder} exists with other cases, or mapped otherwise, and is not overwritten; "
                "choose another name with --mapped-dataset, or remove the folder"
            )
        labels = {case: Path(files["label"]) for case, files in found.cases.items()}
        if all(_changed(labels[case]) >= _changed(t["label"]) for case, t in target.cases.items()):
            return found
    write_mapped_dataset(target.raw, target.dataset, source.dataset, values, folder)
    return Target.of(name)


def require_adaptable(source: SourceModel, target: Target, name: str) -> list[str]:
    """Check all but labels and patients before any work; return notes on what differs.

    `name` is the identifier of the new plans.
    """
    if target.name == source.plans.get("dataset_name"):
        raise ValueError(
            f"source and target must be different data sets; both are {target.name}: for cells on "
            "a model's own data write plans with nnunet-iac plan"
        )
    require_identifier(name)
    notes = require_same_channels(source.dataset, target.dataset)
    readers = [source.plans.get("image_reader_writer"), target.reader]
    if len({reader == WITHOUT_SPACING for reader in readers}) > 1:
        raise ValueError(
            "the images of source and target must both have a spacing in mm, or neither; the "
            f"source's are read by {readers[0]} and the target's by {readers[1]}: convert the "
            "target's files"
        )
    endings = [d["file_ending"] for d in (source.dataset, target.dataset)]
    if endings[0] != endings[1]:
        notes.append(
            f"note: images of the target end with {endings[1]}; to be predicted with an adapter "
            f"of the source they must end with {endings[0]}"
        )
    source.read()
    return notes


def require_other_patients(source: SourceModel, target: Target, data: DataConfig) -> None:
    """Check that the source was not trained on patients that the target is scored on.

    Those are the validation cases of the target's splits, or all where there are none yet. The
    source's splits must be at hand for that.
    """
    splits = _splits(target)
    folds = read_json(splits) if splits.is_file() else [{"val": list(target.cases)}]
    with content_of(splits):
        cases = sorted({case for fold in folds for case in fold.get("val", ())})
    init = read_checkpoint(source.checkpoint)["init_args"]
    wanted = Fold(target.name, source.configuration, "all", cases)
    beside = preprocessed_folder(target.name) / SPLITS
    reason = leakage(source.checkpoint, init, wanted, beside, data.patient_pattern)
    if reason is not None and not data.allow_leakage:
        raise ValueError(
            "the source must not have seen the patients that the target is scored on; "
            f"{source.checkpoint} {reason}: take that patient out of the target, or set "
            "allow_leakage=true, which every record then shows"
        )


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
    pattern = Settings.from_mapping(values).data.patient_pattern
    for case in target.cases:
        patient_of(case, pattern)  # Raises where the pattern does not match, before long work.
    folder = preprocessed_folder(target.name)
    path = folder / f"{name}.json"
    plans = _joined(path, adapted_plans(source, target, name, values))
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    _require_own_labels(folder, target)
    _require_own_data(data, path)
    _require_raw_cases(data, target)
    number = dataset_number(target.name)
    try:
        verify_dataset_integrity(str(target.raw), processes)
    except (AssertionError, RuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"the target must be a valid raw data set of nnU-Net; {target.raw} is not ({error}): "
            "correct it"
        ) from error
    if not (folder / "dataset_fingerprint.json").is_file():
        extract_fingerprint_dataset(number, num_processes=processes, verbose=False)
    known = folder / "dataset.json"  # nnU-Net reads from it which cases there are.
    if not known.is_file() or read_json(known) != target.dataset:
        write_json(known, target.dataset)
    if not path.exists() or read_json(path) != plans:
        write_json(path, plans)
    if not (folder / SPLITS).is_file() and _splits(target).is_file():
        write_json(folder / SPLITS, read_json(_splits(target)))  # As nnU-Net's planning does.
    if not _is_preprocessed(folder, data, target):
        preprocess_dataset(number, name, [source.configuration], [processes])
    write_splits(folder, list(target.cases), pattern)
    if left_out := set(target.cases) - _split_cases(target):
        log(
            f"WARNING: {folder / SPLITS} does not name {named(left_out)}: to train on all cases "
            "add them, or remove the file and run the same command again"
        )
    return path


def next_commands(path: Path, source: SourceModel, target: Target) -> list[str]:
    """Return how to adapt, and how to train the control for as many epochs."""
    settings = settings_of(configuration_of(read_plans(path), source.configuration))
    patients = {patient_of(case, settings.data.patient_pattern) for case in target.cases}
    fold = "0" if (path.parent / SPLITS).is_file() or len(patients) >= FOLDS else "all"
    number, config = str(dataset_number(target.name)), source.configuration
    own, control = path.stem, f"{path.stem}_control"
    trainer, epochs = trainer_for(settings), settings.schedule.finetune_epochs
    train = ["nnUNetv2_train", number, config, fold, "-tr"]
    lines = [f"next: {shlex.join([*train, trainer, '-p', own])}"]
    if trainer == CONTINUE_TRAINER:
        return lines
    epochs += 0 if trainer == DISCRETE_TRAINER else settings.latest_end
    plan = ["nnunet-iac", "plan", "-d", number, "-c", config, "-p", own, "-o", control, "--set"]
    changes = [f"finetune_epochs={epochs}"]
    if settings.cell.trainable_part not in (None, *get_args(ControlPart)):
        changes.append("trainable_part=network")
    return [
        *lines,
        f"control: {shlex.join([*plan, *changes])}",
        f"then: {shlex.join([*train, CONTINUE_TRAINER, '-p', control])}",
    ]


def adapted_plans(
    source: SourceModel, target: Target, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the source's plans moved to the target, with the settings of an adaptation.

    As nnU-Net's move_plans_between_datasets, which needs the source's preprocessed data.
    """
    plans = copy.deepcopy({**source.plans, "dataset_name": target.name, "plans_name": name})
    plans.pop("source_plans", None)
    config = {key: value for key, value in source.config.items() if key not in NOT_MOVED}
    before, own = source.plans["plans_name"], config["data_identifier"]
    suffix = own[len(before) :] if own.startswith(before) else f"_{own}"
    config["data_identifier"] = f"{name}{suffix}"
    if "backbone_checkpoint" in values:
        raise ValueError(
            "backbone_checkpoint is the source's, and is not to be set; got "
            f"{values['backbone_checkpoint']!r}: name the source with -s"
        )
    settings = {"preset": "adapt", **values, "backbone_checkpoint": str(source.checkpoint)}
    Settings.from_mapping(settings)
    config[SECTION] = dict(Settings.from_mapping(with_absolute_paths(settings)).written)
    plans["configurations"] = {source.configuration: config}
    plans["image_reader_writer"] = target.reader
    return plans


def write_splits(folder: Path, cases: Sequence[str], pattern: str | None) -> None:
    """Write splits by patient where nnU-Net would make none, or put a patient on both sides.

    Up to four patients are each left out once, more are dealt to five folds. Where every case is a
    patient nnU-Net makes five folds of five or more, and one patient cannot be split. A file that
    is there is kept.
    """
    path = folder / SPLITS
    patients = sorted({patient_of(case, pattern) for case in cases})
    nnunet_splits = len(patients) == len(cases) >= FOLDS
    if path.exists() or len(patients) < 2 or nnunet_splits:
        return
    count = min(FOLDS, len(patients))
    parts = [patients[number::count] for number in range(count)]
    folds = [
        {
            "train": [case for case in sorted(cases) if patient_of(case, pattern) not in out],
            "val": [case for case in sorted(cases) if patient_of(case, pattern) in out],
        }
        for out in parts
    ]
    write_json(path, folds)


def _preprocessed(data: Path) -> Sequence[str]:
    if not data.is_dir() or not any(data.iterdir()):
        return ()
    found: Sequence[str] = infer_dataset_class(str(data)).get_identifiers(str(data))
    return found


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
        write_new(path, plans)  # Raises.
    return joined


def _require_raw_cases(data: Path, target: Target) -> None:
    """Check that what is preprocessed or split are cases of the raw data, none of them removed."""
    for path, cases in ((data, _preprocessed(data)), (_splits(target), _split_cases(target))):
        if gone := set(cases) - set(target.cases):
            raise ValueError(
                f"all cases must be among the raw data; {path} has {named(gone)}, which "
                f"{target.raw} has not: remove {path}, or bring the case back"
            )


def _splits(target: Target) -> Path:
    """Return the file of a target's splits: beside its preprocessed data, else its raw ones."""
    own = preprocessed_folder(target.name) / SPLITS
    return own if own.is_file() else target.raw / SPLITS


def _split_cases(target: Target) -> set[str]:
    """Return the cases that splits name; all of the target where there are no splits yet."""
    splits = _splits(target)
    if not splits.is_file():
        return set(target.cases)
    with content_of(splits):
        return {case for fold in read_json(splits) for side in fold.values() for case in side}


def _is_preprocessed(folder: Path, data: Path, target: Target) -> bool:
    """Return whether all cases were preprocessed after their raw files were changed last."""
    ending, there = target.dataset["file_ending"], set(_preprocessed(data))
    for case, files in target.cases.items():
        made, truth = data / f"{case}.pkl", folder / TRUTHS / f"{case}{ending}"
        if case not in there or not made.is_file() or not truth.is_file():
            return False
        if _changed(made) < max(map(_changed, (*files["images"], files["label"]))):
            return False
        # nnU-Net copies a label last, with the whole seconds of its time.
        if int(_changed(truth)) < int(_changed(files["label"])):
            return False
    return True


def _changed(path: str | Path) -> float:
    """Return when a file was changed last."""
    return Path(path).stat().st_mtime


def _require_own_labels(folder: Path, target: Target) -> None:
    """Check that preprocessed data of the target, if there are any, have its raw data's labels."""
    path = folder / "dataset.json"
    if path.is_file() and read_dataset(path)["labels"] != target.dataset["labels"]:
        raise ValueError(
            f"the labels in {path} must be those of the raw data; they differ: preprocess the "
            "data set again, or remove that folder"
        )
