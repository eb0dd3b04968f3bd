"""Validation of an adapted model on the cases of its own data set, the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.records import SourceRecord
from nnunet_iac.runs.scores import MEASURED_ON, VALIDATION_SUMMARY, foreground_dice
from nnunet_iac.search.patients import fitting_pattern
from nnunet_iac.training.shared_validation import (
    prediction_circumstances,
    validate_once,
)
from nnunet_iac.training.source_cases import AdaptedRun, SourceCases, source_cases


def validate_source(trainer: Any) -> None:
    """Score an adapted run's network and its backbone on the source, and record both.

    What was scored before is not scored again as long as nothing changes. Where the source is not
    at hand, or cannot be scored, the log shows why.
    """
    checks, record = trainer.run.checks, trainer.run.recorder.backbone
    data, first = checks.settings.data, trainer.local_rank == 0
    if not data.score_source or data.backbone_checkpoint is None:
        return
    folder = RunFolder.of_fold(trainer.output_folder)
    hashes = {"backbone": record.before, "network": tensors_hash(trainer.unet.state_dict())}
    if first and not _is_scored(folder, hashes):
        folder.source_file.unlink(missing_ok=True)
    run = AdaptedRun(
        checks.plans["dataset_name"], trainer.dataset_json, trainer.do_split()[0], data
    )
    try:
        source = source_cases(record, run, checks.data.parent.parent)
    except (OSError, ValueError) as error:
        checks.log(f"The validation cases of the source are not scored: {error}")
        return
    if source is None:
        return
    _validate_both(trainer, source, folder, hashes)
    if first:
        found = _source_record(source, folder, hashes, data.patient_pattern)
        folder.write_source(found)
        means = (side["mean"] for side in (found.after, found.before))
        now, then = ("none" if mean is None else f"{mean:.4f}" for mean in means)
        checks.log(f"Mean Dice on {source.dataset}: {now}, and {then} before the model was adapted")


def _validate_both(
    trainer: Any, source: SourceCases, folder: RunFolder, hashes: Mapping[str, str]
) -> None:
    """Validate backbone and network on the source; runs that adapt a backbone share its scores."""
    stock, other = trainer.stock_network(), source.given_to(trainer)
    stock.load_state_dict(source.weights)
    shared = {
        "source": source.dataset,
        "validation": sorted(source.cases),
        "configuration": source.config,
        **prediction_circumstances(other, trainer.run.recorder.cost.versions),
    }
    before, after = folder.source_before_folder, folder.source_after_folder
    place = f"*/fold_*/{FOLDER_NAME}/{before.name}/{MEASURED_ON}"
    siblings = sorted(Path(trainer.output_folder).parent.parent.glob(place))
    known = {**shared, "tensors": hashes["backbone"]}
    validate_once(other, stock, before, known, siblings, "the backbone on its source")
    known = {**shared, "tensors": hashes["network"]}
    untrained = [before / MEASURED_ON]  # Of a control of no epochs the tensors are the backbone's.
    validate_once(other, trainer.network, after, known, untrained, "the network on its source")


def _source_record(
    source: SourceCases, folder: RunFolder, hashes: Mapping[str, str], pattern: str | None
) -> SourceRecord:
    """Return the record of both validations."""
    ending, own = source.init["dataset_json"]["file_ending"], fitting_pattern(source.cases, pattern)
    before, after = (
        foreground_dice(path / VALIDATION_SUMMARY, ending, own)
        for path in (folder.source_before_folder, folder.source_after_folder)
    )
    known = before["mean"] is not None and after["mean"] is not None
    return SourceRecord(
        dataset=source.dataset,
        configuration=source.init["configuration"],
        fold=source.init["fold"],
        **hashes,
        before=before,
        after=after,
        forgetting=after["mean"] - before["mean"] if known else None,
    )


def _is_scored(folder: RunFolder, hashes: Mapping[str, str]) -> bool:
    """Return whether the record has these networks; a damaged one has none."""
    try:
        known = folder.read_source()
    except ValueError:
        return False
    return known is not None and all(getattr(known, key) == hashes[key] for key in hashes)
