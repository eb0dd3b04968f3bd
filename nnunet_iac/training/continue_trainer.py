"""The control at equal budget: the reference, simply trained on."""

from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from nnunet_iac.runs.plans import SECTION
from nnunet_iac.training.distributed import bare
from nnunet_iac.training.methods import CONTINUED
from nnunet_iac.training.optimisation import EpochSchedule, finetune_optimiser
from nnunet_iac.training.record import Phase, RecordState, RunRecord
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer


class nnUNetTrainerContinue(RetrofitTrainer):
    """Trains the whole backbone on for `finetune_epochs` with the finetuning's optimiser.

    Deviates from nnUNetTrainer: starts from a trained checkpoint, found as the retrofit finds its
    backbone; optimiser, schedule and length are the settings' finetuning. The record's
    `backbone.json` proves what it started from; its `after` stays empty, for nothing is frozen.
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
        self.num_epochs = self.settings.finetune_epochs
        state = RecordState(Phase.CONTINUED)
        self.record = RunRecord(self.settings, self.record_folder, self.print_to_log_file, state)

    def configure_optimizers(self) -> tuple[Optimizer, EpochSchedule]:
        """Return the finetuning's optimiser over the whole network."""
        return finetune_optimiser(list(self.network.parameters()), self.settings, first_epoch=0)

    def start_run(self) -> None:
        """Load the backbone and begin the record."""
        network = bare(self.network)
        backbone = self.find_backbone(network)
        self.clear_fold()
        network.load_state_dict(backbone.weights)
        run = {"method": CONTINUED, **self.described_run()}
        self.record.begin_record(self.backbone_record(backbone), run)
        self.record.add_network_cost("backbone", self.network_cost(network))
        self.record_folder.write_split(self.split())

    def on_train_end(self) -> None:
        """Record the final network's cost, which is the backbone's, and finish as nnU-Net does."""
        self.record.add_network_cost("final", self.network_cost(bare(self.network)))
        super().on_train_end()

    def run_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides nnU-Net's own."""
        return {**super().run_state(), "record": self.record.state_dict()}

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Take over a checkpoint's state, the record's included."""
        self.record.load_state_dict(checkpoint[SECTION]["record"])
        super().restore(checkpoint, path)
