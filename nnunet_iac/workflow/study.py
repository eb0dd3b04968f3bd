"""A study: data sets, backbones, methods and seeds, and the runs that they make."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    DISCRETE_TRAINER,
    FULL_TRAINER,
    LTH_TRAINER,
)
from nnunet_iac.search.settings import Settings

DEFAULT = "default"  # The augmentation of a trainer without a suffix.
SEARCH_TRAINERS = LTH_TRAINER, FULL_TRAINER
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "continued": (CONTINUE_TRAINER, {}),
    "iac-lth": (LTH_TRAINER, {}),
    "iac": (FULL_TRAINER, {}),
    "random": (DISCRETE_TRAINER, {"genotype": "random:{seed}"}),
    "identity": (DISCRETE_TRAINER, {"genotype": "identity"}),
    "convolution": (DISCRETE_TRAINER, {"genotype": "conv:{cells}"}),
    "attention": (DISCRETE_TRAINER, {"skip": "attention"}),
    "nested": (DISCRETE_TRAINER, {"skip": "nested"}),
    "residual-attention": (DISCRETE_TRAINER, {"skip": "residual-attention"}),
}
"""Trainer of every method on top of a backbone, and the settings that make it that method."""

PLANNED = "nnUNetPlans"  # The plans that a study makes itself where there are none.
OURS_TO_SET = {f"backbone_{part}" for part in ("trainer", "plans", "checkpoint")}
OURS_TO_SET |= {"patient_pattern", "seed"}
"""Settings that a study decides by other keys of its file."""


@dataclass(frozen=True)
class DataSet:
    """One data set of a study, by id or name.

    Without `splits`, a file or its content, nnU-Net's own splits are used or, with `patients`, a
    regular expression whose match in a case id is the patient, splits by patient. With `predict`
    the test cases are predicted and scored as well.
    """

    dataset: str
    configurations: tuple[str, ...] = ("2d",)
    folds: tuple[int, ...] = (0,)
    splits: Path | list[Any] | None = field(default=None, hash=False)
    patients: str | None = None
    predict: bool = False


@dataclass(frozen=True)
class BackboneSpec:
    """Differences of a backbone from the plans it starts from, and its trainer.

    `encoder` and `skip` are those of `nnunet-iac plan`, `cap` is that of `nnunet-iac xtiny`. Data
    sets whose networks have fewer stages take the first of `features_per_stage`. With `adapt`, the
    path of a fold of a model of another data set, nothing is trained: that fold is the backbone of
    every method, under its own plans, and the reference is its validation on the data set. With
    `half_of` it is another backbone after half of its training or less, which shows whether that
    has converged: it is trained once for a data set and configuration, and no method is on it.
    """

    plans: str = PLANNED
    trainer: str = "nnUNetTrainer"
    encoder: str | None = None
    skip: str | None = None
    cap: int | None = None
    features_per_stage: tuple[int, ...] | None = None
    batch_size: int | None = None
    adapt: str | None = None
    half_of: str | None = None

    def __post_init__(self) -> None:
        if self.adapt is not None and replace(self, adapt=None) != BackboneSpec():
            raise ValueError(
                "a backbone that is adapted has the plans of its own model; got adapt with other "
                "keys: leave them out"
            )

    @property
    def is_planned(self) -> bool:
        """Whether it is the network of the plans as they are."""
        return replace(self, half_of=None) == BackboneSpec(self.plans, self.trainer)


@dataclass(frozen=True)
class StudyMethod:
    """A method of training on top of a backbone, by a trainer without an augmentation's suffix.

    `{seed}` and `{cells}` in the setting `genotype` are filled in, the latter with the cells that
    the method `cells_of` found. A method with `epochs_of` trains for the epochs of that one, search
    and finetuning together.
    """

    trainer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cells_of: str | None = None
    epochs_of: str | None = None

    @property
    def searches(self) -> bool:
        """Whether it finds its cells itself."""
        return self.trainer in SEARCH_TRAINERS


@dataclass(frozen=True)
class PlannedRun:
    """One training of a study: of a backbone if `method` is `reference`, else on top of one.

    The augmentation is `default`, or the suffix of the trainers that have another. A backbone has
    no seed.
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
    def reference(self) -> "PlannedRun":
        """The backbone it starts from."""
        return PlannedRun(self.dataset, self.configuration, self.fold, self.backbone)


@dataclass(frozen=True)
class Study:
    """The content of a study file, which must be possible (ValueError)."""

    name: str
    datasets: tuple[DataSet, ...]
    methods: Mapping[str, StudyMethod]
    backbones: Mapping[str, BackboneSpec] = field(
        default_factory=lambda: {"planned": BackboneSpec()}
    )
    seeds: tuple[int, ...] = (0,)
    augmentations: tuple[str, ...] = (DEFAULT,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, spec in self.backbones.items():
            whole = None if spec.half_of is None else self.backbones.get(spec.half_of)
            if spec.half_of is not None and (whole is None or whole.half_of or whole.adapt):
                raise ValueError(
                    f"backbone {name!r} is half of {spec.half_of!r}, which must be another "
                    "backbone that the study trains: add it, or leave half_of out"
                )
            if whole is not None and replace(spec, trainer=whole.trainer, half_of=None) != whole:
                raise ValueError(
                    f"backbone {name!r} is half of {spec.half_of!r}, so the two must differ in "
                    "their trainers alone: correct the other keys, or leave half_of out"
                )
        for name, method in self.methods.items():
            for what, source in (("cells", method.cells_of), ("epochs", method.epochs_of)):
                if source and not (source in self.methods and self.methods[source].searches):
                    raise ValueError(
                        f"method {name!r} takes the {what} of {source!r}, which must be a method "
                        f"of the study that searches: add it, or name another with {what}_of"
                    )
            if method.epochs_of and (method.searches or "finetune_epochs" in method.settings):
                raise ValueError(
                    f"method {name!r} must not search or set finetune_epochs if epochs_of decides "
                    "its length: remove one of them"
                )
            if taken := sorted(OURS_TO_SET & {**self.settings, **method.settings}.keys()):
                raise ValueError(
                    f"method {name!r}: {taken[0]} must not be among the settings, since the study "
                    "decides it: use the keys backbones, patients and seeds"
                )
            try:
                settings = self.settings_of(name, self.seeds[0])
                if method.trainer == LTH_TRAINER:
                    settings.require_prunable()
                if method.epochs_of:
                    self._require_epochs_alike(method.epochs_of, settings)
            except ValueError as error:
                raise ValueError(f"method {name!r}: {error}") from error

    def _require_epochs_alike(self, name: str, settings: Settings) -> None:
        """Check that epochs have as many batches as those of a method."""
        theirs = self.settings_of(name, self.seeds[0]).schedule.iterations_per_epoch
        if (ours := settings.schedule.iterations_per_epoch) != theirs:
            raise ValueError(
                f"iterations_per_epoch must be that of {name!r}, {theirs}, whose epochs it takes; "
                f"got {ours}: correct it"
            )

    @property
    def deprecations(self) -> list[str]:
        """A sentence for each setting that has an old name, or none any more."""
        settings = [self.settings_of(name, self.seeds[0]) for name in self.methods]
        return list(dict.fromkeys(note for each in settings for note in each.deprecations))

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        """All runs by name, every backbone before the methods on top of it."""
        methods: list[tuple[str, str, int | None]] = [
            (method, augmentation, seed)
            for augmentation in self.augmentations
            for method in self.methods
            for seed in self.seeds
        ]
        found = [
            PlannedRun(dataset, configuration, fold, backbone, *method)
            for dataset in self.datasets
            for configuration in dataset.configurations
            for fold in dataset.folds
            for backbone, spec in self.backbones.items()
            if spec.half_of is None or fold == dataset.folds[0]
            for method in [(REFERENCE, DEFAULT, None), *([] if spec.half_of else methods)]
        ]
        return {run.name: run for run in found}

    def sources_of(self, run: PlannedRun) -> list[PlannedRun]:
        """Return the runs that must be finished before another one starts."""
        if run.method == REFERENCE:
            return []
        method = self.methods[run.method]
        names = dict.fromkeys(name for name in (method.cells_of, method.epochs_of) if name)
        return [run.reference, *(replace(run, method=name) for name in names)]

    def fingerprint(self, run: PlannedRun) -> dict[str, Any]:
        """Return all values that decide what a run is; if they change, it is another run."""
        network, splits = asdict(self.backbones[run.backbone]), str(run.dataset.splits)
        known: dict[str, Any] = {"network": network, "splits": splits}
        known |= {"patients": run.dataset.patients, "trainer": self.trainer_of(run)}
        if run.seed is None:
            return known
        if epochs_of := self.methods[run.method].epochs_of:
            known["epochs_of"] = epochs_of
        return {**known, "settings": self.values_of(run.method, run.seed)}

    def trainer_of(self, run: PlannedRun) -> str:
        """Return the name of a run's trainer."""
        if run.method == REFERENCE:
            spec = self.backbones[run.backbone]
            return spec.trainer if spec.adapt is None else CONTINUE_TRAINER
        return self.methods[run.method].trainer + run.augmentation.removeprefix(DEFAULT)

    def values_of(
        self, name: str, seed: int, cells: str = "cells", epochs: int | None = None
    ) -> dict[str, Any]:
        """Return the settings of a method as its plans hold them, without those of the backbone.

        `cells` replaces `{cells}` in `genotype`. `epochs` are those of a method without a search or
        a length of its own: by default as many as an accelerated search with the study's settings
        and its finetuning take at most.
        """
        method = self.methods[name]
        values = {**self.settings, **method.settings, "seed": seed}
        if isinstance(genotype := values.get("genotype"), str):
            values["genotype"] = genotype.replace("{seed}", str(seed)).replace("{cells}", cells)
        if not method.searches and "finetune_epochs" not in method.settings:
            common = Settings.from_mapping(self.settings)
            longest = common.latest_end + common.schedule.finetune_epochs
            values["finetune_epochs"] = longest if epochs is None else epochs
        if method.epochs_of is not None:  # Exactly as many epochs.
            values.pop("finetune_patience", None)
        return values

    def settings_of(self, name: str, seed: int) -> Settings:
        """Return the settings of a method as its trainer reads them."""
        return Settings.from_mapping(self.values_of(name, seed))
