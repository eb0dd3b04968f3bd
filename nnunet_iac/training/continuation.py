"""The one phase of the control that continues training its backbone."""

from typing import Any

from torch.optim import Optimizer

from nnunet_iac.nn.tuned_norms import norms_of
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training import optimisation
from nnunet_iac.training.controller import Change, Phase, not_finite
from nnunet_iac.training.distributed import freeze_unused_heads
from nnunet_iac.training.finetuning import FinetuneLength
from nnunet_iac.training.method import Method, method_name
from nnunet_iac.training.progress import Progress
from nnunet_iac.training.recorder import Recorder
from nnunet_iac.training.trained_backbone import (
    record_encoder,
    require_encoder_unchanged,
    with_trained_part,
)
from nnunet_iac.training.weight_average import WeightAverage


class ContinuationController:
    """Continues training the backbone, or a part (`trainable_part`): the equal-budget control.

    It has one phase, and the methods of `SearchController`.
    """

    phase = Phase.CONTINUED
    first_finetune_epoch: int | None = 0
    architecture_optimizer: Optimizer | None = None
    costs: CellCosts | None = None

    def __init__(self, settings: Settings, method: Method, recorder: Recorder) -> None:
        self.settings = settings
        self.method = method
        self.recorder = recorder
        self.finetuning = FinetuneLength(settings.schedule)
        self.average = WeightAverage(settings.optimisation.ema_decay)
        self.trained = method.trained_backbone(settings.cell)

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.finetuning.epochs

    def start(
        self, network: Any, backbone: BackboneRecord, run: dict, genotype: Genotype | None = None
    ) -> None:
        """Begin a new record."""
        backbone = with_trained_part(backbone, self.trained, network.encoder)
        retention = self.method.retention(self.settings.optimisation)
        name = method_name(self.method, self.settings.cell, retention)
        self.recorder.begin(backbone, {"method": name, **run})

    def resume(self, network: Any) -> None:
        """Write the record as of the loaded checkpoint."""
        self.recorder.restore()

    def end_run(self, network: Any, cost: Cost) -> None:
        """Record the final network's cost, which is the backbone's, and check a frozen encoder."""
        self.recorder.add_network_cost("final", cost)
        record_encoder(self.recorder, network)
        self.recorder.write()
        assert self.recorder.backbone is not None
        require_encoder_unchanged(self.recorder.backbone, network.encoder)

    def optimisers(self, network: Any) -> tuple[Optimizer, optimisation.EpochSchedule]:
        """Return the finetuning's optimiser and schedule over all that is trained."""
        if self.trained != "all":
            network.encoder.requires_grad_(False)
        if self.trained == "norms":
            network.requires_grad_(False)
            for norm in norms_of(network.decoder):
                norm.requires_grad_(True)
        if not self.settings.optimisation.deep_supervision:
            freeze_unused_heads(network)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError(
                "trainable_part=norms needs norms with a scale and a shift in the decoder; the "
                "plans' network has none: train the decoder, or the network"
            )
        self.average.track(network)
        rates = self.settings.optimisation
        epochs = self.settings.schedule.finetune_epochs
        return optimisation.finetune_optimiser(trained, rates, epochs, 0)

    def set_modes(self, network: Any) -> None:
        """Keep what is frozen in evaluation mode, norms of which only scale and shift learn too."""
        if self.trained == "decoder":
            network.encoder.eval()
        elif self.trained == "norms":
            network.eval()

    not_finite = staticmethod(not_finite)

    def end_epoch(self, network: Any, completed: int, seconds: float, loss: float) -> Change:
        """Record what an epoch took; the network stays as it is."""
        self.recorder.account(self.phase.value, seconds)
        self.finetuning.end_epoch(loss, self.recorder.log)
        self.recorder.write()
        return Change()

    def scalars(self, phase: Phase) -> dict[str, float]:
        """Return the numbers of the last epoch; this control has none of its own."""
        return {}

    def progress(self, phase: Phase, epochs: int) -> Progress:
        """Return how far the run is after so many epochs."""
        return Progress(phase.value, epochs, (self.num_epochs, self.num_epochs))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of a run, in plain types and tensors."""
        phase, finetuning = self.phase.value, self.finetuning.state_dict()
        record = {**self.recorder.state_dict(), "phase": phase, "finetuning": finetuning}
        return {"record": record, **self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any], network: Any) -> None:
        """Restore what `state_dict` returned."""
        self.recorder.load_state_dict(state["record"])
        self.finetuning.load_state_dict(state["record"].get("finetuning", {}))
        self.optimisers(network)
        self.average.load_state_dict(state)
