"""The public trainers: each is a method, and the variants add an augmentation or a short length.

The augmentation is nnU-Net's own class, put before the trainer so that its hooks win. A variant's
backbone is the nnU-Net trainer of the same augmentation. Short runs keep all phases.
"""

from types import MappingProxyType

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import (
    nnUNetTrainerNoDA,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)

from nnunet_iac.host.networks import planned_network
from nnunet_iac.training.method import CONTINUE, IAC, IAC_DISCRETE, IAC_LTH
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer


class nnUNetTrainerIACLTH(RetrofitTrainer):
    """Accelerated search: warm-up, pruning search that stops by itself, finetuning.

    Deviates from nnUNetTrainer as `RetrofitTrainer` does; finetuning starts from the lottery
    ticket.
    """

    method = IAC_LTH


class nnUNetTrainerIAC(RetrofitTrainer):
    """Full search of `search_epochs` epochs on patient-wise halves, then finetuning.

    Deviates from nnUNetTrainer as `RetrofitTrainer` does; weights and architecture learn from
    alternating batches of the two halves, and finetuning starts from fresh weights.
    """

    method = IAC


class nnUNetTrainerIACDiscrete(RetrofitTrainer):
    """Finetuning only: of a random cell, or of what the settings genotype or skip name.

    Deviates from nnUNetTrainer as `RetrofitTrainer` does; there is no search.
    """

    method = IAC_DISCRETE


class nnUNetTrainerContinue(RetrofitTrainer):
    """Continues training the backbone for `finetune_epochs` with the finetuning's optimiser.

    Deviates from nnUNetTrainer as `RetrofitTrainer` does, with nnU-Net's own network. With
    `trainable_part=decoder` or `norms` the encoder is frozen, in evaluation mode, and proven so.
    The record's `backbone.json` proves what it started from; its `after` stays empty, since it is
    trained.
    """

    method = CONTINUE
    build_network_architecture = staticmethod(planned_network)


class nnUNetTrainerIACLTHNoDA(nnUNetTrainerNoDA, nnUNetTrainerIACLTH):
    """Accelerated search without data augmentation."""


class nnUNetTrainerIACNoDA(nnUNetTrainerNoDA, nnUNetTrainerIAC):
    """Full search without data augmentation."""


class nnUNetTrainerIACDiscreteNoDA(nnUNetTrainerNoDA, nnUNetTrainerIACDiscrete):
    """Finetuning of a random or given cell without data augmentation."""


class nnUNetTrainerIACLTHDA5(nnUNetTrainerDA5, nnUNetTrainerIACLTH):
    """Accelerated search with nnU-Net's strong augmentation DA5."""


class nnUNetTrainerIACDA5(nnUNetTrainerDA5, nnUNetTrainerIAC):
    """Full search with nnU-Net's strong augmentation DA5."""


class nnUNetTrainerIACDiscreteDA5(nnUNetTrainerDA5, nnUNetTrainerIACDiscrete):
    """Finetuning of a random or given cell with nnU-Net's strong augmentation DA5."""


class nnUNetTrainerIACLTHNoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainerIACLTH):
    """Accelerated search without mirroring, in training and in prediction."""


class nnUNetTrainerIACNoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainerIAC):
    """Full search without mirroring, in training and in prediction."""


class nnUNetTrainerIACDiscreteNoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainerIACDiscrete):
    """Finetuning of a random or given cell without mirroring, in training and in prediction."""


class nnUNetTrainerContinueNoDA(nnUNetTrainerNoDA, nnUNetTrainerContinue):
    """The continued backbone without data augmentation."""


class nnUNetTrainerContinueDA5(nnUNetTrainerDA5, nnUNetTrainerContinue):
    """The continued backbone with nnU-Net's strong augmentation DA5."""


class nnUNetTrainerContinueNoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainerContinue):
    """The continued backbone without mirroring, in training and in prediction."""


LENGTHS = (
    *("warmup_epochs", "search_epochs", "patience"),
    *("finetune_epochs", "iterations_per_epoch", "val_iterations_per_epoch"),
)
SHORTEST = MappingProxyType(dict(zip(LENGTHS, (1, 7, 1, 2, 2, 1), strict=True)))
"""1 warm-up, 6 search and 2 finetuning epochs of 2 iterations; the cell found is worth nothing."""

SHORT = MappingProxyType(dict(zip(LENGTHS, (3, 15, 2, 15, 50, 10), strict=True)))
"""3 warm-up, 12 search and 15 finetuning epochs of 50 iterations."""


class nnUNetTrainerIACLTH_1warmup6search2finetune(nnUNetTrainerIACLTH):
    """Accelerated search of `SHORTEST` length, to see that everything runs."""

    overrides = SHORTEST


class nnUNetTrainerIAC_1warmup6search2finetune(nnUNetTrainerIAC):
    """Full search of `SHORTEST` length, to see that everything runs."""

    overrides = SHORTEST


class nnUNetTrainerIACDiscrete_2finetune(nnUNetTrainerIACDiscrete):
    """Finetuning of a random or given cell of `SHORTEST` length, to see that everything runs."""

    overrides = SHORTEST


class nnUNetTrainerIACLTHNoDA_1warmup6search2finetune(nnUNetTrainerIACLTHNoDA):
    """Accelerated search without augmentation of `SHORTEST` length."""

    overrides = SHORTEST


class nnUNetTrainerIACLTH_3warmup12search15finetune(nnUNetTrainerIACLTH):
    """Accelerated search of `SHORT` length, for a first look at one's own data."""

    overrides = SHORT


class nnUNetTrainerIAC_3warmup12search15finetune(nnUNetTrainerIAC):
    """Full search of `SHORT` length, for a first look at one's own data."""

    overrides = SHORT


class nnUNetTrainerIACDiscrete_15finetune(nnUNetTrainerIACDiscrete):
    """Finetuning of a random or given cell of `SHORT` length, for a first look at your data."""

    overrides = SHORT
