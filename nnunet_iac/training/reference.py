"""The score of the frozen backbone by itself, from the very tensors that were frozen."""

from typing import TYPE_CHECKING

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.training.distributed import first_ranks, wrapped

if TYPE_CHECKING:
    from nnunet_iac.training.iac_trainer import IACTrainer


def validate_reference(trainer: "IACTrainer") -> None:
    """Run nnU-Net's final validation on the backbone alone and record its Dice, once per run.

    Needs no backbone file: the tensors are the network's own, which the hashes prove.
    """
    phases = trainer.phases
    assert phases.state.backbone is not None
    if first_ranks(phases.state.backbone.reference is not None):
        return
    trainer.print_to_log_file("Validating the frozen backbone by itself")
    stock = trainer.stock_network()
    stock.load_state_dict(trainer.unet.backbone_state())
    stock = stock.to(trainer.device)
    own = trainer.network, trainer.output_folder
    trainer.network = wrapped(stock, trainer.device) if trainer.is_ddp else stock
    folder = RunFolder.of_fold(trainer.output_folder).reference_folder
    trainer.output_folder = str(folder)
    loggers, trainer.logger.loggers = trainer.logger.loggers, []  # The score is not the run's own.
    try:
        nnUNetTrainer.perform_actual_validation(trainer)
    finally:
        trainer.network, trainer.output_folder = own
        trainer.logger.loggers = loggers
    if trainer.local_rank == 0:
        summary = folder / "validation" / "summary.json"
        pattern = trainer.settings.patient_pattern
        phases.set_reference(foreground_dice(summary, trainer.dataset_json["file_ending"], pattern))
        scored = read_json(summary)["foreground_mean"]["Dice"]
        trainer.logger.log_summary("reference_val/foreground_dice", scored)
