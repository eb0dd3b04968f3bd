"""Augmentation toggles and short variants of the retrofit trainers, for nnU-Net's look-up."""

from nnunet_iac.training.trainers import (
    nnUNetTrainerContinueDA5,
    nnUNetTrainerContinueNoDA,
    nnUNetTrainerContinueNoMirroring,
    nnUNetTrainerIAC_1warmup6search2finetune,
    nnUNetTrainerIAC_3warmup12search15finetune,
    nnUNetTrainerIACDA5,
    nnUNetTrainerIACDiscrete_2finetune,
    nnUNetTrainerIACDiscrete_15finetune,
    nnUNetTrainerIACDiscreteDA5,
    nnUNetTrainerIACDiscreteNoDA,
    nnUNetTrainerIACDiscreteNoMirroring,
    nnUNetTrainerIACLTH_1warmup6search2finetune,
    nnUNetTrainerIACLTH_3warmup12search15finetune,
    nnUNetTrainerIACLTHDA5,
    nnUNetTrainerIACLTHNoDA,
    nnUNetTrainerIACLTHNoDA_1warmup6search2finetune,
    nnUNetTrainerIACLTHNoMirroring,
    nnUNetTrainerIACNoDA,
    nnUNetTrainerIACNoMirroring,
)
