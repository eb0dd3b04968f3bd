"""nnU-Net's hooks, each of which calls the collaborator that does the work."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import nn

from nnunet_iac.host.mps import fallback_named
from nnunet_iac.host.networks import planned_network
from nnunet_iac.host.plans import SECTION, settings_of
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import require_supported
from nnunet_iac.runs.checkpoint import BEST, FINAL, LATEST, PREVIOUS
from nnunet_iac.training import batches, checkpoints, loggers, optimisation, preflight, recorder
from nnunet_iac.training.controller import Phase
from nnunet_iac.training.distributed import unwrap_ddp, wrapped
from nnunet_iac.training.lifecycle import Lifecycle, resumable, run_epochs
from nnunet_iac.training.method import Method
from nnunet_iac.training.mirroring import keep_to
from nnunet_iac.training.retention import Retention, chosen_retention
from nnunet_iac.training.setting_checks import checked_settings
from nnunet_iac.training.side_validations import validate_others


class RetrofitTrainer(nnUNetTrainer):
    """Takes its settings from the plans and its start from a trained network.

    Deviates from nnUNetTrainer: settings and search decide the run's length; a checkpoint is
    written after every epoch, whole, and continued by its own run only; batches depend on `seed`
    only; one process works on a fold; progress.png is redrawn at most once a minute; torch.compile
    is off but for cells; `fold_X/iac` holds a record. Retrofits freeze the backbone unless settings
    train it, and score it alone, too. Every phase has its optimisers; "best" is of the finetuning.
    """

    method: ClassVar[Method]
    sibling_trainer: ClassVar[str]
    """The trainer whose checkpoint is the backbone unless the settings name another."""
    overrides: ClassVar[Mapping[str, Any]] = {}
    """Settings that this class fixes, whatever the plans have."""
    network: Any
    dataloader_train: Any
    dataloader_val: Any
    _best_ema: Any
    retention = Retention()
    _loaded: tuple[Path, int] | None = None
    """The checkpoint that the run continues from, and its time of modification."""

    def __init_subclass__(cls) -> None:
        """Find the backbone's trainer: the first class of nnU-Net's own among the parents."""
        own = (base.__name__ for base in cls.__mro__ if base.__module__.startswith("nnunetv2."))
        cls.sibling_trainer = vars(cls).get("sibling_trainer", next(own))

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        name, method, given = type(self).__name__, self.method, (plans, configuration, fold)
        settings = checked_settings(*given, dataset_json, name, method, self.overrides)
        self.continues = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings
        schedule, rates = settings.schedule, settings.optimisation
        self.enable_deep_supervision = rates.deep_supervision
        self.num_iterations_per_epoch = schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = schedule.val_iterations_per_epoch
        self.save_every = 1
        self.initial_lr, self.weight_decay = optimisation.first_rates(rates, method.searches)
        self.logger.plot_progress_png = recorder.Throttled(self.logger.plot_progress_png)
        self.logger.update_config({SECTION: settings.to_mapping()})
        workers, pinned = get_allowed_n_proc_DA(), self.device.type == "cuda"
        self.streams = batches.Streams(schedule, rates, self.local_rank, workers, pinned)
        folders = Path(f"{self.preprocessed_dataset_folder}"), Path(self.output_folder)
        chosen, log = (settings, method, self.sibling_trainer), self.print_to_log_file
        checks = preflight.Preflight(*chosen, *given, *folders, log)
        checks.log_ignored(name, self.overrides, device)
        self.run = Lifecycle(checks, name, self.local_rank, super().do_split)
        self.controller = self.run.controller
        self.num_epochs = self.controller.num_epochs

    @property
    def unet(self) -> Any:
        """The network without its wrapper for several devices."""
        return unwrap_ddp(self.network)

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Return the plans' network, retrofitted by the settings; the rest is in the weights."""
        sizes = num_input_channels, num_output_channels, enable_deep_supervision
        unet = planned_network(plans_manager, configuration_manager, *sizes)
        require_supported(unet)
        settings = settings_of(configuration_manager.configuration)
        return retrofit(unet, **settings.cell.network_arguments())

    def stock_network(self) -> nn.Module:
        """Return a new network as the plans describe it for nnUNetTrainer, on the CPU."""
        managers = self.plans_manager, self.configuration_manager
        outputs, deep = self.label_manager.num_segmentation_heads, self.enable_deep_supervision
        return planned_network(*managers, self.num_input_channels, outputs, deep)

    @property
    def _planned(self) -> preflight.PlannedNetwork:
        batch = (self.batch_size, self.num_input_channels, *self.configuration_manager.patch_size)
        return preflight.PlannedNetwork(self.stock_network, batch, self.device)

    def initialize(self) -> None:
        """Build the network after checking that there is data to train it on."""
        self.run.checks.preprocessed_cases()
        previous = self.configuration_manager.previous_stage_name
        if previous is not None:
            folder = self.run.checks.previous_stage(previous, self.do_split())
            self.folder_with_segs_from_previous_stage = str(folder)
        super().initialize()

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule of the phase."""
        return self.controller.optimisers(self.unet)

    def _rebuild_optimisers(self) -> None:
        self.network = self.unet
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.network = wrapped(self.network, self.device) if self.is_ddp else self.network

    def _do_i_compile(self) -> bool:
        return False

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases, which must not share a patient."""
        training, validation = self.run.split
        return list(training), list(validation)  # nnU-Net's data sets sort them in place.

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return batches in an order that depends on seed and epoch; a bilevel search's by half."""
        training, validation = self.streams.stock_loaders(super().get_dataloaders)
        loaders = [self.retention.joined(training), validation]
        searching = self.method.bilevel and self.controller.phase is not Phase.FINETUNE
        halves = [self.run.cases[half] for half in batches.HALVES] if searching else []
        return self.streams.from_epoch(loaders, self.current_epoch, halves)

    def run_training(self) -> None:
        """Train as nnU-Net does, for as many epochs as turn out to be needed."""
        with resumable(self, "--c"), loggers.closed_in_the_end(self.logger), fallback_named():
            if self._loaded is not None:
                checkpoints.require_newest(*self._loaded)
            self.on_train_start()
            run_epochs(self)
            self.on_train_end()

    def on_train_start(self) -> None:
        """Begin or continue the run: everything that can be wrong is found before long work."""
        if not self.was_initialized:
            self.initialize()
        optimisation.use_deterministic_cudnn(self.settings.optimisation.deterministic)
        if self.local_rank == 0 and not self.disable_checkpointing:
            self.run.checks.require_space(self.unet, self._loaded is not None)
        self.start_run() if self._loaded is None else self.continue_run()
        self.retention = chosen_retention(self, self.run.source, super().get_dataloaders)
        if self.local_rank == 0:
            self.run.recorder.add_tensorboard(self.logger.loggers, self.current_epoch)
        super().on_train_start()

    def start_run(self) -> None:
        """Start from the backbone, in a fold that is clear."""
        keep_to(self, self.run.begin(self.unet, self._planned, self.continues).mirroring)
        self._rebuild_optimisers()

    def continue_run(self) -> None:
        """Put the record beside the loaded checkpoint in order."""
        self.run.resume(self.unet, self._planned)

    def on_epoch_start(self) -> None:
        """Seed, so that an epoch does not depend on the ones before it."""
        batches.seed_epoch(self.settings.optimisation.seed, self.current_epoch)
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Set weights and modes of the network, and what batches of a bilevel search update."""
        super().on_train_epoch_start()
        self.controller.average.use_trained()
        self.controller.set_modes(self.unet)
        if isinstance(self.dataloader_train, batches.AlternatingLoader):
            self.dataloader_train.begin_epoch(self.controller.phase is Phase.SEARCH)

    def train_step(self, batch: dict) -> dict:
        """Run nnU-Net's step, or the search's; stop if the loss is not finite."""
        if self.controller.architecture_optimizer is None:
            with self.retention.in_loss(self, batch) as moved:
                result: dict = super().train_step(moved)
            self.controller.average.update()
        else:
            loss = optimisation.loss_of(self.network, self.loss, batch, self.device)
            step = functools.partial(self.controller.search_step, self.unet, self.optimizer, loss)
            moved = step(self.current_epoch, batch.get(batches.UPDATE), self.grad_scaler)
            result = {"loss": moved.cpu().numpy()}
        if not np.isfinite(result["loss"]):
            what = f"the loss must be finite; it is {result['loss']}"
            raise self.controller.not_finite(what, self.current_epoch)
        return result

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Stop before anything is saved if the training has failed."""
        if what := optimisation.fault_of_training(self.network, self.grad_scaler):
            raise self.controller.not_finite(what, self.current_epoch)
        super().on_train_epoch_end(train_outputs)

    def on_validation_epoch_start(self) -> None:
        """Validate, and save, the average of the weights where there is one."""
        self.controller.average.use_average()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Restart nnU-Net's running Dice with the finetuning; "best" exists only there."""
        average, earlier = self.logger.get_value("ema_fg_dice", step=None), []
        if self.controller.first_finetune_epoch is None:
            self._best_ema = np.inf
        elif self.current_epoch == self.controller.first_finetune_epoch:
            self._best_ema, earlier = -np.inf, average[:]
            average.clear()  # Without one before it nnU-Net's average is the epoch's own Dice.
        super().on_validation_epoch_end(val_outputs)
        recorder.keep_average(average, earlier, self.logger.get_value("mean_fg_dice", step=-1))

    def on_epoch_end(self) -> None:
        """Let the controller change the cells, then save and log as nnU-Net does."""
        phase, epoch, logger = self.controller.phase, self.current_epoch, self.logger
        seconds = time.time() - logger.get_value("epoch_start_timestamps", step=-1)
        loss = float(logger.get_value("train_losses", step=-1))
        change = self.controller.end_epoch(self.unet, epoch + 1, seconds, loss)
        if change.structure:
            self._rebuild_optimisers()
        numbers = {"phase": float([*Phase].index(phase)), "seconds": seconds}
        loggers.log_numbers(logger.loggers, numbers | self.controller.scalars(phase), epoch)
        super().on_epoch_end()
        self.run.recorder.log_progress(self.controller.progress(phase, epoch + 1), logger)
        self.num_epochs = self.controller.num_epochs
        if change.search_ended and self.method.bilevel:
            batches.finish(self.dataloader_train, self.dataloader_val)
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def on_train_end(self) -> None:
        """Check what had to stay frozen, and finish as nnU-Net does, with the last progress.png."""
        self.controller.end_run(self.unet, self._planned.cost(self.unet))
        super().on_train_end()
        recorder.draw_progress(self)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate backbone and source, then the network as nnU-Net does, which ends it."""
        predictor = optimisation.deterministic_predictor(self.settings.optimisation.deterministic)
        with resumable(self, "--val"), fallback_named(), predictor:
            validate_others(self)
            super().perform_actual_validation(save_probabilities)
            if self.local_rank == 0 and Path(self.output_folder, FINAL).is_file():
                Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the run's state added, atomically; keep the previous.

        The best goes before the latest, which records its score: nnU-Net then finds nothing better.
        """
        paths, average = [Path(filename)], self.logger.get_value("ema_fg_dice", step=None)
        is_better = average and average[-1] > self._best_ema
        if paths[0].name == LATEST and is_better:
            self._best_ema = average[-1]
            self.print_to_log_file(f"New best EMA pseudo Dice: {average[-1]:.4f}")
            paths.insert(0, paths[0].with_name(BEST))
        if self.disable_checkpointing or self.local_rank != 0:
            super().save_checkpoint(filename)
            return
        own = self.run.identity, self.controller.state_dict()
        checkpoints.write_checkpoint(checkpoints.whole_state(self, self.unet, *own), *paths)

    def load_checkpoint(self, *file: Any, **named: Any) -> None:  # Releases name it differently.
        """Continue from a checkpoint of this run: structure first, then optimisers, then state."""
        (path,) = map(Path, (*file, *named.values()))
        checkpoint = checkpoints.read_own_checkpoint(path, self.run.identity, self.settings)
        if not self.was_initialized:
            self.initialize()
        self._loaded = path, path.stat().st_mtime_ns
        with checkpoints.restoring(path):
            self.unet.load_state_dict(checkpoint["network_weights"])
            self.controller.load_state_dict(checkpoint[SECTION], self.unet)
            self.num_epochs = self.controller.num_epochs
            self._rebuild_optimisers()
            checkpoints.restore_host(self, checkpoint)
