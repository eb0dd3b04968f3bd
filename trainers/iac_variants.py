"""Augmentation toggles and short variants of the retrofit trainers, for nnU-Net's look-up."""

from nnunet_iac.training.variants import (
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

__all__ = [
    "nnUNetTrainerIACDA5",
    "nnUNetTrainerIACDiscreteDA5",
    "nnUNetTrainerIACDiscreteNoDA",
    "nnUNetTrainerIACDiscreteNoMirroring",
    "nnUNetTrainerIACDiscrete_2finetune",
    "nnUNetTrainerIACDiscrete_15finetune",
    "nnUNetTrainerIACLTHDA5",
    "nnUNetTrainerIACLTHNoDA",
    "nnUNetTrainerIACLTHNoDA_1warmup6search2finetune",
    "nnUNetTrainerIACLTHNoMirroring",
    "nnUNetTrainerIACLTH_1warmup6search2finetune",
    "nnUNetTrainerIACLTH_3warmup12search15finetune",
    "nnUNetTrainerIACNoDA",
    "nnUNetTrainerIACNoMirroring",
    "nnUNetTrainerIAC_1warmup6search2finetune",
    "nnUNetTrainerIAC_3warmup12search15finetune",
]
