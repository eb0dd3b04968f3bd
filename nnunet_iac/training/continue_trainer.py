"""The control at equal budget: the reference, simply trained on."""

from torch.optim import Optimizer

from nnunet_iac.training.distributed import bare
from nnunet_iac.training.optimisation import EpochSchedule, finetune_optimiser
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer


class nnUNetTrainerContinue(RetrofitTrainer):
    """Trains the whole backbone on for `finetune_epochs` with the finetuning's optimiser.

    Deviates from nnUNetTrainer: starts from a trained checkpoint, found as the retrofit finds its
    backbone; optimiser, schedule and length are the settings' finetuning.
    """

    def initialize(self) -> None:
        """Build the stock network, to be trained for `finetune_epochs`."""
        self.num_epochs = self.settings.finetune_epochs
        super().initialize()

    def configure_optimizers(self) -> tuple[Optimizer, EpochSchedule]:
        """Return the finetuning's optimiser over the whole network."""
        return finetune_optimiser(list(self.network.parameters()), self.settings, first_epoch=0)

    def start_run(self) -> None:
        """Load the backbone."""
        backbone = self.find_backbone(self.network)
        self.clear_fold()
        bare(self.network).load_state_dict(backbone.weights)
