"""A study: data sets, backbones, methods and seeds, and the runs that they make."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_iac.search.settings import Settings

REFERENCE = "reference"
DEFAULT = "default"
"""The augmentation of a trainer without a suffix."""

CONTINUE, LTH, FULL, DISCRETE = (
    "nnUNetTrainerContinue",
    "nnUNetTrainerIACLTH",
    "nnUNetTrainerIAC",
    "nnUNetTrainerIACDiscrete",
)
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "continued": (CONTINUE, {}),
    "iac-lth": (LTH, {}),
    "iac": (FULL, {}),
    "random": (DISCRETE, {"genotype": "random:{seed}"}),
    "zero-cost": (DISCRETE, {"genotype": "zero-cost:{seed}"}),
    "identity": (DISCRETE, {"genotype": "identity"}),
    "convolution": (DISCRETE, {"genotype": "conv:{cells}"}),
    "attention": (DISCRETE, {"skip": "attention"}),
    "nested": (DISCRETE, {"skip": "nested"}),
    "residual-attention": (DISCRETE, {"skip": "residual-attention"}),
}
"""Trainer of every method on top of the reference, and the settings that make it that method."""

PLANNED = "nnUNetPlans"
"""The plans that a study makes itself where there are none."""
THREADS = {"cpu": 1, "cuda": 8}
"""Processors of a training unless the file says otherwise: on a GPU they feed it."""
SEARCHES = (LTH, FULL)
OURS_TO_SET = (
    "backbone_trainer",
    "backbone_plans",
    "backbone_checkpoint",
    "patient_pattern",
    "seed",
)
"""Settings that a study decides by other keys of its file."""


@dataclass(frozen=True)
class DataSet:
    """One data set of a study.

    Args:
        dataset: id or name.
        configurations: of nnU-Net, such as 2d.
        folds: numbers.
        splits: file of splits, or what one holds; without one nnU-Net's own or, with `patients`,
            one by patient.
        patients: regular expression whose match in a case id is the patient.
        predict: whether the test cases are predicted and scored as well.
    """

    dataset: str
    configurations: tuple[str, ...] = ("2d",)
    folds: tuple[int, ...] = (0,)
    splits: Path | list[Any] | None = field(default=None, hash=False)
    patients: str | None = None
    predict: bool = False


@dataclass(frozen=True)
class Network:
    """What is trained first and then frozen.

    Args:
        plans: identifier of the plans to start from.
        trainer: any of nnU-Net's.
        encoder: as `nnunet-iac plan --encoder`.
        skip: as `nnunet-iac plan --skip`.
        cap: on the channels per stage, as `nnunet-iac xtiny --cap`.
        features_per_stage: channels; data sets whose networks have fewer stages take the first.
        batch_size: instead of the plans'.
    """

    plans: str = PLANNED
    trainer: str = "nnUNetTrainer"
    encoder: str | None = None
    skip: str | None = None
    cap: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    batch_size: int | None = None

    @property
    def is_planned(self) -> bool:
        """Whether it is the network of the plans as they are."""
        return self == Network(self.plans, self.trainer)


@dataclass(frozen=True)
class Method:
    """A way to go on from a backbone.

    Args:
        trainer: without the suffix of an augmentation.
        settings: of its own; `{seed}` and `{cells}` in `genotype` are filled in.
        cells_of: the method whose found cells `{cells}` are.
    """

    trainer: str
    settings: Mapping[str, Any]
    cells_of: str | None = None

    @property
    def searches(self) -> bool:
        """Whether it finds its cells itself."""
        return self.trainer in SEARCHES


@dataclass(frozen=True)
class Run:
    """One training of a study: a backbone where `method` is `reference`, else what starts from one.

    Args:
        dataset: its place in the study.
        configuration: of nnU-Net.
        fold: number.
        backbone: its name in the study.
        method: its name in the study, or `reference`.
        augmentation: `default`, or the suffix of the trainers that have another.
        seed: of the run; None of a backbone.
    """

    dataset: DataSet
    configuration: str
    fold: int
    backbone: str
    method: str = REFERENCE
    augmentation: str = DEFAULT
    seed: int | None = None

    @property
    def name(self) -> str:
        """A name that no other run of the study has, fit for a file."""
        own = [f"{self.dataset.dataset}_{self.configuration}_{self.fold}_{self.backbone}"]
        if self.method != REFERENCE:
            own += [self.method, self.augmentation, str(self.seed)]
        return "_".join(own)

    @property
    def reference(self) -> "Run":
        """The backbone it starts from."""
        return Run(self.dataset, self.configuration, self.fold, self.backbone)


@dataclass(frozen=True)
class Study:
    """All that a study file says.

    Raises:
        ValueError: settings that are impossible, or that another key of the file decides.
    """

    name: str
    datasets: tuple[DataSet, ...]
    methods: Mapping[str, Method]
    backbones: Mapping[str, Network] = field(default_factory=lambda: {"planned": Network()})
    seeds: tuple[int, ...] = (0,)
    augmentations: tuple[str, ...] = (DEFAULT,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in self.methods:
            self._require_settings(name)

    def _require_settings(self, name: str) -> None:
        method = self.methods[name]
        given = {**self.settings, **method.settings}
        try:
            if taken := sorted(set(OURS_TO_SET) & given.keys()):
                raise ValueError(
                    f"{taken[0]} must not be among the settings, since the study decides it: use "
                    "the keys backbones, patients and seeds"
                )
            settings = self.settings_of(name, self.seeds[0], cells="cells")
            if method.trainer == LTH:
                settings.require_prunable()
        except ValueError as error:
            raise ValueError(f"method {name!r}: {error}") from error

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All runs by name, every backbone before what starts from it."""
        found = []
        for dataset in self.datasets:
            for configuration in dataset.configurations:
                for fold in dataset.folds:
                    for backbone in self.backbones:
                        reference = Run(dataset, configuration, fold, backbone)
                        found.append(reference)
                        found += [
                            Run(dataset, configuration, fold, backbone, method, augmentation, seed)
                            for augmentation in self.augmentations
                            for method in self.methods
                            for seed in self.seeds
                        ]
        return {run.name: run for run in found}

    def source_of(self, run: Run) -> Run | None:
        """Return the run whose found cells another needs."""
        wanted = None if run.method == REFERENCE else self.methods[run.method].cells_of
        if wanted is None:
            return None
        return next(
            other
            for other in self.runs.values()
            if other.method == wanted
            and (other.reference, other.augmentation, other.seed)
            == (run.reference, run.augmentation, run.seed)
        )

    def described(self, run: Run) -> dict[str, Any]:
        """Return all that decides what a run is, as plain values: another is another run."""
        network = asdict(self.backbones[run.backbone])
        known = {
            "network": network,
            "splits": str(run.dataset.splits),
            "trainer": self.trainer_of(run),
        }
        if run.method == REFERENCE or run.seed is None:
            return known
        return {**known, "settings": self.values_of(run.method, run.seed, "cells")}

    def trainer_of(self, run: Run) -> str:
        """Return the name of a run's trainer."""
        if run.method == REFERENCE:
            return self.backbones[run.backbone].trainer
        suffix = "" if run.augmentation == DEFAULT else run.augmentation
        return self.methods[run.method].trainer + suffix

    def values_of(self, name: str, seed: int, cells: str) -> dict[str, Any]:
        """Return the settings that plans of a method must hold, but for its backbone.

        What does not search is finetuned as long as an accelerated search with the study's settings
        and its finetuning may take together, unless the method has a length of its own.
        """
        method = self.methods[name]
        values = {**self.settings, **method.settings, "seed": seed}
        if values.get("genotype") is not None:
            genotype = values["genotype"].replace("{seed}", str(seed))
            values["genotype"] = genotype.replace("{cells}", cells)
        if not method.searches and "finetune_epochs" not in method.settings:
            common = Settings.from_mapping(self.settings)
            values["finetune_epochs"] = common.latest_end + common.finetune_epochs
        return values

    def settings_of(self, name: str, seed: int, cells: str) -> Settings:
        """Return the settings of a method as its trainer will read them."""
        return Settings.from_mapping(self.values_of(name, seed, cells))
