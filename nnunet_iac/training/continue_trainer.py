"""The control at equal budget: the reference, simply trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.plans import SECTION
from nnunet_iac.search.controls import OF_TRAINED_PART
from nnunet_iac.training.distributed import bare, rest_unused_heads
from nnunet_iac.training.optimisation import EpochSchedule, finetune_optimiser
from nnunet_iac.training.record import Phase, RecordState, RunRecord
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer


class nnUNetTrainerContinue(RetrofitTrainer):
    """Trains the backbone on for `finetune_epochs` with the finetuning's optimiser.

    Deviates from nnUNetTrainer: starts from a trained checkpoint, found as the retrofit finds its
    backbone; optimiser, schedule and length are the settings' finetuning. With
    `trained_on=decoder` the encoder is frozen, in evaluation mode, and proven so. The record's
    `backbone.json` proves what it started from; its `after` stays empty, for it is trained.
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
        self.warn_of_ignored("skip")
        self.warn_of_ignored("genotype")
        state = RecordState(Phase.CONTINUED)
        self.record = RunRecord(self.settings, self.record_folder, self.print_to_log_file, state)

    def configure_optimizers(self) -> tuple[Optimizer, EpochSchedule]:
        """Return the finetuning's optimiser over all that is trained."""
        network = bare(self.network)
        if self._encoder_is_frozen:
            network.encoder.requires_grad_(False)
        if not self.enable_deep_supervision:
            rest_unused_heads(network)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return finetune_optimiser(trained, self.settings, first_epoch=0)

    def on_train_epoch_start(self) -> None:
        """Put the network into training mode, but for a frozen encoder."""
        super().on_train_epoch_start()
        if self._encoder_is_frozen:
            bare(self.network).encoder.eval()

    def _encoder_hash(self) -> str:
        return tensors_hash(bare(self.network).encoder.state_dict())

    @property
    def _encoder_is_frozen(self) -> bool:
        return self.settings.trained_on == "decoder"

    def start_run(self) -> None:
        """Load the backbone and begin the record."""
        network = bare(self.network)
        backbone = self.find_backbone(network)
        self.clear_fold()
        network.load_state_dict(backbone.weights)
        run = {"method": OF_TRAINED_PART[self.settings.trained_on], **self.described_run()}
        record = self.backbone_record(backbone)
        if self._encoder_is_frozen:
            record = replace(record, encoder_before=self._encoder_hash())
        self.record.begin_record(record, run)
        self.record.add_network_cost("backbone", self.network_cost(network))
        self.record_folder.write_split(self.split())

    def on_train_end(self) -> None:
        """Record the final network's cost, which is the backbone's, and finish as nnU-Net does.

        Raises:
            RuntimeError: an encoder that was to stay frozen has changed.
        """
        self.record.add_network_cost("final", self.network_cost(bare(self.network)))
        backbone = self.record.state.backbone
        if self._encoder_is_frozen and backbone is not None:
            backbone = replace(backbone, encoder_after=self._encoder_hash())
            self.record.state.backbone = backbone
            self.record.write_record()
            if backbone.encoder_after != backbone.encoder_before:
                raise RuntimeError(
                    "the frozen encoder must be bit-identical throughout the run; its hash was "
                    f"{backbone.encoder_before} and is {backbone.encoder_after}: start anew "
                    "without --c"
                )
        super().on_train_end()

    def run_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides nnU-Net's own."""
        return {**super().run_state(), "record": self.record.state_dict()}

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Take over a checkpoint's state, the record's included."""
        self.record.load_state_dict(checkpoint[SECTION]["record"])
        super().restore(checkpoint, path)
