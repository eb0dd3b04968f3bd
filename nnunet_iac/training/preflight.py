"""Checks before long work: data, split, backbone, memory and disk."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_iac.host.planning import preprocess_command
from nnunet_iac.host.plans import (
    SECTION,
    configuration_of,
    lineage,
)
from nnunet_iac.host.preprocessed import preprocessed_cases
from nnunet_iac.nn.cost import cell_costs, network_cost
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.nn.skip_unet import SkipModuleUNet
from nnunet_iac.runs.fold import require_space
from nnunet_iac.runs.splits import SPLITS, require_splits
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.discretisation import require_possible
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import named, shared_patients
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.settings import Settings, present_names
from nnunet_iac.training.backbone import Backbone, Fold, backbone_file, read_backbone
from nnunet_iac.training.checkpoints import require_same_structure
from nnunet_iac.training.compilation import compiles_cells, require_compiler
from nnunet_iac.training.distributed import on_any_rank
from nnunet_iac.training.memory import enable_checkpointing_if_needed
from nnunet_iac.training.method import Method
from nnunet_iac.training.setting_checks import used_settings

COMPILE_VARIABLE = "nnUNet_compile"

FILES_IN_A_FOLD = 4
"""Checkpoints that may lie in a fold at once: latest, previous, best, and one being written."""

SUFFIXES = (".b2nd", ".npz", ".npy")
"""Suffixes of the files, new and old, in which nnU-Net keeps predictions of the first stage."""


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

    def cost(self, network: nn.Module) -> Cost:
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
            if value is not None and key not in used:
                warnings.append(f"{key}={value} is ignored; {trainer} does not use it")
            elif value is not None and value != overrides.get(key, value):
                fixed = f"{trainer} fixes it at {overrides[key]}"
                warnings.append(f"{key}={value} of the plans is ignored; {fixed}")
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

    def preprocessed_cases(self) -> Sequence[str]:
        """Return all preprocessed cases; where there are none, the error names the command."""
        cases = preprocessed_cases(self.data)
        if not cases:
            names = self.plans["dataset_name"], self.plans["plans_name"], self.configuration
            raise FileNotFoundError(
                f"preprocessed data must exist in {self.data}; run\n  {preprocess_command(*names)}"
            )
        return cases

    def split(
        self, cases: Iterable[str], do_split: Callable[[], tuple[list[str], list[str]]]
    ) -> tuple[list[str], list[str]]:
        """Return training and validation cases, checked: the splits are valid and share no patient.

        `cases` are all that are preprocessed; nnU-Net's `do_split` reads or writes the file.
        """
        require_splits(self._splits, self.number, cases)
        training, validation = do_split()
        if self.number == "all":  # In the order of a folder, which another disk has otherwise.
            training, validation = sorted(training), sorted(validation)
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
        backbone = read_backbone(path, network, self.plans, fold, data, self._splits)
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
        network.activation_checkpointing = on_any_rank(model.activation_checkpointing)

    def require_compiler(self, device: torch.device) -> None:
        """Check that torch can compile for the device if the cells are to be compiled on it."""
        if self.method.retrofits and compiles_cells(self.settings.optimisation, device):
            require_compiler(device)

    def require_space(self, network: Any, resumes: bool) -> None:
        """Check that the disk has room for the run's checkpoints.

        A checkpoint takes about the bytes of all weights, of Adam's two averages and, where the
        weights are averaged, of what they are an average of. A run that resumes replaces its files,
        which may be one with several names; those of an earlier run are kept.
        """
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        learns = {parameter for parameter in network.parameters() if parameter.requires_grad}
        if self.method.retrofits:
            learns.update(network.backbone_weights())
        learning = sum(parameter.nbytes for parameter in learns)
        files = map(Path.stat, self.fold.glob("checkpoint_*.pth") if resumes else ())
        present = sum({file.st_ino: file.st_size for file in files}.values())
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
