"""A target: a raw data set, and whether it fits a source model."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_iac.adaptation.labels import (
    MAPPED_FROM,
    mapped_values,
    mapping_record,
    require_own_folder,
    require_same_channels,
    write_mapped_dataset,
)
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.host.folders import raw_folder
from nnunet_iac.host.planning import CONTINUE_TRAINER, preprocessed_folder, spelled
from nnunet_iac.host.plans import (
    dataset_number,
    read_dataset,
    require_dataset_name,
    require_identifier,
)
from nnunet_iac.host.preprocessed import require_preprocessor
from nnunet_iac.runs.atomic import content_of, read_json, write_json
from nnunet_iac.runs.checkpoint import read_checkpoint
from nnunet_iac.runs.splits import SPLITS
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.backbone import (
    Fold,
    inherited_leakage,
    leakage,
    starts_of,
    trained_cases,
)

WITHOUT_SPACING = NaturalImage2DIO.__name__
"""nnU-Net's class that reads images whose spacing is that of pixels."""

REORIENTING = NibabelIOWithReorient.__name__
"""That which turns images to one orientation."""


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
        if "dataset" not in self.dataset and not (self.raw / "imagesTr").is_dir():
            return {}
        with content_of(self.raw / "dataset.json"):
            found: dict[str, Any] = get_filenames_of_train_images_and_targets(
                str(self.raw), copy.deepcopy(self.dataset)
            )
        return found

    @property
    def splits(self) -> Path:
        """The file of its splits: beside its preprocessed data, else its raw ones."""
        own = preprocessed_folder(self.name) / SPLITS
        return own if own.is_file() else self.raw / SPLITS

    @property
    def reader(self) -> str:
        """The name of nnU-Net's class that reads the images."""
        example = next(iter(self.cases.values()))["images"][0]
        try:
            with redirect_stderr(StringIO()):  # nnU-Net prints a traceback of every reader's error.
                found = determine_reader_writer_from_dataset_json(
                    self.dataset, example, verbose=False
                )
        except RuntimeError as error:
            raise ValueError(
                f"images must be readable by nnU-Net; {example} is not ({error}): correct or "
                "restore it"
            ) from error
        name: str = found.__name__
        return name

    @classmethod
    def of(cls, dataset: str) -> "Target":
        """Return a raw data set, given by id or name, that has at least one training case."""
        name = preprocessed_folder(dataset).name
        require_dataset_name(name)
        if spelled(name) == name:
            raise ValueError(
                f"a target's number must be its own; {name} shares it with another data set in "
                "nnU-Net's folders: give one of them another number"
            )
        found = cls(name, read_dataset(raw_folder(name) / "dataset.json"))
        if not found.cases:
            raise ValueError(
                f"a target must have at least one training case; {found.raw}/imagesTr has none: "
                "add a case with its label"
            )
        if unnumbered := [case for case, files in found.cases.items() if not files["images"]]:
            raise ValueError(
                "images must be called CASE_0000, CASE_0001 and so on, a number per channel; "
                f"{found.raw}/imagesTr has none of the case {unnumbered[0]!r}: rename its files"
            )
        return found


def reader_under(plans: Mapping[str, Any], target: Target) -> str:
    """Return nnU-Net's class that reads a target under plans: theirs, if it reads such files."""
    name: str | None = plans.get("image_reader_writer")
    if name is None:
        return target.reader
    reader = recursive_find_reader_writer_by_name(name)
    return name if target.dataset["file_ending"] in reader.supported_file_endings else target.reader


def mapped_target(
    source: SourceModel,
    target: Target,
    name: str,
    renamed: Mapping[str, str],
    absent: Sequence[str],
) -> Target:
    """Return a new raw data set with the target's images and its labels as the source has them.

    The target's splits come with it. A data set that exists is kept, and written again where cases
    of the target were added, their label files have changed since or their images were moved.

    Raises:
        ValueError: no such mapping; or the data set exists with more cases or another mapping.
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
        if mapped != mapping_record(target.name, values) or not {*found.cases} <= {*target.cases}:
            raise ValueError(
                f"{folder} exists with other cases, or mapped otherwise, and is not overwritten; "
                "choose another name with --mapped-dataset, or remove the folder"
            )
        if found.cases.keys() == target.cases.keys() and all(
            changed(files["label"]) >= changed(target.cases[case]["label"])
            and _absolute(files["images"]) == _absolute(target.cases[case]["images"])
            for case, files in found.cases.items()
        ):
            return found
    require_own_folder(folder)
    if target.splits.is_file():
        write_json(folder / SPLITS, read_json(target.splits))
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
    readers = [readers[0], reader_under(source.plans, target)]
    if len({reader == REORIENTING for reader in readers}) > 1:
        raise ValueError(
            "the images of source and target must both be turned to one orientation as they are "
            f"read, or neither; the source's are read by {readers[0]} and the target's by "
            f"{readers[1]}: convert the target's files to those of the source"
        )
    endings = [d["file_ending"] for d in (source.dataset, target.dataset)]
    if endings[0] != endings[1]:
        notes.append(
            f"note: images of the target end with {endings[1]}; to be predicted with an adapter "
            f"of the source they must end with {endings[0]}"
        )
    config = PlansManager(source.plans).get_configuration(source.configuration)
    require_preprocessor(config)
    source.read()
    return notes


def require_other_patients(
    source: SourceModel, target: Target, data: DataConfig, scored: Sequence[str] | None = None
) -> list[str]:
    """Check that the source was not trained on patients that the target is scored on.

    By default `scored` are the validation cases of the target's splits, or all cases where there
    are none yet. The source's splits, or the validations of its folds, must be at hand for that;
    else a note is returned.
    """
    splits = target.splits
    if scored is None:
        folds = read_json(splits) if splits.is_file() else [{"val": list(target.cases)}]
        with content_of(splits):
            scored = [case for fold in folds for case in fold.get("val", ())]
    cases = sorted({*scored})
    checkpoint = read_checkpoint(source.checkpoint)
    init, trainer = checkpoint["init_args"], checkpoint["trainer_name"]
    wanted = Fold(target.name, source.configuration, "all", cases)
    beside = preprocessed_folder(target.name) / SPLITS
    pattern = data.patient_pattern
    reason = leakage(source.checkpoint, init, wanted, beside, pattern)
    first = inherited_leakage(source.checkpoint, wanted, beside, pattern)
    starts = [(path, known) for _, path, known in starts_of(source.checkpoint)]
    if target.name not in [known["plans"].get("dataset_name") for _, known in starts if known]:
        reason = reason or first
    if reason is not None and not data.allow_leakage:
        raise ValueError(
            "the source must not have seen the patients that the target is scored on; "
            f"{source.checkpoint} {reason}: take that patient out of the target, or set "
            "allow_leakage=true, which every record then shows"
        )
    known = trained_cases(source.checkpoint, init, beside)
    notes = []
    if trainer.startswith(CONTINUE_TRAINER) and not starts:
        notes.append(
            f"note: the source was trained by {trainer} from a model that is not known on this "
            "machine, so that model's patients were not compared with the target's"
        )
    if first is not None:
        notes.append(
            f"note: the source {first}; a fold whose cases that network has seen is refused by the "
            "training unless allow_leakage=true"
        )
    notes += [
        f"note: the source was trained from {path}, whose own training cases are not known on this "
        "machine, so their patients were not compared with the target's"
        for path, made in starts
        if made is None or not trained_cases(path, made, beside)
    ]
    if not known:
        notes.append(
            "note: the cases that the source was trained on are not known on this machine, so its "
            "patients were not compared with the target's"
        )
    elif not (beside.parent.parent / source.plans["dataset_name"] / SPLITS).is_file():
        notes.append(
            f"note: training cases of the source that are known, from the validations of its "
            f"folds: {len(known)}; only their patients were compared with the target's"
        )
    return notes


def _absolute(images: Sequence[str]) -> list[Path]:
    return [Path(image).absolute() for image in images]


def changed(path: str | Path) -> float:
    """Return when a file's content was changed or came here last.

    Copies that keep the time of the content have come here since.
    """
    found = Path(path).stat()
    return max(found.st_mtime, found.st_ctime)
