"""What every trainer that starts from a trained backbone shares."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import nn

from nnunet_iac.host.planning import built_from_plans
from nnunet_iac.runs.atomic import remove_leftovers
from nnunet_iac.runs.checkpoint import (
    FINAL,
    PREVIOUS,
    tensors_hash,
)
from nnunet_iac.runs.fold import LOCK, held, require_space, require_writable, set_aside
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import (
    SECTION,
    configuration_of,
    dataset_number,
    lineage,
    require_dataset_name,
    require_file_ending,
    require_identifier,
    require_trainable,
)
from nnunet_iac.runs.records import BackboneRecord, NetworkCost
from nnunet_iac.runs.splits import require_splits
from nnunet_iac.search.patients import shared_patients
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import Edge
from nnunet_iac.training.backbone import (
    Backbone,
    Fold,
    backbone_file,
    read_backbone,
    validation_summary,
)
from nnunet_iac.training.cascade import previous_predictions
from nnunet_iac.training.checkpointed_trainer import CheckpointedTrainer
from nnunet_iac.training.continuation import (
    require_nothing_lost,
    require_own_record,
)
from nnunet_iac.training.cost import network_cost
from nnunet_iac.training.distributed import ranks
from nnunet_iac.training.loaders import (
    SeededLoader,
    augmenter,
    choose_blur_without_timing,
    seed_generators,
)
from nnunet_iac.training.optimisation import SGD_WEIGHT_DECAY
from nnunet_iac.training.progress import RECENT, Progress, progress_line
from nnunet_iac.training.record import Phase, RunRecord
from nnunet_iac.training.tensorboard import FOLDER_NAME, TensorBoardLogger, tensorboard_wanted

STREAMS = ("train", "train_search", "val_search", "validation", "held_back")
"""Streams of batches; each has random numbers of its own."""

COMPILE_VARIABLE = "nnUNet_compile"

FILES_IN_A_FOLD = 4
"""Checkpoints that may lie in a fold at once: latest, previous, best, and one being written."""

CURE = (
    "look for broken images and continue with --c, or start anew under new plans with lower "
    "learning rates"
)
"""Of numbers that are not finite."""

PLOT_INTERVAL_SECONDS = 60.0
"""nnU-Net redraws progress.png every epoch, which takes longer than a short epoch."""


class RetrofitTrainer(CheckpointedTrainer):
    """A trainer that takes its settings from the plans and its start from a trained network.

    Deviates from nnUNetTrainer: the run's length comes from the settings; a checkpoint is written
    after every epoch, whole, and the one before it kept; `--c` demands the very run it continues;
    batches come in an order that depends on `seed` only; one process at a time works on a fold;
    progress.png is redrawn at most once a minute; the epochs need not be known when training
    starts; a line after every epoch tells how far the run is, and nnU-Net's additional loggers get
    the run's own numbers, too; torch.compile is off, since the structure of a search changes and
    methods are to be compared. `fold_X/iac` holds the run's record.
    """

    sibling_trainer: ClassVar[str] = "nnUNetTrainer"
    """The trainer whose checkpoint is the backbone unless the settings name another."""

    record: RunRecord
    dataloader_train: Any
    dataloader_val: Any
    dataset_class: Any

    overrides: ClassVar[Mapping[str, Any]] = {}
    """Settings that this class fixes, whatever the plans say."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        described = configuration_of(plans, configuration)
        require_trainable(described)
        if fold != "all" and (type(fold) is not int or fold < 0):
            raise ValueError(f"the fold must be all or an integer >= 0; got {fold!r}: give another")
        values = described.get(SECTION, {})
        fixed = {key: value for key, value in self.overrides.items() if key in values}
        settings = Settings.from_mapping({**values, **self.overrides})
        self.check_settings(settings)
        require_identifier(plans.get("plans_name"))
        require_dataset_name(plans.get("dataset_name"))
        require_file_ending(dataset_json.get("file_ending"))
        if nnUNet_results.is_set():
            model = f"{type(self).__name__}__{plans['plans_name']}__{configuration}"
            require_writable(Path(nnUNet_results) / plans["dataset_name"] / model / f"fold_{fold}")
        self.continues = bool(plans.get("continue_training"))
        self._tensorboard_wanted = tensorboard_wanted()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings
        self.enable_deep_supervision = settings.deep_supervision
        for key, value in fixed.items():
            if values[key] != value:
                self.print_to_log_file(
                    f"WARNING: {key}={values[key]} of the plans is ignored; "
                    f"{type(self).__name__} fixes it at {value}"
                )
        if os.environ.get(COMPILE_VARIABLE, "").lower() in ("true", "1", "t"):
            self.print_to_log_file(
                f"WARNING: {COMPILE_VARIABLE} is ignored; retrofits train uncompiled"
            )
        self.num_iterations_per_epoch = settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.val_iterations_per_epoch
        self.save_every = 1
        self.initial_lr = settings.finetune_lr
        self.weight_decay = SGD_WEIGHT_DECAY if settings.finetune_optimizer == "sgd" else 0.0
        self._lock = FileLock(Path(self.output_folder) / LOCK)
        self._plot = self.logger.plot_progress_png
        self._last_plot = 0.0
        self.logger.plot_progress_png = self._plot_now_and_then
        self.logger.update_config({SECTION: settings.resolved().to_mapping()})
        self._tensorboard: TensorBoardLogger | None = None
        # The first rank keeps the record; the others write theirs where nobody looks.
        self._spare = TemporaryDirectory() if self.local_rank else None
        fold_folder = self._spare.name if self._spare else self.output_folder
        self.record_folder = RunFolder.of_fold(fold_folder)

    def held(self) -> AbstractContextManager[None]:
        """Return a context in which no other process may work on this fold."""
        return held(self._lock) if self.local_rank == 0 else nullcontext()

    def _do_i_compile(self) -> bool:
        return False

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if this trainer cannot run with valid settings."""

    def warn_of_ignored(self, setting: str) -> None:
        """Log if a setting has a value that this trainer has no use for."""
        value = getattr(self.settings, setting)
        if value != getattr(Settings, setting):
            self.print_to_log_file(
                f"WARNING: {setting}={value} is ignored; {type(self).__name__} has no use for it"
            )

    def initialize(self) -> None:
        """Build the network after checking that there is data to train it on."""
        self._require_data()
        self._require_previous_stage()
        super().initialize()

    def _require_data(self) -> None:
        folder = Path(self.preprocessed_dataset_folder)
        if not folder.is_dir() or not any(folder.iterdir()):
            dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
            raise FileNotFoundError(
                f"preprocessed data must exist in {folder}; run\n  nnUNetv2_preprocess -d "
                f"{dataset_number(dataset)} -plans_name {plans} -c {self.configuration_name}"
            )

    def _require_previous_stage(self) -> None:
        """Take a cascade's first stage where the backbone has it.

        nnU-Net would look for one that this trainer has trained; the backbone learned from another.
        """
        previous = self.configuration_manager.previous_stage_name
        if previous is not None:
            model = self._backbone_file().parent.parent
            cases = [case for side in self.do_split() for case in side]
            folder = previous_predictions(model, previous, self.configuration_name, cases)
            self.folder_with_segs_from_previous_stage = str(folder)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases, which must not share a patient."""
        self._require_data()
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        splits = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        cases = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        require_splits(splits, self.fold, cases)
        training, validation = super().do_split()
        shared = shared_patients(training, validation, self.settings.patient_pattern)
        if shared and self.fold != "all" and not self.settings.allow_leakage:
            raise ValueError(
                f"a patient must not be on both sides of a split; fold {self.fold} has "
                f"{', '.join(shared[:3])}{' …' if len(shared) > 3 else ''} on both: write a "
                "splits_final.json that groups by patient"
            )
        return training, validation

    def _wanted_fold(self) -> Fold:
        _, validation = self.do_split()
        names = self.plans_manager.dataset_name, self.configuration_name
        return Fold(*names, self.fold, validation)

    def _backbone_file(self) -> Path:
        results = Path(nnUNet_results) / self.plans_manager.dataset_name
        plans = self.plans_manager.plans
        preprocessed = Path(nnUNet_preprocessed) / self.plans_manager.dataset_name
        alike = lineage(plans, self.configuration_name, preprocessed)
        return backbone_file(
            self.settings, self.sibling_trainer, alike, self._wanted_fold(), results
        )

    def find_backbone(self, network: nn.Module) -> Backbone:
        """Return the backbone's checkpoint for this fold, checked against the stock network."""
        path, fold = self._backbone_file(), self._wanted_fold()
        splits = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        described = configuration_of(self.plans_manager.plans, self.configuration_name)
        backbone = read_backbone(path, network, described, fold, self.settings, splits)
        self.print_to_log_file(f"Backbone: {backbone.path}")
        if not validation_summary(path).is_file():
            self.print_to_log_file(
                "WARNING: the backbone has no validation/summary.json, so its fold number alone "
                "says which cases it has not seen"
            )
        if backbone.leakage is not None:
            self.print_to_log_file(f"WARNING: the backbone {backbone.leakage}")
        return backbone

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Return nnU-Net's network of the plans.

        Raises:
            ValueError: plans whose network cannot be built.
        """
        with built_from_plans():
            return nnUNetTrainer.build_network_architecture(
                plans_manager,
                configuration_manager,
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )

    def stock_network(self) -> nn.Module:
        """Return a new network as the plans describe it for nnUNetTrainer, on the CPU."""
        return RetrofitTrainer.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        )

    def on_train_start(self) -> None:
        """Begin or continue the run: everything that can be wrong is found before long work."""
        if not self.was_initialized:
            self.initialize()
        self._obey_deterministic()
        folder = Path(self.output_folder)
        if self.local_rank == 0 and not self.disable_checkpointing:
            present = sum(path.stat().st_size for path in folder.glob("checkpoint_*.pth"))
            require_space(folder, FILES_IN_A_FOLD * self._checkpoint_bytes() - present)
        if self.resumed:
            self.continue_run()
        else:
            if self.continues and self.local_rank == 0:
                require_nothing_lost(folder)
            self.start_run()
        if self._tensorboard_wanted and self.local_rank == 0:
            folder = self.record_folder.path / FOLDER_NAME
            self._tensorboard = TensorBoardLogger(folder, self.current_epoch)
            self.logger.loggers.append(self._tensorboard)
        super().on_train_start()

    def _obey_deterministic(self) -> None:
        # nnU-Net's command sets the opposite after it has made the trainer.
        if self.settings.deterministic:
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    def start_run(self) -> None:
        """Start from the backbone, in a fold that is clear."""

    def continue_run(self) -> None:
        """Go on from the checkpoint that was loaded, and put the record beside it in order."""
        require_own_record(self.record_folder, self.identity, self.settings)
        self.record.continue_record()
        self.record_folder.write_split(self.split())

    def split(self) -> dict[str, list[str]]:
        """Return the cases the run learns from and those it is scored on."""
        training, validation = self.do_split()
        return {"training": list(training), "validation": list(validation)}

    def backbone_record(self, backbone: Backbone, leakage: str | None = None) -> BackboneRecord:
        """Return what the record tells of the backbone before training.

        Args:
            backbone: its checkpoint.
            leakage: why the run may have seen validation cases otherwise.
        """
        return BackboneRecord(
            path=str(backbone.path),
            trainer=backbone.trainer,
            fold=backbone.fold,
            before=tensors_hash(backbone.weights),
            leakage="; ".join(filter(None, (backbone.leakage, leakage))) or None,
        )

    def described_run(self) -> dict[str, Any]:
        """Return what the record tells of which run this is."""
        return {**self.identity, "ranks": ranks()}

    def network_cost(self, network: nn.Module) -> NetworkCost:
        """Return parameters and multiply-accumulates of a network for one patch of the plans."""
        patch = self.configuration_manager.patch_size
        return network_cost(network, self.num_input_channels, patch, self.device)

    def clear_fold(self) -> None:
        """Make room for a new run; what an earlier one left is moved aside, never overwritten."""
        if self.local_rank == 0 and (aside := set_aside(Path(self.output_folder))) is not None:
            self.print_to_log_file(f"Record and checkpoints of an earlier run are kept in {aside}")

    # -- batches ---------------------------------------------------------------------------------

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's batches in an order that depends on the seed and the epoch only."""
        train, validation = self.stock_loaders()
        return (
            self.batches(train, "train", self.current_epoch * self.num_iterations_per_epoch),
            self.validation_batches(validation),
        )

    def stock_loaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders without their worker processes."""
        with _environment("nnUNet_n_proc_DA", "0"):
            loaders = [augmenter.data_loader for augmenter in super().get_dataloaders()]
        if self.settings.deterministic:
            for loader in loaders:
                choose_blur_without_timing(loader.transforms)
        return loaders[0], loaders[1]

    def batches(self, loader: Any, stream: str, first: int, share: int = 1) -> Any:
        """Return a stream of batches from number `first` on, made by a share of the workers."""
        workers = get_allowed_n_proc_DA()
        workers = max(1, workers // share) if workers else 0
        entropy = [self.settings.seed, STREAMS.index(stream), self.local_rank]
        pin_memory = self.device.type == "cuda"
        return augmenter(SeededLoader(loader, entropy, first, workers), workers, pin_memory)

    def validation_batches(self, loader: Any) -> Any:
        """Return the stream of validation batches from the current epoch on."""
        first = self.current_epoch * self.num_val_iterations_per_epoch
        return self.batches(loader, "validation", first, share=2)

    # -- one epoch -------------------------------------------------------------------------------

    def train_step(self, batch: dict) -> dict:
        """Run one step and stop at a loss that is not finite.

        Raises:
            RuntimeError: says in which epoch; the last checkpoint is kept.
        """
        result = self.run_step(batch)
        if not np.isfinite(result["loss"]):
            raise self.not_finite(f"the loss must be finite; it is {result['loss']}")
        return result

    def not_finite(self, what: str, edge: Edge | None = None) -> RuntimeError:
        """Return the error of a number that is not finite; `edge` is where, if it has a place."""
        where = "" if edge is None else f" on edge {edge.source}->{edge.target}"
        return RuntimeError(
            f"{what}{where} in epoch {self.current_epoch}. The last checkpoint is kept: {CURE}"
        )

    def run_step(self, batch: dict) -> dict:
        """Run one training step; nnU-Net's own unless overridden."""
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Stop before anything is saved if the last step made a weight non-finite.

        Raises:
            RuntimeError: says in which epoch; the last checkpoint is kept.
        """
        trained = (p for p in self.network.parameters() if p.requires_grad)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in trained):
            raise self.not_finite("weights must be finite; some are not after training")
        super().on_train_epoch_end(train_outputs)

    def on_epoch_start(self) -> None:
        """Re-seed, so that an epoch does not depend on how the run came to it."""
        seed_generators([self.settings.seed, self.current_epoch])
        torch.manual_seed(torch.initial_seed())  # Other devices' generators, too.
        super().on_epoch_start()

    def on_epoch_end(self) -> None:
        """Close the epoch, then end it as nnU-Net does and say how far the run is."""
        phase = self.record.phase
        seconds = time.time() - self.logger.get_value("epoch_start_timestamps", step=-1)
        self.close_epoch(seconds)
        numbers = {"phase": float(list(Phase).index(phase)), "seconds": seconds}
        for name, number in {**numbers, **self.scalars(phase)}.items():
            # Not nnU-Net's own logger, which knows its keys only: our record holds these.
            for logger in self.logger.loggers:
                logger.log(f"{SECTION}/{name}", number, self.current_epoch)
        super().on_epoch_end()
        line = progress_line(self.progress(phase), self._pace(phase), datetime.now())
        self.print_to_log_file(line)

    def close_epoch(self, seconds: float) -> None:
        """Record an epoch and what it took, before its checkpoint is written."""
        self.record.account(seconds)
        self.record.write_record()

    def scalars(self, phase: Phase) -> dict[str, float]:
        """Return the numbers of the epoch that was closed, by name, which nnU-Net does not log.

        Args:
            phase: that the epoch belonged to.
        """
        return {}

    def progress(self, phase: Phase) -> Progress:
        """Return how far the run is after an epoch of a phase."""
        return Progress(phase.value, self.current_epoch, (self.num_epochs, self.num_epochs))

    def _pace(self, phase: Phase) -> float:
        """Return the mean seconds of the recent epochs of a phase that has just had one."""
        recent = min(self.record.state.cost.phases[phase.value].epochs, RECENT)
        starts, ends = (
            self.logger.get_value(f"epoch_{which}_timestamps", step=None)[-recent:]
            for which in ("start", "end")
        )
        return float(np.mean(np.subtract(ends, starts)))

    def run_training(self) -> None:
        """Train as nnU-Net does, for as many epochs as turn out to be needed."""
        with self.held():
            self._require_as_loaded()
            if self.local_rank == 0:
                remove_leftovers(Path(self.output_folder))
            try:
                self._train()
            finally:
                if self._tensorboard is not None:
                    self._tensorboard.close()

    def _train(self) -> None:
        self.on_train_start()
        while self.current_epoch < self.num_epochs:
            self.on_epoch_start()
            self.on_train_epoch_start()
            batches = range(self.num_iterations_per_epoch)
            outputs = [self.train_step(next(self.dataloader_train)) for _ in batches]
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                batches = range(self.num_val_iterations_per_epoch)
                outputs = [self.validation_step(next(self.dataloader_val)) for _ in batches]
                self.on_validation_epoch_end(outputs)
            self.on_epoch_end()
        self.on_train_end()

    def on_train_end(self) -> None:
        """Finish as nnU-Net does, with an up-to-date progress.png."""
        super().on_train_end()
        self._plot(self.output_folder)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does; a finished run needs no previous checkpoint any more."""
        self._obey_deterministic()
        with self.held():
            super().perform_actual_validation(save_probabilities)
            if self.local_rank == 0 and Path(self.output_folder, FINAL).is_file():
                Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)

    def _plot_now_and_then(self, output_folder: str) -> None:
        if time.monotonic() - self._last_plot > PLOT_INTERVAL_SECONDS:
            self._plot(output_folder)
            self._last_plot = time.monotonic()


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
