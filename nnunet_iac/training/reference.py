"""The validation of the frozen backbone alone, run once or copied from another run."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.scores import VALIDATION_SUMMARY, foreground_dice
from nnunet_iac.training.distributed import broadcast_from_rank0, ranks, wrapped
from nnunet_iac.training.recorder import Recorder

MEASURED_ON = "measured-on.json"
"""Written last beside a reference's validation: all that its scores depend on."""


def validate_backbone(
    trainer: Any, network: nn.Module, recorder: Recorder, identity: Mapping[str, Any]
) -> None:
    """Record the Dice of the frozen backbone alone, once per run.

    If another run of the data set has validated the same tensors under the same circumstances, its
    validation is copied.
    """
    assert recorder.backbone is not None
    if broadcast_from_rank0(recorder.backbone.reference is not None):
        return
    fold, log = Path(trainer.output_folder), trainer.print_to_log_file
    folder = RunFolder.of_fold(fold).reference_folder
    axes = trainer.inference_allowed_mirroring_axes
    depends_on = {
        "backbone": recorder.backbone.before,
        "validation": sorted(trainer.do_split()[1]),
        "mirrored": None if axes is None else [int(axis) for axis in axes],
        "previous_stage": trainer.folder_with_segs_from_previous_stage,
        "device": trainer.device.type,
        "ranks": ranks(),
        "versions": recorder.cost.versions,
        "configuration": identity["configuration_content"],
    }
    known = _validated_before(fold, depends_on)
    if not broadcast_from_rank0(known is not None):
        log("Validating the frozen backbone by itself")
        _validate(trainer, network, folder)
    elif known is not None and trainer.local_rank == 0:
        log(f"The frozen backbone's own validation is that of {known}")
        shutil.copytree(known, folder, dirs_exist_ok=True)
    if trainer.local_rank == 0:
        pattern = recorder.settings.data.patient_pattern
        ending = trainer.dataset_json["file_ending"]
        write_json(folder / MEASURED_ON, depends_on)
        recorder.add_backbone_facts(
            reference=foreground_dice(folder / VALIDATION_SUMMARY, ending, pattern)
        )
        scored = read_json(folder / VALIDATION_SUMMARY)["foreground_mean"]["Dice"]
        trainer.logger.log_summary("reference_val/foreground_dice", scored)


def _validate(trainer: Any, network: nn.Module, folder: Path) -> None:
    """Run nnU-Net's final validation of another network; the trainer stays as it is."""
    other, network = copy.copy(trainer), network.to(trainer.device)
    other.network = wrapped(network, trainer.device) if trainer.is_ddp else network
    other.output_folder = str(folder)
    other.logger = copy.copy(trainer.logger)
    other.logger.loggers = []  # The score is not the run's own.
    nnUNetTrainer.perform_actual_validation(other)


def _validated_before(fold: Path, circumstances: Mapping[str, Any]) -> Path | None:
    """Return the reference folder of another run with these circumstances."""
    place = f"*/{fold.name}/{FOLDER_NAME}/reference/{MEASURED_ON}"
    for path in sorted(fold.parent.parent.glob(place)):
        try:
            found = read_json(path)
        except (ValueError, OSError):
            continue
        if found == circumstances and (path.parent / VALIDATION_SUMMARY).is_file():
            return path.parent
    return None
