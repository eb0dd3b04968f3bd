"""The backbone's own tensors that a run trains, and the proof that the others stayed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_iac.runs.checkpoint import read_checkpoint, tensors_hash
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.setting_parts import BackbonePart
from nnunet_iac.training.recorder import Recorder


def with_trained_part(record: BackboneRecord, part: BackbonePart, encoder: Any) -> BackboneRecord:
    """Return the record of a run that trains a part, with the encoder's hash if that stays."""
    if part == "none":
        return record
    before = None if part == "all" else tensors_hash(encoder.state_dict())
    return replace(record, trained=part, encoder_before=before)


def record_encoder(recorder: Recorder, network: Any) -> None:
    """Keep the hash of an encoder that was to stay as it was, for the record."""
    if recorder.backbone is not None and recorder.backbone.encoder_before is not None:
        recorder.add_backbone_facts(encoder_after=tensors_hash(network.encoder.state_dict()))


def require_encoder_unchanged(record: BackboneRecord, encoder: Any) -> None:
    """Check that an encoder is as it was, if the record has its hash."""
    if record.encoder_before is not None:
        require_unchanged("encoder", record.encoder_before, tensors_hash(encoder.state_dict()))


def require_unchanged(part: str, before: str | None, now: str, why: str = "") -> None:
    """Check by its hashes that a part of the network has stayed frozen."""
    if now != before:
        raise RuntimeError(
            f"the frozen {part} must be bit-identical throughout the run; its hash was {before} "
            f"and is {now}: {why}start anew without --c"
        )


def original_weights(record: BackboneRecord) -> dict[str, Tensor]:
    """Return the weights that a run began with, read again from the backbone's checkpoint.

    Raises:
        FileNotFoundError: it is gone.
        ValueError: it holds other weights now.
    """
    path = Path(record.path)
    if not path.is_file():
        raise FileNotFoundError(
            f"a run that trains its backbone needs the checkpoint it began with; {path} does not "
            "exist: put it back"
        )
    weights: dict[str, Tensor] = read_checkpoint(path)["network_weights"]
    if (found := tensors_hash(weights)) != record.before:
        raise ValueError(
            f"a run that trains its backbone needs the checkpoint it began with; {path} has the "
            f"hash {found[:12]}, and the run began with {record.before[:12]}: put that one back"
        )
    return weights
