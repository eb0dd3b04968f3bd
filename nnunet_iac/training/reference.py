"""The score of the frozen backbone by itself, from the very tensors that were frozen."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.training.distributed import first_ranks, ranks, wrapped

if TYPE_CHECKING:
    from nnunet_iac.training.iac_trainer import IACTrainer

MEASURED_ON = "measured-on.json"
"""Written last beside a reference's validation: all that its scores depend on."""

_SUMMARY = Path("validation", "summary.json")


def validate_reference(trainer: "IACTrainer") -> None:
    """Run nnU-Net's final validation on the backbone alone and record its Dice, once per run.

    Needs no backbone file: the tensors are the network's own, which the hashes prove. Where another
    run of the data set has validated the same tensors under the same circumstances, its validation
    is copied.
    """
    phases = trainer.phases
    assert phases.state.backbone is not None
    if first_ranks(phases.state.backbone.reference is not None):
        return
    folder = RunFolder.of_fold(trainer.output_folder).reference_folder
    circumstances = _circumstances(trainer)
    known = _validated_before(Path(trainer.output_folder), circumstances)
    if first_ranks(known is not None):
        if trainer.local_rank == 0:
            assert known is not None
            trainer.print_to_log_file(f"The frozen backbone's own validation is that of {known}")
            shutil.copytree(known, folder, dirs_exist_ok=True)
    else:
        _validate(trainer, folder)
    if trainer.local_rank == 0:
        pattern, ending = trainer.settings.patient_pattern, trainer.dataset_json["file_ending"]
        write_json(folder / MEASURED_ON, circumstances)
        phases.set_reference(foreground_dice(folder / _SUMMARY, ending, pattern))
        scored = read_json(folder / _SUMMARY)["foreground_mean"]["Dice"]
        trainer.logger.log_summary("reference_val/foreground_dice", scored)


def _validate(trainer: "IACTrainer", folder: Path) -> None:
    trainer.print_to_log_file("Validating the frozen backbone by itself")
    stock = trainer.stock_network()
    stock.load_state_dict(trainer.unet.backbone_state())
    stock = stock.to(trainer.device)
    own = trainer.network, trainer.output_folder
    trainer.network = wrapped(stock, trainer.device) if trainer.is_ddp else stock
    trainer.output_folder = str(folder)
    loggers, trainer.logger.loggers = trainer.logger.loggers, []  # The score is not the run's own.
    try:
        nnUNetTrainer.perform_actual_validation(trainer)
    finally:
        trainer.network, trainer.output_folder = own
        trainer.logger.loggers = loggers


def _circumstances(trainer: "IACTrainer") -> dict[str, Any]:
    """Return what decides the scores of a frozen backbone."""
    axes = trainer.inference_allowed_mirroring_axes
    assert trainer.phases.state.backbone is not None
    return {
        "backbone": trainer.phases.state.backbone.before,
        "configuration": trainer.identity["configuration_content"],
        "validation": sorted(trainer.split()["validation"]),
        "mirrored": None if axes is None else [int(axis) for axis in axes],
        "previous_stage": trainer.folder_with_segs_from_previous_stage,
        "device": trainer.device.type,
        "ranks": ranks(),
        "versions": trainer.phases.state.cost.versions,
    }


def _validated_before(fold: Path, circumstances: dict[str, Any]) -> Path | None:
    """Return the reference folder of another run with these circumstances."""
    for path in sorted(
        fold.parent.parent.glob(f"*/{fold.name}/{FOLDER_NAME}/reference/{MEASURED_ON}")
    ):
        try:
            found = read_json(path)
        except (ValueError, OSError):
            continue
        if found == circumstances and (path.parent / _SUMMARY).is_file():
            return path.parent
    return None
