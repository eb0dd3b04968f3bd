"""The backbone: where its checkpoint is found, and what it must fulfil."""

import os
import reprlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_iac.host.plans import (
    configuration_of,
    dataset_number,
    network_input,
    require_file_ending,
)
from nnunet_iac.runs.atomic import content_of, naming, read_json
from nnunet_iac.runs.checkpoint import BEST, FINAL, MIRRORING, read_checkpoint, tensors_hash
from nnunet_iac.runs.fold import fold_folders
from nnunet_iac.runs.folder import RunFolder, path_for_fold
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.runs.scores import VALIDATION_SUMMARY, read_summary
from nnunet_iac.search.patients import shared_patients
from nnunet_iac.search.setting_parts import DataConfig

CHECKPOINTS = (FINAL, BEST)
"""In the order they are tried; nnU-Net chooses its "best" on the cases on which we report."""

ORIGIN: dict[str, set[str]] = {
    "network_weights": set(),
    "trainer_name": set(),
    "init_args": {"plans", "configuration", "fold", "dataset_json"},
}
"""Entries that a backbone's checkpoint must have, and the keys inside."""


@dataclass(frozen=True)
class Fold:
    """The fold a backbone is wanted for, whose validation cases it must not be trained on."""

    dataset: str
    configuration: str
    number: int | str
    validation_cases: Sequence[str]


@dataclass(frozen=True)
class Backbone:
    """A backbone's checkpoint, read and checked.

    `mirroring` are the axes mirrored in its training and prediction; None, as in nnU-Net, for none.
    """

    path: Path
    trainer: str
    fold: int | str
    weights: dict[str, Tensor]
    leakage: str | None
    mirroring: tuple[int, ...] | None

    def log_lines(self) -> list[str]:
        """Return the lines that a run logs about its backbone."""
        lines = [f"Backbone: {self.path}"]
        if not validation_summary(self.path).is_file():
            lines.append(
                "WARNING: the backbone has no validation/summary.json, so only its fold "
                "number shows which cases it has not seen"
            )
        if self.leakage is not None:
            lines.append(f"WARNING: the backbone {self.leakage}")
        return lines

    def record(self, leakage: str | None = None) -> BackboneRecord:
        """Return what is recorded of the backbone before training.

        `leakage` is why the run may have seen validation cases otherwise.
        """
        return BackboneRecord(
            path=str(self.path),
            trainer=self.trainer,
            fold=self.fold,
            before=tensors_hash(self.weights),
            leakage="; ".join(filter(None, (self.leakage, leakage))) or None,
        )


def backbone_file(
    settings: DataConfig, sibling_trainer: str, plans: Sequence[str], fold: Fold, results: Path
) -> Path:
    """Return the checkpoint to freeze: the settings' own, or the sibling's final, then best.

    Identifiers of plans are tried in their order; `results` is the data set's folder in
    nnUNet_results. If there is none, the FileNotFoundError has the command that trains it.
    """
    if settings.backbone_checkpoint is not None:
        path = path_for_fold(settings.backbone_checkpoint, fold.number)
        if not path.is_file():
            of_data = f"-d {dataset_number(fold.dataset)} -c {fold.configuration}"
            raise FileNotFoundError(
                f"backbone_checkpoint must be an existing file; {path} does not exist: put it "
                f"back, or write plans that name where it is now with\n  nnunet-iac plan {of_data} "
                f"-p {plans[0]} -o NEW_ID --set backbone_checkpoint=FILE"
            )
        return path
    trainer = settings.backbone_trainer or sibling_trainer
    identifiers = [settings.backbone_plans] if settings.backbone_plans else plans
    candidates = [
        results / f"{trainer}__{name}__{fold.configuration}" / f"fold_{fold.number}" / checkpoint
        for name in identifiers
        for checkpoint in CHECKPOINTS
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = "\n".join(f"  {candidate}" for candidate in candidates)
    raise FileNotFoundError(
        "a trained backbone must exist before a retrofit or its control can start; none was found "
        f"at\n{looked}\ntrain it with\n  {training_command(trainer, identifiers[-1], fold)}\n"
        "or name one with the settings backbone_trainer, backbone_plans or backbone_checkpoint"
    )


def training_command(trainer: str, plans: str, fold: Fold) -> str:
    """Return the command that trains a backbone for a fold."""
    what = dataset_number(fold.dataset), fold.configuration, fold.number
    words = ["nnUNetv2_train", *map(str, what)]
    words += [] if trainer == "nnUNetTrainer" else ["-tr", trainer]
    words += [] if plans == "nnUNetPlans" else ["-p", plans]
    return shlex.join(words)


def read_backbone(
    path: Path,
    network: nn.Module,
    plans: Mapping[str, Any],
    fold: Fold,
    settings: DataConfig,
    splits: Path,
) -> Backbone:
    """Return the checkpoint at `path` after checking that it fits and has not seen too much.

    `network` is that of the plans; `splits`, the data set's file, may be absent. An unfit
    checkpoint is a ValueError.
    """
    checkpoint = read_checkpoint(path)
    for key, inner in ORIGIN.items():
        found = checkpoint.get(key)
        if not isinstance(found, str if key == "trainer_name" else dict) or inner - set(found):
            raise ValueError(
                f"the backbone {path} must be an nnU-Net checkpoint with {key} in it; got "
                f"{reprlib.repr(found)}: train it again or name another"
            )
    weights, init = checkpoint["network_weights"], checkpoint["init_args"]
    axes = checkpoint.get(MIRRORING)
    if axes is not None and not (
        isinstance(axes, list | tuple) and all(isinstance(axis, Integral) for axis in axes)
    ):
        raise ValueError(
            f"{MIRRORING} of a backbone must be axes, or None; {path} has {reprlib.repr(axes)}: "
            "train it again or name another"
        )
    for key, tensor in weights.items():
        if not isinstance(tensor, Tensor) or not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"the backbone's weights must be finite numbers; {key} in {path} is not: train it "
                "again or name another"
            )
    require_same_network(weights, network.state_dict(), path)
    with naming(path):
        require_file_ending(init["dataset_json"].get("file_ending"))
    require_same_input(init, plans, fold.configuration, path)
    pattern = settings.patient_pattern
    reason = leakage(path, init, fold, splits, pattern)
    reason = reason or inherited_leakage(path, fold, splits, pattern)
    # A fold "all" holds no case out, and its user knows; everyone else must have asked for it.
    if reason is not None and fold.number != "all" and not settings.allow_leakage:
        raise ValueError(
            f"the backbone must not have seen this fold's validation cases; {path} {reason}: use "
            f"the backbone of fold {fold.number}, or set allow_leakage=true, which every record "
            "then shows"
        )
    mirroring = tuple(map(int, axes)) if axes else None
    return Backbone(path, checkpoint["trainer_name"], init["fold"], weights, reason, mirroring)


def require_same_network(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> None:
    """Check that a checkpoint has exactly a network's keys, shapes and types of numbers."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        shapes = [tuple(s[key].shape) if key in s else "absent" for s in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the backbone must be the network of the given plans; {key} is {shapes[0]} by "
                f"the plans and {shapes[1]} in {path}: use the plans it was trained with (-p), "
                "or another backbone"
            )
        if found[key].dtype != wanted[key].dtype:
            raise ValueError(
                f"the backbone's weights must be as nnU-Net saves them; {key} in {path} is "
                f"{found[key].dtype} and must be {wanted[key].dtype}: use the checkpoint that "
                "nnU-Net wrote"
            )


def require_same_input(
    init: Mapping[str, Any], plans: Mapping[str, Any], configuration: str, path: Path
) -> None:
    """Check that a checkpoint was trained on images preprocessed as the run's are."""
    try:
        config = configuration_of(init["plans"], init["configuration"])
    except ValueError as error:
        raise ValueError(f"the backbone {path} must contain its plans: {error}") from error
    theirs = network_input(init["plans"], config)
    for key, value in network_input(plans, configuration_of(plans, configuration)).items():
        if theirs.get(key) != value:
            raise ValueError(
                f"the backbone must have been trained under the given plans; {key} is "
                f"{reprlib.repr(value)} in them and {reprlib.repr(theirs.get(key))} in {path}: use "
                "the plans it was trained with (-p), or another backbone"
            )


def validation_summary(checkpoint: Path) -> Path:
    """Return where nnU-Net writes what it validated a checkpoint's fold on."""
    return checkpoint.parent / VALIDATION_SUMMARY


def leakage(
    path: Path, init: Mapping[str, Any], fold: Fold, splits: Path, pattern: str | None = None
) -> str | None:
    """Return why a backbone may have been trained on validation cases of `fold`, or None.

    Looks at the fold it was trained on, at the cases of that fold in the splits file, and, for
    the same fold, at the cases nnU-Net validated it on. Of a backbone of another data set it looks
    for patients of the same name, by `pattern`, among its `trained_cases`. A fold that holds out no
    case has none to know.
    """
    if not fold.validation_cases:
        return None
    trained_on = fold_of(init)
    if init["plans"].get("dataset_name") != fold.dataset:
        learned = trained_cases(path, init, splits)
        shared = shared_patients(learned, fold.validation_cases, pattern, any_case=True)
        if not shared:
            return None
        return f"was trained on a patient called {shared[0]}, as a validation case here is"
    if trained_on == "all":
        return "was trained on all cases"
    if trained_on != fold.number:
        seen = set(_training_cases(splits, trained_on)).intersection(fold.validation_cases)
        example = f", among them {min(seen)}" if seen else ""
        return (
            f"was trained on fold {trained_on}, whose training cases are not this fold's{example}"
        )
    held_out = _validated_cases(validation_summary(path), init["dataset_json"]["file_ending"])
    seen = set(fold.validation_cases) - held_out
    if held_out and seen:
        return f"was trained on another split: {min(seen)} was not among its validation cases"
    return None


def inherited_leakage(path: Path, fold: Fold, splits: Path, pattern: str | None) -> str | None:
    """Return why a checkpoint that a backbone was trained from may leak, or None.

    A run of ours that trained on has the record of what it began with beside it. What that record
    states of the same fold counts where the checkpoint itself is gone or cannot be read.
    """
    if not fold.validation_cases:
        return None
    for folder, start, init in starts_of(path):
        if init is not None:
            reason = leakage(start, init, fold, splits, pattern)
        else:
            run = folder.read_cost().run if folder.cost_file.is_file() else {}
            is_same = (run.get("dataset"), run.get("fold")) == (fold.dataset, fold.number)
            reason = folder.read_backbone().leakage if is_same else None
        if reason is not None:
            return f"was trained from {start}, which {reason}"
    return None


def starts_of(path: Path) -> Iterator[tuple[RunFolder, Path, dict[str, Any] | None]]:
    """Yield what a checkpoint was trained from, what that was trained from, and so on.

    Each is the run's record, the checkpoint it began with, and what that one's trainer was made
    from; None if it is gone or cannot be read.
    """
    seen: set[Path] = set()
    while path.resolve() not in seen:
        seen.add(path.resolve())
        folder = RunFolder.of_fold(path.parent)
        if not os.path.isfile(folder.backbone_file):  # Nor in a closed folder.
            return
        path, init = Path(folder.read_backbone().path), None
        with suppress(OSError, ValueError, LookupError):
            init = read_checkpoint(path)["init_args"]
        yield folder, path, init


def trained_cases(path: Path, init: Mapping[str, Any], splits: Path) -> set[str]:
    """Return the cases that a backbone of another data set was trained on, as far as is known.

    They are those of the splits of its data set, which lie as `splits` do; and those that the
    model's other folds were validated on, or this one if it is fold `all`. If these splits train
    on a case that its own fold was validated on, it was trained with others, and all cases count
    but those that it was validated on.
    """
    number = fold_of(init)
    own = splits.parent.parent / str(init["plans"].get("dataset_name")) / splits.name
    others = fold_folders(path.parent.parent)
    if number != "all":
        others = [f for f in others if f.name not in ("fold_all", path.parent.name)]
    ending = init["dataset_json"]["file_ending"]
    found = [_validated_cases(other / VALIDATION_SUMMARY, ending) for other in others]
    learned = {*_training_cases(own, number)}
    held_out = set() if number == "all" else _validated_cases(validation_summary(path), ending)
    if learned & held_out:
        learned = {*_training_cases(own, "all")} - held_out
    return learned.union(*found)


def fold_of(init: Mapping[str, Any]) -> int | str:
    """Return the fold that a checkpoint was trained on."""
    number: int | str = init["fold"]
    # Of models exported earlier.
    return int(number) if isinstance(number, str) and number.isdecimal() else number


def _training_cases(splits: Path, fold: int | str) -> Iterable[str]:
    if not splits.is_file():
        return ()
    known = read_json(splits)
    with content_of(splits):
        if fold == "all":
            return [case for side in known[0].values() for case in side] if known else ()
        return known[fold]["train"] if isinstance(fold, int) and fold < len(known) else ()


def _validated_cases(summary: Path, file_ending: str) -> set[str]:
    return {*read_summary(summary, file_ending)} if summary.is_file() else set()
