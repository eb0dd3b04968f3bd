"""The retrofit trainers, for nnU-Net's look-up in the folders of nnUNet_extTrainer."""

from nnunet_iac.training.backbone_trainers import (
    nnUNetTrainerAdam_4epochs,
    nnUNetTrainerAdam_8epochs,
    nnUNetTrainerAdam_40epochs,
    nnUNetTrainerAdam_80epochs,
    nnUNetTrainerAdam_160epochs,
    nnUNetTrainerAdam_320epochs,
    nnUNetTrainerAdamNoDeepSupervision_80epochs,
    nnUNetTrainerAdamNoDeepSupervision_200epochs,
)
from nnunet_iac.training.trainers import (
    nnUNetTrainerContinue,
    nnUNetTrainerIAC,
    nnUNetTrainerIACDiscrete,
    nnUNetTrainerIACLTH,
)
