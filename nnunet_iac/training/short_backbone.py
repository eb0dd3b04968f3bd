"""A small training of stage I, for the demo and for trying things out."""

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import Adam, Optimizer


class nnUNetTrainerAdam_8epochs(nnUNetTrainer):
    """An ordinary nnU-Net trained for 8 epochs of 100 iterations.

    Deviates from nnUNetTrainer: Adam at 1e-3, as the paper trains its backbones, and that length.
    """

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
        self.num_epochs = 8
        self.num_iterations_per_epoch = 100
        self.num_val_iterations_per_epoch = 5

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        """Return Adam with nnU-Net's polynomial decay."""
        optimizer = Adam(self.network.parameters(), self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
