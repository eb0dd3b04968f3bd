"""The diary of a retrofit: nnU-Net's hooks, translated into calls on the phases."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.utilities.helpers import dummy_context
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_iac.nn.cell_cost import cell_costs
from nnunet_iac.nn.iac_unet import IACUNet
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.nn.surgery import require_supported
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.plans import SECTION, settings_of
from nnunet_iac.search.beta_decay import beta_decay, beta_decay_weight
from nnunet_iac.search.budget import require_possible
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.patients import halves, held_back
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, Edge
from nnunet_iac.training.distributed import (
    bare,
    first_ranks,
    require_same_on_all_ranks,
    wrapped,
)
from nnunet_iac.training.loaders import (
    ARCHITECTURE,
    UPDATE,
    AlternatingLoader,
    drawn,
    finish,
)
from nnunet_iac.training.memory import fitted
from nnunet_iac.training.methods import Method, without_use
from nnunet_iac.training.optimisation import (
    EpochSchedule,
    architecture_optimiser,
    finetune_optimiser,
    search_optimiser,
    step,
)
from nnunet_iac.training.phases import Phases
from nnunet_iac.training.progress import Progress, search_progress
from nnunet_iac.training.record import Phase
from nnunet_iac.training.reference import validate_reference
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer
from nnunet_iac.training.scalars import search_scalars
from nnunet_iac.training.siblings import require_same_structure

STEPS_A_SCALER_MAY_LEAVE_OUT = 50
"""In a row; it halves its scale each time, so what goes on for longer is no overflow."""


class IACTrainer(RetrofitTrainer):
    """Searches and finetunes cells in the skip connections of a frozen backbone.

    Deviates from nnUNetTrainer: the network is a `RetrofittedUNet` whose backbone never changes;
    several phases with their own optimisers follow one another in one run; `checkpoint_best.pth`
    is written while finetuning only; the final validation also scores the frozen backbone by
    itself.
    The learning rate that nnU-Net logs and draws is the weights'; that of alpha and beta is fixed.
    """

    method: ClassVar[Method]

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.record = self.phases = Phases(
            self.settings, self.method_of(self.settings), self.record_folder, self.print_to_log_file
        )
        self.num_epochs = self.phases.num_epochs
        self.warn_of_ignored("trained_on")
        if self.method.searches:
            self.initial_lr, self.weight_decay = self.settings.weights_lr, 0.0
        self.architecture_optimizer: Optimizer | None = None
        self.genotype_leakage: str | None = None
        self._cases: tuple[list[str], list[str]] | None = None
        self._held_back: Any = None
        self._left_out = 0
        for setting in without_use(self.method, self.settings):
            self.warn_of_ignored(setting)

    @classmethod
    def method_of(cls, settings: Settings) -> Method:
        """Return what records call a run with these settings."""
        return cls.method

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if the settings say what a search is there to find."""
        given = {"genotype": settings.genotype, "skip": settings.skip}
        if cls.method.searches and given != {"genotype": None, "skip": "cell"}:
            raise ValueError(
                "a search finds its cells by itself; the settings have "
                f"genotype={settings.genotype}, skip={settings.skip}: use "
                "nnUNetTrainerIACDiscrete, which does not search, or leave them out"
            )

    @property
    def unet(self) -> Any:
        """The retrofitted network without its wrapper for several devices."""
        network: RetrofittedUNet = bare(self.network)
        return network

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Return the network of the plans with search cells or what the settings put for them.

        The weights know the rest.

        Raises:
            ValueError: a network the surgery does not support.
        """
        unet = RetrofitTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        require_supported(unet)
        settings = settings_of(configuration_manager.configuration)
        return retrofit(unet, **settings.cell.network_arguments())

    # -- before the first epoch ------------------------------------------------------------------

    def start_run(self) -> None:
        """Freeze the backbone, begin the record and give the cells their first weights."""
        require_same_structure(Path(self.output_folder), self.settings)
        split = self.split()
        network = self.stock_network()
        backbone = self.find_backbone(network)
        self.phases.costs = self._cell_costs()
        genotype = self.given_genotype()
        network.load_state_dict(backbone.weights)
        self.unet.load_state_dict(backbone.weights, strict=False)
        began = time.perf_counter()
        scored = self.scored_genotype()
        seconds = time.perf_counter() - began
        genotype = genotype or first_ranks(scored)
        self._fit_in_memory(genotype)
        record = self.backbone_record(backbone, self.genotype_leakage)
        self.clear_fold()
        self.phases.start(self.unet, record, self.described_run(), genotype)
        if scored is not None:
            self.phases.account(seconds, Phase.SEARCH, epochs=0)
        self.phases.add_network_cost("backbone", self.network_cost(network.to(self.device)))
        if self.method.searches:
            self.phases.add_network_cost("supernet", self.network_cost(self.unet))
        self._rebuild_optimisers()
        self.record_folder.write_split(split)

    def continue_run(self) -> None:
        """Put the record beside the checkpoint in order."""
        require_same_structure(Path(self.output_folder), self.settings)
        self._fit_in_memory(self.unet.genotype)
        self.phases.costs = self._cell_costs()
        super().continue_run()
        self.phases.continue_cells(self.unet)

    def _fit_in_memory(self, genotype: Genotype | None) -> None:
        """Log what a training step needs, and let cells recompute where it would not fit.

        Args:
            genotype: of the cells; None where they are still to be searched, or none.
        """

        def made(settings: Settings) -> RetrofittedUNet:
            network = retrofit(self.stock_network(), **settings.cell.network_arguments())
            if isinstance(network, IACUNet) and genotype is not None:
                network.discretise(genotype)
            return network

        patch = self.configuration_manager.patch_size
        network = made(self.settings)
        batch = (self.batch_size, self.num_input_channels, *patch)
        self.print_to_log_file(fitted(network, batch, self.device, self.settings, made))
        self.unet.activation_checkpointing = network.activation_checkpointing

    def _cell_costs(self) -> CellCosts | None:
        """Return what cells cost where the settings limit that, after checking that some fit."""
        settings = self.settings
        if settings.max_parameter_ratio is None and settings.max_mac_ratio is None:
            return None
        patch = self.configuration_manager.patch_size
        costs = cell_costs(self.unet, self.num_input_channels, patch)
        require_possible(costs, settings)
        return costs

    def split(self) -> dict[str, list[str]]:
        """Return the cases of either side and, in a full search, of either half."""
        split = super().split()
        names = ("train_search", "val_search" if self.method.bilevel else "held_back")
        if parts := self._parts(split["training"]):
            split.update(zip(names, map(list, parts), strict=True))
        return split

    def _parts(self, training: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the two parts of the training cases that the search keeps apart, if it does."""
        pattern, seed = self.settings.patient_pattern, self.settings.seed
        if self.method.bilevel:
            return halves(training, pattern, seed)
        if self.method.prunes and self.settings.pruning_score == "perturbation":
            return held_back(training, pattern, seed, self.settings.held_back)
        return None

    def given_genotype(self) -> Genotype | None:
        """Return the genotype to finetune without a search, or None to search for one."""
        return None

    def scored_genotype(self) -> Genotype | None:
        """Return a genotype that initial weights decide, with the backbone in place, or None."""
        return None

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases; while a part's loaders are made, that part's."""
        return super().do_split() if self._cases is None else self._cases

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, while searching of the part of the cases that it learns from.

        A bilevel search alternates between two halves, which both get the training transforms;
        pruning by perturbation holds cases back. nnU-Net's validation cases are in neither.
        """
        training, validation = self.do_split()
        parts = self._parts(training) if self.phases.phase is not Phase.FINETUNE else None
        if parts is None:
            return super().get_dataloaders()
        first, second = map(list, parts)
        if not self.method.bilevel:
            _, self._held_back = self._loaders_of(first, second)
            learning, scoring = self._loaders_of(first, validation)
            done = self.current_epoch * self.num_iterations_per_epoch
            return self.batches(learning, "train_search", done), self.validation_batches(scoring)
        loaders = [self._loaders_of(half, validation) for half in (first, second)]
        warmup = min(self.current_epoch, self.settings.warmup_epochs)
        weights, architecture = drawn(warmup, self.current_epoch - warmup, self.settings)
        alternating = AlternatingLoader(
            self.batches(loaders[0][0], "train_search", weights, share=2),
            self.batches(loaders[1][0], "val_search", architecture, share=2),
        )
        return alternating, self.validation_batches(loaders[1][1])

    def _loaders_of(self, training: list[str], validation: list[str]) -> tuple[Any, Any]:
        """Return nnU-Net's loaders as if these were the fold's cases."""
        self._cases = training, validation
        try:
            return self.stock_loaders()
        finally:
            self._cases = None

    # -- one epoch -------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[Optimizer, EpochSchedule]:
        """Return optimiser and schedule of the phase.

        alpha and beta learn in the search only, tuned norms in the finetuning only.
        """
        phase = self.phases.phase
        searching = phase is Phase.SEARCH
        unet = self.unet
        for parameter in unet.architecture_parameters():
            parameter.requires_grad_(searching)
        for parameter in unet.norm_weights():
            parameter.requires_grad_(phase is Phase.FINETUNE)
        self.architecture_optimizer = None
        if phase is Phase.FINETUNE:
            first = self.phases.state.first_finetune_epoch
            assert first is not None
            learning = [*unet.weights(), *unet.norm_weights()]
            return finetune_optimiser(learning, self.settings, first)
        if searching:
            self.architecture_optimizer = architecture_optimiser(unet, self.settings)
        return search_optimiser(unet, self.settings)

    def on_train_epoch_start(self) -> None:
        """Tell the batches of a full search what they are there to update."""
        super().on_train_epoch_start()
        if isinstance(self.dataloader_train, AlternatingLoader):
            self.dataloader_train.begin_epoch(alternate=self.phases.phase is Phase.SEARCH)

    def run_step(self, batch: dict) -> dict:
        """Run nnU-Net's step, or in the search one that also moves alpha and beta."""
        if self.architecture_optimizer is None:
            return super().run_step(batch)
        optimizers = [self.optimizer, self.architecture_optimizer]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.method.bilevel:
            optimizers = optimizers[1:] if batch[UPDATE] == ARCHITECTURE else optimizers[:1]
        loss = self._loss_of(self.network, batch)
        clipped = self.unet.weights() if self.optimizer in optimizers else []
        stepped = step(loss + self._beta_decay(), optimizers, clipped, self.grad_scaler)
        self._left_out = 0 if stepped else self._left_out + 1
        allowed = 0 if self.grad_scaler is None else STEPS_A_SCALER_MAY_LEAVE_OUT
        if self._left_out > allowed and torch.isfinite(loss):
            raise self.not_finite("gradients must be finite; one is not", self._wrong_edge())
        return {"loss": loss.detach().cpu().numpy()}

    def _loss_of(self, network: Any, batch: dict) -> Tensor:
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [part.to(self.device, non_blocking=True) for part in target]
        else:
            target = target.to(self.device, non_blocking=True)
        on_cuda = self.device.type == "cuda"
        with torch.autocast("cuda") if on_cuda else dummy_context():
            return self.loss(network(data), target)

    def _beta_decay(self) -> Tensor | float:
        """Return what regularises alpha in this epoch."""
        settings = self.settings
        end = settings.latest_end if self.method.prunes else settings.search_epochs
        weight = beta_decay_weight(self.current_epoch, end, settings)
        return weight * beta_decay(self.unet.alpha, self.unet.active) if weight else 0.0

    def _wrong_edge(self) -> Edge | None:
        """Return the first edge where the gradient of alpha or beta is not finite."""
        for gradient in (self.unet.alpha.grad, self.unet.beta.grad):
            if gradient is not None and len(wrong := (~torch.isfinite(gradient)).nonzero()):
                return EDGES[int(wrong[0][0])]
        return None

    def not_finite(self, what: str, edge: Edge | None = None) -> RuntimeError:
        """Return the error of a number that is not finite, after recording it."""
        self.phases.notice(HealthEvent(self.current_epoch + 1, "non-finite", edge, what))
        return super().not_finite(what, edge)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Let nnU-Net's running Dice begin again with the finetuning; "best" exists only there."""
        first_finetune = self.phases.state.first_finetune_epoch
        average = self.logger.get_value("ema_fg_dice", step=None)
        earlier = []
        if first_finetune is None:
            self._best_ema = np.inf
        elif self.current_epoch == first_finetune:
            self._best_ema = None
            earlier = average[:]
            average.clear()  # Without one before it nnU-Net's average is the epoch's own Dice.
        super().on_validation_epoch_end(val_outputs)
        average[:0] = earlier

    def on_epoch_end(self) -> None:
        """Close the epoch as all trainers do; after the last of a search, begin the finetuning."""
        first_finetune = self.phases.state.first_finetune_epoch
        super().on_epoch_end()
        if first_finetune is None and self.phases.phase is Phase.FINETUNE:
            self._begin_finetuning()

    def close_epoch(self, seconds: float) -> None:
        """Prune, discretise or go on, before nnU-Net saves the checkpoint of this epoch."""
        require_same_on_all_ranks(*self.unet.architecture_parameters())
        loss = float(self.logger.get_value("train_losses", step=-1))
        if self.phases.end_epoch(self.unet, self.current_epoch + 1, seconds, loss):
            self._rebuild_optimisers()

    def scalars(self, phase: Phase) -> dict[str, float]:
        """Return the numbers of an epoch of the search; the finetuning has none of its own."""
        if phase is Phase.FINETUNE:
            return {}
        state = self.phases.state
        return search_scalars(state.rows[-1], state.pruning, self.settings)

    def progress(self, phase: Phase) -> Progress:
        """Return how far the run is after an epoch of a phase."""
        if phase is Phase.FINETUNE:
            return super().progress(phase)
        epochs, pruning = self.current_epoch, self.phases.state.pruning
        search = search_progress(pruning, epochs, self.settings, self.method.prunes)
        first, last = search.ends
        further = self.settings.finetune_epochs
        return Progress(phase.value, epochs, (first + further, last + further), search)

    def _begin_finetuning(self) -> None:
        self.num_epochs = self.phases.num_epochs
        self.print_to_log_file(
            f"Search finished after {self.current_epoch} epochs; finetuning the cell for "
            f"{self.settings.finetune_epochs}"
        )
        if self._parts(self.do_split()[0]) is not None:
            finish(self.dataloader_train)
            finish(self.dataloader_val)
            self._held_back = None
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def _rebuild_optimisers(self) -> None:
        """Make optimisers and wrapper for the parameters there are now, keeping Adam's averages."""
        self.network = self.unet
        previous = self.architecture_optimizer
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if previous is not None and self.architecture_optimizer is not None:
            self.architecture_optimizer.load_state_dict(previous.state_dict())
        if self.is_ddp:
            self.network = wrapped(self.network, self.device)

    # -- after the last epoch --------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Prove that the backbone is unchanged, then finish as nnU-Net does."""
        final = self.network_cost(self.unet)
        architecture = sum(p.numel() for p in self.unet.architecture_parameters())
        self.phases.add_network_cost(
            "final", replace(final, parameters=final.parameters - architecture)
        )
        self.phases.end_run(tensors_hash(self.unet.backbone_state()))
        super().on_train_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate the frozen backbone by itself, once, then the retrofitted network."""
        with self.held():
            validate_reference(self)
            super().perform_actual_validation(save_probabilities)

    # -- checkpoints -----------------------------------------------------------------------------

    def run_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides nnU-Net's own."""
        architecture = self.architecture_optimizer
        return {
            **super().run_state(),
            "phases": self.phases.state_dict(),
            "architecture_optimizer": None if architecture is None else architecture.state_dict(),
        }

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue in any phase: structure first, then optimisers made for it, then their state."""
        run = checkpoint[SECTION]
        self.unet.load_state_dict(checkpoint["network_weights"])
        self.phases.load_state_dict(run["phases"])
        self.phases.require_frozen(tensors_hash(self.unet.backbone_state()))
        self.num_epochs = self.phases.num_epochs
        self.architecture_optimizer = None
        self._rebuild_optimisers()
        super().restore(checkpoint, path)
        if self.architecture_optimizer is not None:
            self.architecture_optimizer.load_state_dict(run["architecture_optimizer"])
