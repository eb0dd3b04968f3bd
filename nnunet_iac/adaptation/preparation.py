"""A target prepared under the plans of a source model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    preprocess_dataset,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunet_iac.adaptation.adapted_plans import adapted_plans, joined_plans, require_settings
from nnunet_iac.adaptation.labels import require_same_labels
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.adaptation.target import Target, changed, require_adaptable
from nnunet_iac.adaptation.target_splits import (
    require_separate_patients,
    split_cases,
    take_over_splits,
    write_splits,
)
from nnunet_iac.host.planning import TRUTHS, preprocessed_folder
from nnunet_iac.host.plans import dataset_number, read_dataset
from nnunet_iac.host.preprocessed import preprocessed_cases
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.fold import held_or_waited_for
from nnunet_iac.runs.splits import SPLITS
from nnunet_iac.search.patients import named


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
    plans = joined_plans(path, own)
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    _require_own_labels(folder, target)
    _require_own_data(data, path)
    _require_raw_cases(data, target)
    require_separate_patients(target.splits, pattern)
    require_valid(target, processes)
    folder.mkdir(parents=True, exist_ok=True)
    with held_or_waited_for(FileLock(folder / "adapt.lock"), log):
        # Another process may have added a configuration meanwhile.
        _write(folder, source, target, joined_plans(path, own), processes)
        take_over_splits(folder, target, log)
        write_splits(folder, list(target.cases), pattern)
    if left_out := set(target.cases) - split_cases(target):
        log(
            f"WARNING: {folder / SPLITS} does not name {named(left_out)}: to train on all cases "
            "add them, or remove the file and run the same command again"
        )
    return path


def _write(
    folder: Path, source: SourceModel, target: Target, plans: dict[str, Any], processes: int
) -> None:
    """Write what is missing of a target: fingerprint, labels' names, plans, preprocessed cases."""
    number, name = dataset_number(target.name), plans["plans_name"]
    path = folder / f"{name}.json"
    data = folder / plans["configurations"][source.configuration]["data_identifier"]
    if not (folder / "dataset_fingerprint.json").is_file():
        with _readable(target, OSError, RuntimeError):  # A full disk, and a worker that died.
            extract_fingerprint_dataset(number, num_processes=processes, verbose=False)
    known = folder / "dataset.json"  # nnU-Net reads from it which cases there are.
    if not known.is_file() or read_json(known) != target.dataset:
        write_json(known, target.dataset)
    if not path.exists() or read_json(path) != plans:
        write_json(path, plans)
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


def _require_own_data(data: Path, plans: Path) -> None:
    """Refuse preprocessed data without plans, since their spacing is unknown."""
    if not plans.exists() and data.is_dir() and any(data.iterdir()):
        raise ValueError(
            f"preprocessed data must be those of their plans; {data} has some, and {plans} does "
            "not exist: remove that folder, or choose another identifier with -o"
        )


def _require_raw_cases(data: Path, target: Target) -> None:
    """Check that what is preprocessed or split are cases of the raw data, none of them removed."""
    for path, cases in ((data, preprocessed_cases(data)), (target.splits, split_cases(target))):
        if gone := set(cases) - set(target.cases):
            raise ValueError(
                f"all cases must be among the raw data; {path} has {named(gone)}, which "
                f"{target.raw} has not: remove {path}, or bring the case back"
            )


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
