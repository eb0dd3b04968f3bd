"""The validations beside the run's own: of the frozen backbone alone, and of an adapted source."""

from pathlib import Path
from typing import Any

from torch import nn

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import BEST
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.scores import MEASURED_ON, VALIDATION_SUMMARY, foreground_dice
from nnunet_iac.training.shared_validation import (
    prediction_circumstances,
    validate_once,
)
from nnunet_iac.training.source_validation import validate_source


def validate_others(trainer: Any) -> None:
    """Validate what the run's network is compared with, before its own validation ends the run."""
    if trainer._loaded is not None and trainer._loaded[0].name == BEST:
        trainer.print_to_log_file(
            "WARNING: these are scores of the best epoch, which was chosen on the same cases; "
            "before a report validate the end of the run with --val"
        )
    if trainer.method.retrofits:
        stock = trainer.stock_network()
        stock.load_state_dict(trainer.run.backbone_weights(trainer.unet))
        validate_backbone(trainer, stock)
    validate_source(trainer)


def validate_backbone(trainer: Any, network: nn.Module) -> None:
    """Record the Dice of the frozen backbone alone, scored once as long as nothing changes.

    If another run of the data set has validated the same tensors under the same circumstances, its
    validation is copied.
    """
    recorder = trainer.run.recorder
    fold = Path(trainer.output_folder)
    folder = RunFolder.of_fold(fold).reference_folder
    depends_on = {
        "backbone": recorder.backbone.before,
        "validation": sorted(trainer.do_split()[1]),
        "previous_stage": trainer.folder_with_segs_from_previous_stage,
        "configuration": trainer.run.identity["configuration_content"],
        **prediction_circumstances(trainer, recorder.cost.versions),
    }
    place = f"*/{fold.name}/{FOLDER_NAME}/{folder.name}/{MEASURED_ON}"
    elsewhere = sorted(fold.parent.parent.glob(place))
    validate_once(trainer, network, folder, depends_on, elsewhere, "the frozen backbone by itself")
    if trainer.local_rank == 0:
        pattern = recorder.settings.data.patient_pattern
        ending = trainer.dataset_json["file_ending"]
        recorder.add_backbone_facts(
            reference=foreground_dice(folder / VALIDATION_SUMMARY, ending, pattern)
        )
        scored = read_json(folder / VALIDATION_SUMMARY)["foreground_mean"]["Dice"]
        trainer.logger.log_summary("reference_val/foreground_dice", scored)
