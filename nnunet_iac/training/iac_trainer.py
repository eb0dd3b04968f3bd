"""The diary of a retrofit: nnU-Net's hooks, translated into calls on the phases."""

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.helpers import dummy_context
from torch import nn
from torch.optim import Optimizer

from nnunet_iac.nn.iac_unet import IACUNet
from nnunet_iac.nn.surgery import require_supported
from nnunet_iac.runs.atomic import replacing
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import settings_of
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import halves
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.backbone import tensors_hash
from nnunet_iac.training.cost import network_cost
from nnunet_iac.training.loaders import ARCHITECTURE, UPDATE, AlternatingLoader, finish
from nnunet_iac.training.methods import Method
from nnunet_iac.training.optimisation import (
    EpochSchedule,
    architecture_optimiser,
    finetune_optimiser,
    search_optimiser,
    step,
)
from nnunet_iac.training.phases import Phase, Phases
from nnunet_iac.training.reference import validate_reference
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer
from nnunet_iac.training.siblings import require_same_structure

FREE_TO_CHANGE = (
    "backbone_trainer",
    "backbone_plans",
    "backbone_checkpoint",
    "genotype",
    "allow_leakage",
    "recompute_cells",
)
"""Settings that may change before a run continues: they matter at its start only, or for memory."""


class IACTrainer(RetrofitTrainer):
    """Searches and finetunes cells in the skip connections of a frozen backbone.

    Deviates from nnUNetTrainer: the network is an `IACUNet` whose backbone never changes; several
    phases with their own optimisers follow one another in one run; `checkpoint_best.pth` is
    written while finetuning only; the final validation also scores the frozen backbone by itself.
    `fold_X/iac` holds the run's record.
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
        self.phases = Phases(
            self.settings,
            self.method,
            RunFolder.of_fold(self.output_folder),
            self.print_to_log_file,
        )
        self.num_epochs = self.phases.num_epochs
        self.architecture_optimizer: Optimizer | None = None
        self.genotype_leakage: str | None = None
        self._half: int | None = None

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Return the network of the plans with search cells; its weights know the rest.

        Raises:
            ValueError: a network the surgery does not support.
        """
        unet = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        require_supported(unet)
        return IACUNet(unet, settings_of(configuration_manager.configuration))

    # -- before the first epoch ------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Begin or continue the run: everything that can be wrong is found before long work."""
        if not self.was_initialized:
            self.initialize()
        require_same_structure(Path(self.output_folder), self.configuration_name, self.settings)
        if not self.resumed:
            self._start_run()
        super().on_train_start()

    def _start_run(self) -> None:
        network = self.stock_network()
        backbone = self.find_backbone(network)
        genotype = self.given_genotype()
        network.load_state_dict(backbone.weights)
        self.network.load_state_dict(backbone.weights, strict=False)
        record = BackboneRecord(
            path=str(backbone.path),
            trainer=backbone.trainer,
            fold=backbone.fold,
            before=tensors_hash(backbone.weights),
            leakage="; ".join(filter(None, (backbone.leakage, self.genotype_leakage))) or None,
        )
        run = {
            "trainer": type(self).__name__,
            "dataset": self.plans_manager.dataset_name,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_name,
            "fold": self.fold,
        }
        self.phases.start(self.network, record, run, genotype)
        self.phases.add_network_cost("backbone", self._cost(network.to(self.device)))
        if genotype is None:
            self.phases.add_network_cost("supernet", self._cost(self.network))
        self._rebuild_optimisers()

    def given_genotype(self) -> Genotype | None:
        """Return the genotype to finetune without a search, or None to search for one."""
        return None

    def _cost(self, network: nn.Module) -> Any:
        patch = self.configuration_manager.patch_size
        return network_cost(network, self.num_input_channels, patch, self.device)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases; while a loader of one half is built, that half."""
        training, validation = super().do_split()
        if self._half is not None:
            both = halves(training, self.settings.patient_pattern, self.settings.seed)
            training = list(both[self._half])
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders; in a bilevel search the first alternates between halves.

        Both halves get the training transforms; nnU-Net's validation cases are in neither.
        """
        if not (self.method.bilevel and self.phases.phase is not Phase.FINETUNE):
            return super().get_dataloaders()
        self._half = 0
        train_search, validation = super().get_dataloaders()
        self._half = 1
        val_search, spare = super().get_dataloaders()
        self._half = None
        finish(spare)
        return AlternatingLoader(train_search, val_search), validation

    # -- one epoch -------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[Optimizer, EpochSchedule]:
        """Return optimiser and schedule of the phase; alpha and beta learn in the search only."""
        phase = self.phases.phase
        searching = phase is Phase.SEARCH
        self.network.alpha.requires_grad_(searching)
        self.network.beta.requires_grad_(searching)
        self.architecture_optimizer = None
        if phase is Phase.FINETUNE:
            first = self.phases.state.first_finetune_epoch
            assert first is not None
            return finetune_optimiser(self.network.weights(), self.settings, first)
        if searching:
            self.architecture_optimizer = architecture_optimiser(self.network, self.settings)
        return search_optimiser(self.network, self.settings)

    def on_train_epoch_start(self) -> None:
        """Announce the phase."""
        super().on_train_epoch_start()
        self.print_to_log_file(f"Phase: {self.phases.phase.value}")
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
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [part.to(self.device, non_blocking=True) for part in target]
        else:
            target = target.to(self.device, non_blocking=True)
        on_cuda = self.device.type == "cuda"
        with torch.autocast("cuda") if on_cuda else dummy_context():
            loss = self.loss(self.network(data), target)
        clipped = self.network.weights() if self.optimizer in optimizers else []
        stepped = step(loss, optimizers, clipped, self.grad_scaler)
        if not stepped and self.grad_scaler is None and torch.isfinite(loss):
            raise RuntimeError(
                f"gradients must be finite; one is not in epoch {self.current_epoch}. The last "
                "checkpoint is kept: lower weights_lr or architecture_lr and continue with --c"
            )
        return {"loss": loss.detach().cpu().numpy()}

    def on_epoch_end(self) -> None:
        """Prune, discretise or go on, before nnU-Net saves the checkpoint of this epoch."""
        first_finetune = self.phases.state.first_finetune_epoch
        self._keep_best_to_finetuning(first_finetune)
        started = self.logger.get_value("epoch_start_timestamps", step=-1)
        seconds = time.time() - started
        changed = self.phases.end_epoch(self.network, self.current_epoch + 1, seconds)
        if changed:
            self._rebuild_optimisers()
        super().on_epoch_end()
        if first_finetune is None and self.phases.phase is Phase.FINETUNE:
            self._begin_finetuning()

    def _keep_best_to_finetuning(self, first_finetune: int | None) -> None:
        """Let nnU-Net's running Dice start with the finetuning, and "best" exist only there."""
        if first_finetune is None:
            self._best_ema = np.inf
        elif self.current_epoch == first_finetune:
            self._best_ema = None
            average = self.logger.get_value("ema_fg_dice", step=None)
            average[-1] = self.logger.get_value("mean_fg_dice", step=-1)

    def _begin_finetuning(self) -> None:
        self.num_epochs = self.phases.num_epochs
        self.print_to_log_file(
            f"Search finished after {self.current_epoch} epochs; finetuning the cell for "
            f"{self.settings.finetune_epochs}"
        )
        if isinstance(self.dataloader_train, AlternatingLoader):
            finish(self.dataloader_train)
            finish(self.dataloader_val)
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def _rebuild_optimisers(self) -> None:
        """Make optimisers for the parameters the network has now, keeping Adam's averages."""
        previous = self.architecture_optimizer
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if previous is not None and self.architecture_optimizer is not None:
            self.architecture_optimizer.load_state_dict(previous.state_dict())

    # -- after the last epoch --------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Prove that the backbone is unchanged, then finish as nnU-Net does."""
        final = self._cost(self.network)
        architecture = self.network.alpha.numel() + self.network.beta.numel()
        self.phases.add_network_cost(
            "final", replace(final, parameters=final.parameters - architecture)
        )
        self.phases.end_run(tensors_hash(self.network.backbone_state()))
        super().on_train_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate the frozen backbone by itself, once, then the retrofitted network."""
        validate_reference(self)
        super().perform_actual_validation(save_probabilities)

    # -- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the run's state added, atomically."""
        if self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        stock = io.BytesIO()
        super().save_checkpoint(stock)
        stock.seek(0)
        checkpoint = torch.load(stock, map_location="cpu", weights_only=False)
        architecture = self.architecture_optimizer
        checkpoint["iac"] = {
            "settings": self.settings.resolved().to_mapping(),
            "phases": self.phases.state_dict(),
            "architecture_optimizer": None if architecture is None else architecture.state_dict(),
        }
        with replacing(Path(filename)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue in any phase: structure first, then optimisers made for it, then their state."""
        if not self.was_initialized:
            self.initialize()
        checkpoint = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        if "iac" not in checkpoint:
            raise ValueError(
                f"a run must continue from its own checkpoint; {filename_or_checkpoint} was "
                f"written by {checkpoint.get('trainer_name')} and knows no search: remove it, or "
                "start anew without --c"
            )
        run = checkpoint["iac"]
        self._require_same_settings(run["settings"], filename_or_checkpoint)
        self.network.load_state_dict(checkpoint["network_weights"])
        self.phases.load_state_dict(run["phases"])
        self.num_epochs = self.phases.num_epochs
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        super().load_checkpoint(filename_or_checkpoint)
        if self.architecture_optimizer is not None:
            self.architecture_optimizer.load_state_dict(run["architecture_optimizer"])

    def _require_same_settings(self, saved: dict[str, Any], filename: Any) -> None:
        began = Settings.from_mapping(saved).resolved().to_mapping()
        for key, value in self.settings.resolved().to_mapping().items():
            if key not in FREE_TO_CHANGE and began[key] != value:
                raise ValueError(
                    f"a run must continue with the settings it began with; {key} is {value!r} in "
                    f"the plans and {began[key]!r} in {filename}: restore it, or use a new plans "
                    "identifier"
                )
