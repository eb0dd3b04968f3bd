"""What must be the same where a run was broken off and where it is continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import LATEST, PREVIOUS
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import SECTION
from nnunet_iac.search.settings import Settings

CHECKPOINT_FORMAT = 3
"""Of what our trainers add to nnU-Net's checkpoints."""

FREE_TO_CHANGE = ("recompute_cells",)
"""Settings that may change before a run continues: the others would make its record wrong."""

CURES = {
    "split": "restore splits_final.json, whose cases iac/split.json holds",
    "configuration_content": "restore the configuration in the plans",
}
"""What to do where a checkpoint is right and something else has changed."""


def require_same_run(
    checkpoint: Mapping[str, Any], identity: Mapping[str, Any], settings: Settings, path: Path
) -> None:
    """Check that a checkpoint was written by this very run.

    Args:
        checkpoint: the file's content.
        identity: trainer, data set, plans, configuration and fold.
        settings: of the plans.
        path: of the file, for the message.

    Raises:
        ValueError: names the first thing that differs, with both values.
    """
    state = checkpoint.get(SECTION)
    if state is None:
        raise ValueError(
            f"a run must continue from its own checkpoint; {path} was written by "
            f"{checkpoint.get('trainer_name')} and knows no search: remove it, or start anew "
            "without --c"
        )
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} must hold the state of a run; got {state!r}: restore it from a copy, or "
            "start anew without --c"
        )
    if state.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(
            f"a run must continue with a release that knows its checkpoints; {path} has format "
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
    require_same_settings(state["settings"], settings, path)


def require_same_settings(saved: Mapping[str, Any], settings: Settings, path: Path) -> None:
    """Check the settings of the plans against those a run began with.

    Raises:
        ValueError: names the first that differs, with both values.
    """
    began = Settings.from_mapping(saved).resolved().to_mapping()
    for key, value in settings.resolved().to_mapping().items():
        if key not in FREE_TO_CHANGE and began[key] != value:
            raise ValueError(
                f"a run must continue with the settings it began with; {key} is {value!r} in "
                f"the plans and {began[key]!r} in {path}: restore it, or use a new plans "
                "identifier"
            )


def require_nothing_lost(fold: Path) -> None:
    """Check, where `--c` found no checkpoint, that there has been none.

    The record is written before the checkpoint of the same epoch, so it may be one epoch ahead.

    Raises:
        ValueError: the previous checkpoint is left alone, or the record knows of epochs whose
            checkpoint is gone.
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

    What cannot be read at all is damaged and holds nothing to lose.

    Raises:
        ValueError: names the first thing that differs, with both values.
    """
    own = settings.resolved().to_mapping()
    kept = {key: value for key, value in own.items() if key not in FREE_TO_CHANGE}
    for path, wanted, part in (
        (record.settings_file, kept, lambda document: document),
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
