"""A target data set, prepared under the plans of a source model."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_iac.adaptation.labels import (
    mapped_values,
    require_same_channels,
    require_same_labels,
    write_mapped_dataset,
)
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.host.folders import raw_folder
from nnunet_iac.host.planning import TRUTHS, preprocessed_folder
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.plans import (
    SECTION,
    dataset_number,
    require_dataset_name,
    require_identifier,
    write_new,
)
from nnunet_iac.runs.splits import FOLDS, SPLITS
from nnunet_iac.search.patients import patient_of
from nnunet_iac.search.settings import Settings

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

    @property
    def cases(self) -> dict[str, Any]:
        """Image and label files of every training case."""
        found: dict[str, Any] = get_filenames_of_train_images_and_targets(
            str(self.raw), copy.deepcopy(self.dataset)
        )
        return found

    @classmethod
    def of(cls, dataset: str) -> "Target":
        """Return a raw data set, given by id or name, that has at least one training case."""
        name = preprocessed_folder(dataset).name
        require_dataset_name(name)
        found = cls(name, read_json(raw_folder(name) / "dataset.json"))
        for key, kind in {"channel_names": dict, "labels": dict, "file_ending": str}.items():
            if not isinstance(found.dataset.get(key), kind):
                raise ValueError(
                    f"{key} must be given in {found.raw}/dataset.json; got "
                    f"{found.dataset.get(key)!r}: correct it"
                )
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
    """Return a new raw data set with the target's images and its labels as the source has them."""
    values = mapped_values(source.dataset, target.dataset, renamed, absent)
    require_dataset_name(name)
    folder = target.raw.with_name(name)
    others = [
        path.name for path in folder.parent.glob(f"{name.split('_')[0]}_*") if path.name != name
    ]
    if others:
        raise ValueError(
            f"a data set's number must be its own; {others[0]} has that of {name}: choose another "
            "with --mapped-dataset"
        )
    if (folder / "dataset.json").is_file():
        found = Target.of(name)
        require_same_labels(source.dataset, found.dataset)
        if set(found.cases) != set(target.cases):
            raise ValueError(
                f"{folder} exists with other cases and is not overwritten; choose another name "
                "with --mapped-dataset, or remove the folder"
            )
        return found
    write_mapped_dataset(target.raw, target.dataset, source.dataset, values, folder)
    return Target.of(name)


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
    normalisation and intensity statistics. What is there already is kept.

    Args:
        source: the model.
        target: the data set.
        name: identifier of the new plans.
        values: settings besides `backbone_checkpoint`.
        processes: worker processes of nnU-Net's.
        log: gets notes on what differs.
    """
    if target.name == source.plans.get("dataset_name"):
        raise ValueError(
            f"source and target must be different data sets; both are {target.name}: for cells on "
            "a model's own data write plans with nnunet-iac plan"
        )
    require_identifier(name)
    for note in require_same_channels(source.dataset, target.dataset):
        log(note)
    require_same_labels(source.dataset, target.dataset)
    source.read()
    plans = adapted_plans(source, target, name, values)
    folder = preprocessed_folder(target.name)
    path = folder / f"{name}.json"
    if path.exists() and read_json(path) != json.loads(json.dumps(plans)):
        write_new(path, plans)  # Raises: nothing is overwritten, and found before long work.
    _require_own_labels(folder, target)
    number = dataset_number(target.name)
    try:
        verify_dataset_integrity(str(target.raw), processes)
    except AssertionError as error:
        raise ValueError(
            f"the target must be a valid raw data set of nnU-Net; {target.raw} is not ({error}): "
            "correct it"
        ) from error
    if not (folder / "dataset_fingerprint.json").is_file():
        extract_fingerprint_dataset(number, num_processes=processes, verbose=False)
    if not (folder / "dataset.json").is_file():
        write_json(folder / "dataset.json", target.dataset)
    write_new(path, plans)
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    truths = {path.name for path in (folder / TRUTHS).glob("*")}
    ending, there = target.dataset["file_ending"], set(_preprocessed(data))
    if any(case not in there or f"{case}{ending}" not in truths for case in target.cases):
        preprocess_dataset(number, name, [source.configuration], [processes])
    write_splits(folder, list(target.cases), Settings.from_mapping(values).data.patient_pattern)
    return path


def next_commands(path: Path, source: SourceModel, target: Target) -> list[str]:
    """Return how to adapt, and how to train the control."""
    fold = "0" if (path.parent / SPLITS).is_file() or len(target.cases) >= FOLDS else "all"
    train = f"nnUNetv2_train {dataset_number(target.name)} {source.configuration} {fold}"
    return [
        f"next: {train} -tr nnUNetTrainerIACLTH -p {path.stem}",
        f"control: {train} -tr nnUNetTrainerContinue -p {path.stem}",
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
    checkpoint = {"backbone_checkpoint": str(source.checkpoint)}
    settings = {"preset": "adapt", **values, **checkpoint}
    config[SECTION] = dict(Settings.from_mapping(settings).written)
    plans["configurations"] = {source.configuration: config}
    example = next(iter(target.cases.values()))["images"][0]
    io = determine_reader_writer_from_dataset_json(target.dataset, example, True, False)
    plans["image_reader_writer"] = io.__name__
    return plans


def write_splits(folder: Path, cases: Sequence[str], pattern: str | None) -> None:
    """Write splits for a target of two to four patients, each left out once.

    nnU-Net makes its own five folds of more cases, and one case has no split. A file that is there
    is kept.
    """
    path = folder / SPLITS
    patients = sorted({patient_of(case, pattern) for case in cases})
    if path.exists() or len(patients) < 2 or len(cases) >= FOLDS:
        return
    folds = [
        {
            "train": [case for case in sorted(cases) if patient_of(case, pattern) != out],
            "val": [case for case in sorted(cases) if patient_of(case, pattern) == out],
        }
        for out in patients
    ]
    write_json(path, folds)


def _preprocessed(data: Path) -> Sequence[str]:
    if not data.is_dir() or not any(data.iterdir()):
        return ()
    found: Sequence[str] = infer_dataset_class(str(data)).get_identifiers(str(data))
    return found


def _require_own_labels(folder: Path, target: Target) -> None:
    """Check that preprocessed data of the target, if there are any, have its raw data's labels."""
    path = folder / "dataset.json"
    if path.is_file() and read_json(path).get("labels") != target.dataset["labels"]:
        raise ValueError(
            f"the labels in {path} must be those of the raw data; they differ: preprocess the "
            "data set again, or remove that folder"
        )
