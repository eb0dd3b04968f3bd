"""Check the channels and labels of a target against a source model, and rename labels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from tqdm import tqdm

from nnunet_iac.host.plans import (
    IGNORE,
    channel_names,
    labels_without_ignore,
    predicted_labels,
)
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.splits import SPLITS

BACKGROUND = "background"

MAPPED_FROM = "mapped_from"
"""Key of a mapped data set's dataset.json: what it was made of, and how."""

MARK = "unfinished"
"""A file in a mapped data set whose labels are being written."""

Document = Mapping[str, Any]
"""A dataset.json."""


def require_same_channels(source: Document, target: Document) -> list[str]:
    """Check the channels of a target against the source's; return notes on other names.

    Raises:
        ValueError: another number, another order, or CT on one side only, which nnU-Net
            normalises in another way.
    """
    theirs, ours = map(channel_names, (source, target))
    lower = [[name.lower() for name in names] for names in (theirs, ours)]
    moved = any(
        name in lower[0] and lower[0][place : place + 1] != [name]
        for place, name in enumerate(lower[1])
    )
    differ = [pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]]
    is_ct = [[name == "ct" for name in names] for names in lower]
    if len(theirs) != len(ours) or moved or is_ct[0] != is_ct[1]:
        raise ValueError(
            "the target must have the source's channels in the same order; the source has "
            f"{', '.join(theirs)} and the target {', '.join(ours)}: correct the target's "
            "dataset.json and the numbers in its file names"
        )
    return [f"note: the channel {a} of the source is called {b} in the target" for a, b in differ]


def require_same_labels(source: Document, target: Document) -> None:
    """Check that a target has the source's labels: names, numbers, and the order of regions.

    Only the label `ignore` may be missing on either side.
    """
    if predicted_labels(source) != predicted_labels(target):
        theirs, ours = map(labels_without_ignore, (source, target))
        raise ValueError(
            "the target must have the source's labels, with the same names and numbers, and "
            f"regions in the same order; the source has {_text(theirs)} and the target "
            f"{_text(ours)}: rename them with --map TARGET=SOURCE and --mapped-dataset, or correct "
            "the target's dataset.json"
        )


def mapped_values(
    source: Document, target: Document, renamed: Mapping[str, str], absent: Sequence[str]
) -> dict[int, int]:
    """Return the source's number of every number in the target's label files.

    Args:
        source: dataset.json of the source, without regions.
        target: that of the target, without regions.
        renamed: names in the target and what the source calls them; `background` drops a label.
        absent: labels of the source that the target is known to lack.

    Raises:
        ValueError: regions, unknown names, or labels that stay without a counterpart.
    """
    theirs, ours = source["labels"], target["labels"]
    if any(isinstance(v, list) for v in (*theirs.values(), *ours.values())):
        raise ValueError(
            "only plain labels can be mapped, and one of the data sets has regions: convert the "
            "target's label files to the source's labels"
        )
    for kind, names, known in (
        ("target", renamed, ours),
        ("source", renamed.values(), theirs),
        ("source", absent, theirs),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"a mapping must name labels of the {kind}, {', '.join(known)}; got "
                f"{unknown[0]!r}: write --map TARGET=SOURCE, and --absent SOURCE for what the "
                "target lacks"
            )
    result = {}
    for name, value in ours.items():
        wanted = renamed.get(name, name)
        if wanted == IGNORE:
            result[int(value)] = int(theirs.get(IGNORE, max(map(int, theirs.values())) + 1))
        elif wanted in theirs:
            result[int(value)] = int(theirs[wanted])
        else:
            raise ValueError(
                f"every label of the target must be one of the source's, {', '.join(theirs)}; "
                f"{name!r} is none: add --map {name}=NAME, or --map {name}={BACKGROUND}"
            )
    found = {renamed.get(name, name) for name in ours}
    if present := [name for name in absent if name in found]:
        raise ValueError(
            f"--absent must name labels that the target lacks; it has {present[0]!r}: leave it "
            f"out, or drop the label with --map {present[0]}={BACKGROUND}"
        )
    missing = [name for name in theirs if name not in found and name not in (IGNORE, *absent)]
    if missing:
        raise ValueError(
            f"every label of the source must be in the target; {missing[0]!r} is not: map one to "
            f"it with --map NAME={missing[0]}, or, if the target's images show none of it, add "
            f"--absent {missing[0]}"
        )
    return result


def mapping_record(dataset: str, values: Mapping[int, int]) -> dict[str, Any]:
    """Return what is kept of a mapping beside its result: the data set, and its numbers."""
    return {"dataset": dataset, "numbers": {str(key): value for key, value in values.items()}}


def require_own_folder(folder: Path) -> None:
    """Check that a folder for a mapped data set holds nothing else."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there - {SPLITS} and not there & {"dataset.json", MARK}:
        raise ValueError(
            f"a mapped data set must get a folder of its own; {folder} has files and no "
            "dataset.json: choose another name with --mapped-dataset"
        )


def write_mapped_dataset(
    raw: Path, target: Document, source: Document, values: Mapping[int, int], folder: Path
) -> None:
    """Write a raw data set with the images of another and its labels under the source's numbers.

    All label files are checked before the first is written. `dataset.json`, which comes last and
    goes first, names the images where they are. The folder may be half written, which `MARK` shows,
    or be the result of the same mapping.
    """
    cases = get_filenames_of_train_images_and_targets(str(raw), dict(target))
    ending = target["file_ending"]
    first = next(iter(cases.values()))["images"][0]
    io = determine_reader_writer_from_dataset_json(dict(target), first, verbose=False)()
    largest = max(values) + 1
    table = np.full(largest, -1)
    for value, wanted in values.items():
        table[value] = wanted
    for files in tqdm(cases.values(), desc="checking labels"):
        unknown = set(np.unique(io.read_seg(files["label"])[0])) - set(values)
        if unknown:
            raise ValueError(
                f"a label file must hold labels of its dataset.json only; {files['label']} has "
                f"{min(unknown):g}: correct it"
            )
    listed = {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    (folder / "labelsTr").mkdir(exist_ok=True)
    (folder / "dataset.json").unlink(missing_ok=True)  # After a kill, nothing here is taken.
    for case, files in tqdm(cases.items(), desc="mapping labels"):
        segmentation, properties = io.read_seg(files["label"])
        label = folder / "labelsTr" / f"{case}{ending}"
        mapped = table[segmentation[0].astype(int)].astype(segmentation.dtype)
        io.write_seg(mapped, str(label), properties)
        images = [_listed(Path(image).absolute(), folder.absolute()) for image in files["images"]]
        listed[case] = {"images": images, "label": f"labelsTr/{label.name}"}
    labels = dict(source["labels"])
    kept = values.get(int(target["labels"].get(IGNORE, -1)))
    if kept not in (None, *map(int, labels.values())):  # Else dropped, or a label of the source.
        labels[IGNORE] = kept
    document = {**target, "labels": labels, "numTraining": len(listed), "dataset": listed}
    document[MAPPED_FROM] = mapping_record(raw.name, values)
    write_json(folder / "dataset.json", document)
    (folder / MARK).unlink()


def _listed(image: Path, folder: Path) -> str:
    """Return an image as dataset.json names it: relative if it moves with nnU-Net's raw data."""
    return os.path.relpath(image, folder) if image.is_relative_to(folder.parent) else str(image)


def _text(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())
