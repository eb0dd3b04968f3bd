"""Checks before long work: plans, settings, data, split, backbone, memory and disk."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import nn

from nnunet_iac.nn.cost import cell_costs, run_memory
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.nn.skip_unet import SkipModuleUNet
from nnunet_iac.runs.fold import require_space, require_writable
from nnunet_iac.runs.plans import (
    SECTION,
    configuration_of,
    lineage,
    preprocess_command,
    require_dataset_name,
    require_file_ending,
    require_identifier,
    require_trainable,
)
from nnunet_iac.runs.records import NetworkCost
from nnunet_iac.runs.splits import SPLITS, require_splits
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import require_possible
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import named, shared_patients
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.settings import PRESETS, Settings, present_names
from nnunet_iac.training.backbone import Backbone, Fold, backbone_file, read_backbone
from nnunet_iac.training.checkpoints import require_same_structure
from nnunet_iac.training.compilation import compiles_cells, require_compiler
from nnunet_iac.training.cost import network_cost
from nnunet_iac.training.memory import free_memory
from nnunet_iac.training.method import Method
from nnunet_iac.training.recorder import tensorboard_wanted

COMPILE_VARIABLE = "nnUNet_compile"

FILES_IN_A_FOLD = 4
"""Checkpoints that may lie in a fold at once: latest, previous, best, and one being written."""

GIGABYTE = 1e9
SMALLEST_RATIO = 1 / 64

SUFFIXES = (".b2nd", ".npz", ".npy")
"""Of the files in which nnU-Net's data sets, new and old, keep predictions of the first stage."""


def checked_settings(
    plans: Mapping[str, Any],
    configuration: str,
    fold: object,
    dataset_json: Mapping[str, Any],
    trainer: str,
    method: Method,
    overrides: Mapping[str, Any],
) -> Settings:
    """Return the settings of a run after checking all that a trainer is made from.

    That is what nnU-Net gives it, the name, method and fixed settings of its class, and nnU-Net's
    folder of results, if it is set.
    """
    config = configuration_of(plans, configuration)
    require_trainable(config)
    if fold != "all" and (type(fold) is not int or fold < 0):
        raise ValueError(f"the fold must be all or an integer >= 0; got {fold!r}: give another")
    written, _ = present_names(config.get(SECTION, {}))
    settings = Settings.from_mapping({**written, **overrides})
    require_usable(method, settings)
    require_identifier(plans.get("plans_name"))
    require_dataset_name(plans.get("dataset_name"))
    require_file_ending(dataset_json.get("file_ending"))
    if nnUNet_results.is_set():
        model = f"{trainer}__{plans['plans_name']}__{configuration}"
        require_writable(Path(f"{nnUNet_results}") / plans["dataset_name"] / model / f"fold_{fold}")
    tensorboard_wanted()
    return settings


def require_usable(method: Method, settings: Settings) -> None:
    """Check that a method can run with valid settings; a search must not be given its result."""
    nothing_given = (settings.cell.genotype, settings.cell.skip) == (None, "cell")
    if method.searches and not nothing_given:
        raise ValueError(
            "a search finds its cells by itself; the settings have "
            f"genotype={settings.cell.genotype}, skip={settings.cell.skip}: use "
            "nnUNetTrainerIACDiscrete, which does not search, or leave them out"
        )
    if method.retrofits and not method.searches and nothing_given:
        raise ValueError(
            "nnUNetTrainerIACDiscrete needs the setting genotype, a JSON file or another "
            "run's fold folder, or random:SEED, identity or conv, or the setting skip; "
            "make plans that name it with nnunet-iac plan … --set genotype=PATH"
        )
    if (part := method.trained_part(settings.cell)) not in method.parts:
        what = "a retrofit" if method.retrofits else "nnUNetTrainerContinue"
        raise ValueError(
            f"trainable_part of {what} must be one of {', '.join(method.parts)}; got {part}: "
            "choose another, in plans of its own"
        )
    if method.prunes:
        settings.require_prunable()
    if method.bilevel and settings.schedule.iterations_per_epoch < 2:
        raise ValueError(
            "the full search needs iterations_per_epoch >= 2, one batch for the weights and "
            f"one for the architecture; got {settings.schedule.iterations_per_epoch}: set it to 2 "
            "or more"
        )


def used_settings(method: Method, settings: Settings) -> set[str]:
    """Return the names of the settings that a run of the method uses."""
    cell, retrofits = settings.cell, method.retrofits
    searches, prunes = method.searches, method.prunes
    retention = settings.optimisation.retention
    uses = {
        "finetune_epochs finetune_patience finetune_optimizer finetune_lr finetune_schedule "
        "iterations_per_epoch val_iterations_per_epoch deep_supervision seed deterministic "
        "patient_pattern backbone_trainer backbone_plans backbone_checkpoint score_source "
        "allow_leakage trainable_part ema_decay": True,
        "retention": not retrofits,
        "retention_weight": not retrofits and retention in ("l2-sp", "ewc", "lwf"),
        "rehearsal_cases": not retrofits and retention == "rehearsal",
        "skip genotype norm residual activation_checkpointing": retrofits,
        "channel_ratio min_channels partial_channels output_nodes": retrofits
        and cell.implant in ("cell", "convolution"),
        "max_parameter_ratio max_mac_ratio compile_cells": retrofits and cell.implant == "cell",
        "warmup_epochs search_epochs importance edge_transform max_identity weights_lr "
        "weights_lr_min annealing_power architecture_lr architecture_betas "
        "architecture_weight_decay": searches,
        "tan_clamp": searches and cell.edge_transform == "tan",
        "stability_test patience": prunes,
        "stability_threshold threshold_growth reset_threshold": prunes
        and settings.stability.stability_test != "schedule",
    }
    used = {name for names, used in uses.items() if used for name in names.split()}
    # A preset sets the stability test, and some of them lengths and rates.
    return used | {"preset"} if prunes or used & set(PRESETS[settings.schedule.preset]) else used


@dataclass(frozen=True)
class PlannedNetwork:
    """The network that the plans describe: `make` returns a new one, on the CPU.

    `batch` is the shape of its images, (batch, channels, *spatial).
    """

    make: Callable[[], nn.Module]
    batch: Sequence[int]
    device: torch.device

    @property
    def image(self) -> tuple[int, Sequence[int]]:
        """Channels and size of an image."""
        return self.batch[1], self.batch[2:]

    def cost(self, network: nn.Module) -> NetworkCost:
        """Return size and work of a network for one image."""
        return network_cost(network, *self.image, self.device)


@dataclass(frozen=True)
class Preflight:
    """The checks of one run before long work.

    The sibling trainer's checkpoint is the backbone by default, `data` the folder of the
    configuration's preprocessed data, and `fold` that of the run.
    """

    settings: Settings
    method: Method
    sibling_trainer: str
    plans: Mapping[str, Any]
    configuration: str
    number: int | str
    data: Path
    fold: Path
    log: Callable[[str], None]

    @property
    def _splits(self) -> Path:
        return self.data.parent / SPLITS

    def log_ignored(self, trainer: str, overrides: Mapping[str, Any], device: torch.device) -> None:
        """Warn of what the user asked for and the run does not use; a trainer fixes `overrides`."""
        config = configuration_of(self.plans, self.configuration)
        section, found = present_names(config.get(SECTION, {}))
        used, warnings = used_settings(self.method, self.settings), list(found)
        for key, value in section.items():
            if key in overrides and value != overrides[key]:
                fixed = f"{trainer} fixes it at {overrides[key]}"
                warnings.append(f"{key}={value} of the plans is ignored; {fixed}")
            elif key not in overrides and value is not None and key not in used:
                warnings.append(f"{key}={value} is ignored; {trainer} does not use it")
        compiles = self.settings.optimisation.compile_cells and "compile_cells" in used
        if compiles and device.type != "cuda":
            warnings.append(
                "compile_cells=True is ignored; cells are compiled on CUDA only, and this run is "
                f"on {device.type}"
            )
        if os.environ.get(COMPILE_VARIABLE, "").lower() in ("true", "1", "t"):
            warnings.append(
                f"{COMPILE_VARIABLE} is ignored; the U-Net is not compiled for training"
            )
        for warning in warnings:
            self.log(f"WARNING: {warning}")

    def require_data(self) -> None:
        """Check that there are preprocessed data; the error has the command that makes them."""
        if not self.data.is_dir() or not any(self.data.iterdir()):
            raise FileNotFoundError(
                f"preprocessed data must exist in {self.data}; run\n"
                f"  {preprocess_command(self.plans, self.configuration)}"
            )

    def preprocessed_cases(self) -> Sequence[str]:
        """Return all cases that are preprocessed; none is an error, as of `require_data`."""
        self.require_data()
        folder = str(self.data)
        cases: list[str] = infer_dataset_class(folder).get_identifiers(folder)
        return cases

    def split(
        self, cases: Iterable[str], do_split: Callable[[], tuple[list[str], list[str]]]
    ) -> tuple[list[str], list[str]]:
        """Return training and validation cases, checked: the splits are valid and share no patient.

        `cases` are all that are preprocessed; nnU-Net's `do_split` reads or writes the file.
        """
        require_splits(self._splits, self.number, cases)
        training, validation = do_split()
        if not validation:
            self.log(
                f"WARNING: fold {self.number} has no validation cases, so its scores are those of "
                "its training cases"
            )
            return training, training
        shared = shared_patients(training, validation, self.settings.data.patient_pattern)
        if shared and self.number != "all" and not self.settings.data.allow_leakage:
            raise ValueError(
                f"a patient must not be on both sides of a split; fold {self.number} has "
                f"{named(shared)} on both: write a {SPLITS} that groups by patient"
            )
        return training, validation

    def target(self, validation: Sequence[str]) -> Fold:
        """Return the fold that backbone and cells must fit."""
        return Fold(self.plans["dataset_name"], self.configuration, self.number, validation)

    def backbone_file(self, validation: Sequence[str]) -> Path:
        """Return the backbone's checkpoint, which must exist."""
        alike = lineage(self.plans, self.configuration, self.data.parent)
        results = self.fold.parent.parent
        fold = self.target(validation)
        return backbone_file(self.settings.data, self.sibling_trainer, alike, fold, results)

    def backbone(self, network: nn.Module, validation: Sequence[str]) -> Backbone:
        """Return the backbone, checked against the network of the plans; log what it is."""
        path, fold, data = (
            self.backbone_file(validation),
            self.target(validation),
            self.settings.data,
        )
        configuration = configuration_of(self.plans, self.configuration)
        backbone = read_backbone(path, network, configuration, fold, data, self._splits)
        for line in backbone.log_lines():
            self.log(line)
        return backbone

    def previous_stage(self, previous: str, split: Sequence[Sequence[str]]) -> Path:
        """Return where the first stage of a cascade predicted for the backbone.

        nnU-Net would look for a first stage that the run's own trainer has trained.
        """
        model = self.backbone_file(split[1]).parent.parent
        cases = [case for side in split for case in side]
        return previous_predictions(model, previous, self.configuration, cases)

    def require_siblings(self) -> None:
        """Check the structural settings of retrofits against the other folds of the model."""
        if self.method.retrofits:
            require_same_structure(self.fold, self.settings.cell.structure)

    def costs(self, network: Any, planned: PlannedNetwork) -> CellCosts | None:
        """Return what cells cost where the settings limit that; some cell must be within it."""
        if not (self.method.retrofits and self.settings.cell.has_budget):
            return None
        costs = cell_costs(network, *planned.image)
        require_possible(costs, self.settings.cell)
        return costs

    def fit_in_memory(
        self, network: Any, planned: PlannedNetwork, genotype: Genotype | None
    ) -> None:
        """Let a retrofit use activation checkpointing if a training step needs it; log memory.

        Without a genotype its cells are still to be searched, and then finetuned.
        """
        if not self.method.retrofits:
            return

        def made(cell: CellConfig) -> RetrofittedUNet:
            with torch.device("meta"):  # Its shapes are enough.
                model = retrofit(planned.make(), **cell.network_arguments())
                if isinstance(model, IACUNet) and genotype is not None:
                    model.discretise(genotype)
                elif isinstance(model, SkipModuleUNet):
                    model.match_network(network)
            model.unfreeze(genotype is not None or not self.method.searches)
            return model

        cell, where = self.settings.cell, (planned.batch, planned.device)
        model = made(cell)
        self.log(enable_checkpointing_if_needed(model, *where, cell, made))
        network.activation_checkpointing = model.activation_checkpointing

    def require_compiler(self, device: torch.device) -> None:
        """Check that torch can compile for the device if the cells are to be compiled on it."""
        if self.method.retrofits and compiles_cells(self.settings.optimisation, device):
            require_compiler(device)

    def require_space(self, network: Any) -> None:
        """Check that the disk has room for the run's checkpoints.

        A checkpoint takes about the bytes of all weights, of Adam's two averages and, where the
        weights are averaged, of what they are an average of.
        """
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        learns = {parameter for parameter in network.parameters() if parameter.requires_grad}
        if self.method.retrofits:
            learns.update(network.backbone_weights())
        learning = sum(parameter.nbytes for parameter in learns)
        present = sum(path.stat().st_size for path in self.fold.glob("checkpoint_*.pth"))
        copies = 3 if self.settings.optimisation.ema_decay else 2
        require_space(self.fold, FILES_IN_A_FOLD * (weights + copies * learning) - present)


def previous_predictions(
    model: Path, previous: str, configuration: str, cases: Iterable[str]
) -> Path:
    """Return the folder in which a model's first stage predicted for its second.

    `model` is the folder of the second stage, whose configuration sees the cases, and `previous`
    the first's configuration, which must have predicted all of them.
    """
    first = model.with_name(f"{model.name.rpartition('__')[0]}__{previous}")
    folder = first / "predicted_next_stage" / configuration
    there = {path.stem for path in folder.glob("*") if path.suffix in SUFFIXES}
    if missing := set(cases) - there:
        raise FileNotFoundError(
            f"the second stage of a cascade, which {configuration} is, needs what the first has "
            f"predicted for all cases; {folder} has nothing of {named(missing)}: train all folds "
            f"of {first.name}, whose validations write it"
        )
    return folder


def enable_checkpointing_if_needed(
    network: RetrofittedUNet,
    batch: Sequence[int],
    device: torch.device,
    cell: CellConfig,
    resized: Callable[[CellConfig], RetrofittedUNet],
) -> str:
    """Turn on activation checkpointing if a training step does not fit without; return a log line.

    `batch` is the shape of the images, (batch, channels, *spatial); `resized` makes the network of
    other cells, for the error that names cells which would fit.
    """
    free = free_memory(device)
    needed = run_memory(network, batch, device)
    if free is None:
        return f"Memory: a training step needs about {_text(needed.kept)}"
    if not network.activation_checkpointing and needed.kept <= free:
        return f"Memory: a training step needs about {_text(needed.kept)} of {_text(free)} free"
    if needed.checkpointed <= free:
        asked = network.activation_checkpointing
        why = "as the settings ask" if asked else "since it would not fit otherwise"
        network.activation_checkpointing = True
        return (
            f"Memory: a training step needs about {_text(needed.checkpointed)} of {_text(free)} "
            f"free with activation checkpointing, {why}"
        )
    raise RuntimeError(
        f"a training step must fit in memory; it needs about {_text(needed.checkpointed)}, with "
        f"activation checkpointing, and {_text(free)} are free on {device}: "
        f"{_cure(cell, batch, device, free, resized)}"
    )


def _cure(
    cell: CellConfig,
    batch: Sequence[int],
    device: torch.device,
    free: int,
    resized: Callable[[CellConfig], RetrofittedUNet],
) -> str:
    """Return what would fit: smaller cells if any do, else a smaller batch or patch."""
    ratio = cell.channel_ratio / 2
    while ratio >= SMALLEST_RATIO and cell.implant == "cell":
        smaller = replace(cell, channel_ratio=ratio, min_channels=cell.partial_channels)
        if run_memory(resized(smaller), batch, device).checkpointed <= free:
            return (
                f"plan smaller cells, for example --set channel_ratio={ratio:g} "
                f"min_channels={smaller.min_channels}"
            )
        ratio /= 2
    return "free memory, or use plans with a smaller batch or patch"


def _text(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"
