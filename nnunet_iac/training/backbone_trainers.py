"""Ordinary trainings for backbones: small ones, and the paper's protocol."""

from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import Adam, Optimizer

from nnunet_iac.host.networks import planned_network
from nnunet_iac.training.distributed import freeze_unused_heads


class AdamTrainer(nnUNetTrainer):
    """An ordinary nnU-Net trained by Adam at 1e-3, as the paper trains its backbones."""

    changes: ClassVar[dict[str, Any]] = {}
    """More attributes of nnU-Net's trainer, and their values."""
    build_network_architecture = staticmethod(planned_network)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-3
        self.save_every = 10  # An interrupted training loses no more epochs than these.
        for name, value in self.changes.items():
            setattr(self, name, value)

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        """Return Adam with nnU-Net's polynomial decay."""
        optimizer = Adam(self.network.parameters(), self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class nnUNetTrainerAdam_8epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 8 epochs of 100 iterations.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {
        "num_epochs": 8,
        "num_iterations_per_epoch": 100,
        "num_val_iterations_per_epoch": 5,
    }


class nnUNetTrainerAdam_4epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 4 epochs of 100 iterations, as long as `preset=adapt` adapts.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {**nnUNetTrainerAdam_8epochs.changes, "num_epochs": 4}


class nnUNetTrainerAdam_40epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 40 epochs.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 40}


class nnUNetTrainerAdam_80epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 80 epochs.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 80}


class nnUNetTrainerAdam_160epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 160 epochs.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 160}


class nnUNetTrainerAdam_320epochs(AdamTrainer):
    """An ordinary nnU-Net trained for 320 epochs.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 320}


class nnUNetTrainerAdamNoDeepSupervision_200epochs(AdamTrainer):
    """The paper's stage I: 200 epochs of Adam at 1e-3 without deep supervision.

    Deviates from nnUNetTrainer in these three things. The rate decays as nnU-Net's does, which the
    paper does not mention, and an epoch has nnU-Net's 250 iterations.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 200, "enable_deep_supervision": False}

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        """Return Adam with nnU-Net's polynomial decay; heads that are never run do not learn."""
        freeze_unused_heads(self.network)
        return super().configure_optimizers()


class nnUNetTrainerAdamNoDeepSupervision_80epochs(nnUNetTrainerAdamNoDeepSupervision_200epochs):
    """The paper's stage I, for small networks: 80 epochs.

    Deviates from nnUNetTrainer as `nnUNetTrainerAdamNoDeepSupervision_200epochs` does.
    """

    changes: ClassVar[dict[str, Any]] = {"num_epochs": 80, "enable_deep_supervision": False}
