"""Checkpoints of a run: written whole, and read only by the run that wrote them."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_iac.host.plans import SECTION, configuration_of
from nnunet_iac.runs.atomic import read_json, replacing
from nnunet_iac.runs.checkpoint import (
    BEST,
    FINAL,
    LATEST,
    MIRRORING,
    PREVIOUS,
    keep_previous,
    read_checkpoint,
    share,
)
from nnunet_iac.runs.fold import fold_folders
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.settings import Settings, present_names
from nnunet_iac.training.mirroring import keep_to
from nnunet_iac.training.optimisation import load_optimiser

CHECKPOINT_FORMAT = 3
"""Version of the state that our trainers add to nnU-Net's checkpoints."""

FREE_TO_CHANGE = ("activation_checkpointing", "compile_cells", "score_source")
"""Settings that may change before a run continues: the others would make its record wrong."""

CURES = {
    "split": "restore splits_final.json, whose cases iac/split.json holds",
    "configuration_content": "restore the configuration in the plans",
}
"""Instructions where a checkpoint is right and something else has changed."""


def run_identity(
    trainer: str, plans: Mapping[str, Any], configuration: str, fold: int | str, split: Any
) -> dict[str, Any]:
    """Return what identifies a run: a checkpoint or record of another must not be continued."""
    config = configuration_of(plans, configuration)
    return {
        "trainer": trainer,
        "dataset": plans["dataset_name"],
        "plans": plans["plans_name"],
        "configuration": configuration,
        "fold": fold,
        "configuration_content": _digest({k: v for k, v in config.items() if k != SECTION}),
        "split": _digest(split),
    }


def whole_state(
    trainer: Any, network: nn.Module, identity: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the dictionary of a checkpoint: nnU-Net's, with our section added.

    Of the trainer only `settings` and what nnU-Net saves is read. The network has no wrapper, and
    `state`, the controller's, is of plain types and tensors.
    """
    scaler = trainer.grad_scaler
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": None if scaler is None else scaler.state_dict(),
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch + 1,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        MIRRORING: trainer.inference_allowed_mirroring_axes,
        SECTION: {
            "format": CHECKPOINT_FORMAT,
            "version": version("nnunet-iac"),
            "run": dict(identity),
            "settings": trainer.settings.to_mapping(),
            **state,
        },
    }


def restore_host(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Give a trainer what nnU-Net saves of it, but for the weights.

    nnU-Net's own method would read the file once more, and list all weights for each of them.
    """
    trainer.my_init_kwargs = checkpoint["init_args"]
    trainer.current_epoch = checkpoint["current_epoch"]
    trainer.logger.load_checkpoint(checkpoint["logging"])
    trainer._best_ema = checkpoint["_best_ema"]
    trainer.inference_allowed_mirroring_axes = checkpoint[MIRRORING]
    keep_to(trainer, checkpoint[MIRRORING])
    load_optimiser(trainer.optimizer, checkpoint["optimizer_state"])
    if trainer.grad_scaler is not None and checkpoint["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(checkpoint["grad_scaler_state"])


def write_checkpoint(checkpoint: Mapping[str, Any], *paths: Path) -> None:
    """Write a checkpoint to every path atomically, in order; the latest before it is kept.

    It is on the disk once, with a name for every path: each name gets another file when it is
    written again.
    """
    whole = io.BytesIO()  # torch's errors of files are less clear.
    torch.save(checkpoint, whole)
    for path in paths:
        with replacing(path) as temporary:
            if path is paths[0]:
                temporary.write_bytes(whole.getbuffer())
            else:
                share(paths[0], temporary)
            if path.name == LATEST:
                keep_previous(path)


def read_own_checkpoint(
    path: Path, identity: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """Return a checkpoint of this run; one that is damaged or another run's is a ValueError."""
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        previous = path.with_name(PREVIOUS)
        if path.name not in (LATEST, FINAL) or not previous.is_file():
            raise
        raise ValueError(
            f"{error}. The checkpoint before it is kept: remove {path.name}, copy "
            f"{previous.name} to {LATEST} in {path.parent}, and continue with --c"
        ) from error
    require_same_run(checkpoint, identity, settings, path)
    return checkpoint


def require_newest(path: Path, modified: int) -> None:
    """Check that a run continues from its newest checkpoint, and that no other process does.

    `modified` is its time of modification when it was read, in nanoseconds.
    """
    if path.name == BEST:  # nnU-Net takes it where the latest is missing.
        raise ValueError(
            f"to continue, {path.parent} must hold {LATEST}; it has only {BEST}, of an earlier "
            f"epoch: copy {PREVIOUS}, if it is there, or {BEST} to {LATEST}, or start anew without "
            "--c"
        )
    if not path.is_file() or path.stat().st_mtime_ns != modified:
        raise RuntimeError(
            f"a run must continue from its newest checkpoint; {path} has been replaced since "
            "it was read, so another process continued the run: start again with --c"
        )


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Raise a clear error if the content of a checkpoint cannot be restored."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        raise kind(
            f"{path} must hold the whole state of this run; it does not "
            f"({type(error).__name__}: {error}): restore it from a copy, or start anew "
            "without --c"
        ) from error


def require_same_run(
    checkpoint: Mapping[str, Any], identity: Mapping[str, Any], settings: Settings, path: Path
) -> None:
    """Check that a checkpoint, read from `path`, was written by this very run."""
    state = checkpoint.get(SECTION)
    if state is None:
        raise ValueError(
            f"a run must continue from its own checkpoint; {path} was written by "
            f"{checkpoint.get('trainer_name')} and has no state of a search: remove it, or "
            "start anew without --c"
        )
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} must hold the state of a run; got {state!r}: restore it from a copy, or "
            "start anew without --c"
        )
    if state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(
            f"a run must continue with a release that reads its checkpoints; {path} has format "
            f"{state.get('format')} (nnunet-iac {state.get('version')}), this one reads format "
            f"{CHECKPOINT_FORMAT}: continue with that release, or start anew without --c"
        )
    for key in ("run", "settings"):
        if not isinstance(state.get(key), dict):
            raise ValueError(
                f"{path} must hold the state of a run; its {key} is {state.get(key)!r}: restore "
                "it from a copy, or start anew without --c"
            )
    for key, value in identity.items():
        if state["run"].get(key) != value:
            raise ValueError(
                f"a run must continue from its own checkpoint; {key} is {value!r} here and "
                f"{state['run'].get(key)!r} in {path}: "
                f"{CURES.get(key, 'put the right file there')}, or start anew without --c"
            )
    began = Settings.from_mapping(state["settings"]).to_mapping()
    for key, value in settings.to_mapping().items():
        if key not in FREE_TO_CHANGE and began[key] != value:
            raise ValueError(
                f"a run must continue with the settings it began with; {key} is {value!r} in "
                f"the plans and {began[key]!r} in {path}: restore it, or use a new plans "
                "identifier"
            )


def require_nothing_lost(fold: Path) -> None:
    """Check, where `--c` found no checkpoint, that there has been none.

    The record is written before the checkpoint of the same epoch, so it may be one epoch ahead.
    """
    if (fold / PREVIOUS).is_file():
        raise ValueError(
            f"to continue, {fold} must hold {LATEST}; it has only the one before it: copy "
            f"{PREVIOUS} to {LATEST}, or start anew without --c"
        )
    record = RunFolder.of_fold(fold)
    if not record.cost_file.is_file():
        return
    epochs = sum(phase.epochs for phase in record.read_cost().phases.values())
    if epochs > 1:
        raise ValueError(
            f"to continue, {record.path.parent} must hold a checkpoint; it has none, though "
            f"{record.path.name} records {epochs} epochs: restore checkpoint_latest.pth, or start "
            "anew without --c"
        )


def require_own_record(record: RunFolder, identity: Mapping[str, Any], settings: Settings) -> None:
    """Check that the record in a fold is this run's, before it is written again.

    What cannot be read at all is damaged and holds nothing to lose. A setting that is newer than
    the record had its default.
    """
    own, defaults = settings.to_mapping(), Settings().to_mapping()
    kept = {key: value for key, value in own.items() if key not in FREE_TO_CHANGE}
    for path, wanted, part in (
        (
            record.settings_file,
            kept,
            lambda document: defaults | present_names(document)[0],
        ),
        (record.cost_file, identity, lambda document: document["run"]),
    ):
        try:
            found = part(read_json(path))
            theirs = {key: found.get(key, "absent") for key in wanted}
        except (ValueError, FileNotFoundError, LookupError, TypeError, AttributeError):
            continue
        for key, value in wanted.items():
            if theirs[key] != value:
                raise ValueError(
                    f"{record.path} must be the record of the run that is continued; {key} is "
                    f"{value!r} in the checkpoint and {theirs[key]!r} in {path.name}: move that "
                    "folder away, and it is written again from the checkpoint"
                )


def require_same_structure(fold_folder: Path, structure: Mapping[str, Any]) -> None:
    """Check the structural settings against the other folds of the model folder.

    nnU-Net overwrites the plans.json that the prediction of all of them needs.
    """
    for fold in fold_folders(fold_folder.parent):
        checkpoints = sorted(fold.glob("checkpoint_*.pth"))
        if fold.name == fold_folder.name or not checkpoints:
            continue
        theirs = _settings_of(fold, checkpoints[0]).cell.structure
        for key, value in structure.items():
            if theirs[key] != value:
                raise ValueError(
                    f"the folds of a model must share their structural settings; {key} is "
                    f"{value!r} here and {theirs[key]!r} in {fold.name} "
                    f"of {fold_folder.parent}: use a new plans identifier"
                )


def _settings_of(fold: Path, checkpoint: Path) -> Settings:
    """Return the settings of a fold's record or, where it has none, of its checkpoint.

    The plans.json of the model folder may be half-written: nnU-Net does not replace it whole.
    """
    record = RunFolder.of_fold(fold)
    if record.settings_file.is_file():
        return record.read_settings()
    state = read_checkpoint(checkpoint).get(SECTION)
    if not isinstance(state, dict):
        raise ValueError(
            f"every fold of a model must be of the same trainer; {checkpoint} has no state of a "
            "search: move it elsewhere"
        )
    return Settings.from_mapping(state.get("settings"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
