"""What every trainer that starts from a trained backbone shares."""

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.plans import SECTION, configuration_of, dataset_number
from nnunet_iac.search.patients import shared_patients
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.backbone import (
    Backbone,
    Fold,
    backbone_file,
    read_backbone,
    validation_summary,
)

PLOT_INTERVAL_SECONDS = 60.0
"""nnU-Net redraws progress.png every epoch, which takes longer than a short epoch."""


class RetrofitTrainer(nnUNetTrainer):
    """A trainer that takes its settings from the plans and its start from a trained network.

    Deviates from nnUNetTrainer: the run's length comes from the settings; a checkpoint is written
    after every epoch; random generators are re-seeded at every epoch from `seed`; progress.png is
    redrawn at most once a minute; the epochs need not be known when training starts; torch.compile
    is off, since the structure of a search changes and methods are to be compared.
    """

    sibling_trainer: ClassVar[str] = "nnUNetTrainer"
    """The trainer whose checkpoint is the backbone unless the settings name another."""

    network: Any
    dataloader_train: Any
    dataloader_val: Any
    _best_ema: float | None

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
        values = described.get(SECTION, {})
        fixed = {key: value for key, value in self.overrides.items() if key in values}
        settings = Settings.from_mapping({**values, **self.overrides})
        self.check_settings(settings)
        if described.get("previous_stage") is not None:
            raise ValueError(
                "the configuration must not be the second stage of a cascade, which "
                f"{configuration} is; use 2d, 3d_fullres or 3d_lowres"
            )
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings
        for key, value in fixed.items():
            if values[key] != value:
                self.print_to_log_file(
                    f"WARNING: {key}={values[key]} of the plans is ignored; "
                    f"{type(self).__name__} fixes it at {value}"
                )
        if self.is_ddp:
            raise RuntimeError(
                f"{type(self).__name__} trains on one device; got -num_gpus > 1: leave it out"
            )
        self.num_iterations_per_epoch = settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.val_iterations_per_epoch
        self.save_every = 1
        self.resumed = False
        self._plot = self.logger.plot_progress_png
        self._last_plot = 0.0
        self.logger.plot_progress_png = self._plot_now_and_then

    def _do_i_compile(self) -> bool:
        return False

    @classmethod
    def check_settings(cls, settings: Settings) -> None:
        """Raise a ValueError if this trainer cannot run with valid settings."""

    def initialize(self) -> None:
        """Build the network after checking that there is data to train it on."""
        folder = Path(self.preprocessed_dataset_folder)
        if not folder.is_dir() or not any(folder.iterdir()):
            dataset, plans = self.plans_manager.dataset_name, self.plans_manager.plans_name
            raise FileNotFoundError(
                f"preprocessed data must exist in {folder}; run\n  nnUNetv2_preprocess -d "
                f"{dataset_number(dataset)} -plans_name {plans} -c {self.configuration_name}"
            )
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases, which must not share a patient."""
        training, validation = super().do_split()
        shared = shared_patients(training, validation, self.settings.patient_pattern)
        if shared and self.fold != "all" and not self.settings.allow_leakage:
            raise ValueError(
                f"a patient must not be on both sides of a split; fold {self.fold} has "
                f"{', '.join(shared[:3])}{' …' if len(shared) > 3 else ''} on both: write a "
                "splits_final.json that groups by patient"
            )
        return training, validation

    def find_backbone(self, network: nn.Module) -> Backbone:
        """Return the backbone's checkpoint for this fold, checked against the stock network."""
        _, validation = self.do_split()
        fold = Fold(self.plans_manager.dataset_name, self.configuration_name, self.fold, validation)
        results = Path(nnUNet_results) / self.plans_manager.dataset_name
        path = backbone_file(
            self.settings, self.sibling_trainer, self._plans_lineage(), fold, results
        )
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

    def stock_network(self) -> nn.Module:
        """Return a new network as the plans describe it for nnUNetTrainer, on the CPU."""
        return nnUNetTrainer.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        )

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue from a checkpoint."""
        super().load_checkpoint(filename_or_checkpoint)
        self.resumed = True

    def train_step(self, batch: dict) -> dict:
        """Run one step and stop at a loss that is not finite.

        Raises:
            RuntimeError: says in which epoch; the last checkpoint is kept.
        """
        result = self.run_step(batch)
        if not np.isfinite(result["loss"]):
            raise RuntimeError(
                f"the loss must be finite; it is {result['loss']} in epoch {self.current_epoch}. "
                "The last checkpoint is kept: lower the learning rates, or look for broken "
                "images, and continue with --c"
            )
        return result

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
            raise RuntimeError(
                f"weights must be finite; some are not after training epoch {self.current_epoch}. "
                "The last checkpoint is kept: lower the learning rates and continue with --c"
            )
        super().on_train_epoch_end(train_outputs)

    def on_epoch_start(self) -> None:
        """Re-seed, so that an epoch does not depend on how the run came to it."""
        seed = int(
            np.random.SeedSequence([self.settings.seed, self.current_epoch]).generate_state(1)[0]
        )
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        super().on_epoch_start()

    def run_training(self) -> None:
        """Train as nnU-Net does, for as many epochs as turn out to be needed."""
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

    def _plot_now_and_then(self, output_folder: str) -> None:
        if time.monotonic() - self._last_plot > PLOT_INTERVAL_SECONDS:
            self._plot(output_folder)
            self._last_plot = time.monotonic()

    def _plans_lineage(self) -> list[str]:
        """Return the identifiers of plans with this network: the run's own, then its sources'."""
        folder = Path(nnUNet_preprocessed) / self.plans_manager.dataset_name
        configuration = self.configuration_name
        plans = self.plans_manager.plans
        architecture = configuration_of(plans, configuration)["architecture"]
        lineage = [plans["plans_name"]]
        while (source := plans.get("source_plans")) not in (None, *lineage):
            path = folder / f"{source}.json"
            if not path.is_file():
                return [*lineage, source]
            plans = read_json(path)
            if configuration not in plans["configurations"]:
                break
            if configuration_of(plans, configuration).get("architecture") != architecture:
                break
            lineage.append(source)
        return lineage
