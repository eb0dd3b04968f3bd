"""The retrofit trainers, for nnU-Net's look-up; export nnUNet_extTrainer=<this folder>."""

from nnunet_iac.training.continue_trainer import nnUNetTrainerContinue
from nnunet_iac.training.short_backbone import nnUNetTrainerAdam_8epochs
from nnunet_iac.training.trainers import (
    nnUNetTrainerIAC,
    nnUNetTrainerIACDiscrete,
    nnUNetTrainerIACLTH,
)

__all__ = [
    "nnUNetTrainerAdam_8epochs",
    "nnUNetTrainerContinue",
    "nnUNetTrainerIAC",
    "nnUNetTrainerIACDiscrete",
    "nnUNetTrainerIACLTH",
]
