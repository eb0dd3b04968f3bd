"""All settings of a run: flat keys for users, five frozen parts for the code that needs them.

Plans, records, studies and `--set` use the flat keys. A function takes the part it depends on.
"""

import dataclasses
import difflib
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from nnunet_iac.search.controls import CellSource
from nnunet_iac.search.setting_values import (
    ADAM_BETAS,
    BELOW_THE_POLE,
    NODE_COUNT,
    PATTERN,
    SEED,
    SHARE,
    CheckedPart,
    above,
    at_least,
    converted,
    field_types,
    is_text,
)

Preset = Literal["literal", "paper", "adaptive", "swift"]
ImportanceMode = Literal["softmax", "raw", "raw-strict"]
TestName = Literal["js", "schedule", "rank", "mask", "drift"]
Implant = Literal["cell", "convolution", "attention", "nested", "residual-attention"]

PRUNES_PER_EDGE = 6
"""Operations an edge loses until one of seven is left."""

LEAST_CHANGE_OF_A_MASK = 2 / 7
"""Share of the entries that differ where another one of seven operations is left out."""

STRUCTURAL = (
    "channel_ratio",
    "min_channels",
    "partial_channels",
    "output_nodes",
    "norm",
    "residual",
    "decoder_norms",
    "implant",
    "edge_transform",
    "tan_clamp",
)
"""What decides which network a plans file describes; the folds of a model share these."""

RENAMED = {
    "recompute_cells": "activation_checkpointing",
    "stable_checks": "patience",
    "theta": "stability_threshold",
    "kappa": "threshold_growth",
    "reset_theta": "reset_threshold",
    "trained_on": "trainable_part",
}
"""Old spellings of settings, still accepted, and their names now."""

REMOVED = {"pruning_score": "importance", "held_back": None}
"""Settings that are gone, and the one value of each that still means what happens now."""


@dataclass(frozen=True)
class CellConfig(CheckedPart):
    """What is put into the skip connections, and how edges and operations are weighted."""

    channel_ratio: Annotated[float, SHARE] = 0.25
    min_channels: Annotated[int, at_least(1)] = 16
    partial_channels: Annotated[int, at_least(1)] = 4
    output_nodes: Annotated[int, NODE_COUNT] = 4
    norm: Literal["plans", "batch"] = "plans"
    residual: Literal["none", "zero"] = "zero"
    decoder_norms: Literal["frozen", "tuned"] = "frozen"
    activation_checkpointing: bool = False
    importance: ImportanceMode = "softmax"
    edge_transform: Literal["tanh", "tan"] = "tanh"
    tan_clamp: Annotated[float, BELOW_THE_POLE] = 1.5
    skip: Literal["cell", "attention", "nested", "residual-attention"] = "cell"
    genotype: str | None = None
    max_identity: Annotated[int | None, at_least(0)] = None
    max_parameter_ratio: Annotated[float | None, above(0)] = None
    max_mac_ratio: Annotated[float | None, above(0)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_channels < self.partial_channels:
            raise ValueError(
                "min_channels must be at least partial_channels; got "
                f"min_channels={self.min_channels}, partial_channels={self.partial_channels}"
            )
        if self.genotype is not None and self.skip != "cell":
            raise ValueError(
                "genotype chooses a cell, so skip must be cell with it; got "
                f"genotype={self.genotype}, skip={self.skip}"
            )
        if self.genotype is not None:
            CellSource.of(self.genotype)
        limits = (self.max_parameter_ratio, self.max_mac_ratio)
        if self.implant != "cell" and limits != (None, None):
            raise ValueError(
                "max_parameter_ratio and max_mac_ratio limit cells, and these settings implant "
                f"none but {self.implant}; got {limits[0]} and {limits[1]}: leave them out"
            )

    @property
    def implant(self) -> Implant:
        """What is put into the skip connections."""
        if self.genotype is not None and CellSource.of(self.genotype).kind == "convolution":
            return "convolution"
        return self.skip

    @property
    def structure(self) -> dict[str, Any]:
        """The values that decide which network the plans describe, by the names in `STRUCTURAL`."""
        return {key: getattr(self, key) for key in STRUCTURAL}

    def network_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `nnunet_iac.retrofit`."""
        return {**self.structure, "activation_checkpointing": self.activation_checkpointing}


@dataclass(frozen=True)
class SearchSchedule(CheckedPart):
    """How long the phases are; `search_epochs` is the whole search stage, warm-up included."""

    preset: Preset = "literal"
    warmup_epochs: Annotated[int, at_least(0)] = 15
    search_epochs: Annotated[int, at_least(1)] = 200
    finetune_epochs: Annotated[int, at_least(0)] = 200
    iterations_per_epoch: Annotated[int, at_least(1)] = 250
    val_iterations_per_epoch: Annotated[int, at_least(1)] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.search_epochs:
            raise ValueError(
                "search_epochs counts the warm-up and must exceed warmup_epochs; got "
                f"search_epochs={self.search_epochs}, warmup_epochs={self.warmup_epochs}"
            )


@dataclass(frozen=True)
class StabilityTest(CheckedPart):
    """When an edge is pruned: after `patience` consecutive stable checks.

    `stability_test` names what is measured (`search.stability`). A check is stable while that is
    below `stability_threshold`; a `schedule` has no threshold. Whenever an edge is unstable its
    threshold is multiplied by `threshold_growth`; with `reset_threshold` every prune restores it.
    """

    stability_test: TestName = "js"
    patience: Annotated[int, at_least(1)] = 1
    stability_threshold: Annotated[float, above(0)] = 1.0
    threshold_growth: Annotated[float, at_least(1)] = 2.0
    reset_threshold: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stability_test == "mask" and self.stability_threshold > LEAST_CHANGE_OF_A_MASK:
            raise ValueError(
                "a mask that has changed must not be stable, so stability_threshold must be at "
                f"most 2/7 with stability_test=mask; got {self.stability_threshold}"
            )

    @property
    def idle_epochs(self) -> int:
        """Epochs after the warm-up that cannot be stable.

        All operations were tied at its end, so orders and masks change in the next epoch; a t test
        takes two increments at least.
        """
        return 1 if self.stability_test in OWN_STABILITY else 0


@dataclass(frozen=True)
class Optimisation(CheckedPart):
    """Optimisers, learning rates and random numbers."""

    weights_lr: Annotated[float, above(0)] = 0.01
    weights_lr_min: Annotated[float, at_least(0)] = 1e-4
    annealing_power: Annotated[float, at_least(1)] = 2.0
    architecture_lr: Annotated[float, above(0)] = 1e-3
    architecture_betas: Annotated[tuple[float, float], ADAM_BETAS] = (0.9, 0.999)
    architecture_weight_decay: Annotated[float, at_least(0)] = 0.0
    beta_decay: Annotated[float, at_least(0)] = 0.0
    finetune_optimizer: Literal["adam", "sgd"] = "adam"
    finetune_lr: Annotated[float, above(0)] = 1e-3
    finetune_schedule: Literal["constant", "poly"] = "poly"
    trainable_part: Literal["network", "decoder"] = "network"
    deep_supervision: bool = True
    seed: Annotated[int, SEED] = 0
    deterministic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_lr_min > self.weights_lr:
            raise ValueError(
                "weights_lr_min must not exceed weights_lr; got "
                f"weights_lr_min={self.weights_lr_min}, weights_lr={self.weights_lr}"
            )


@dataclass(frozen=True)
class DataConfig(CheckedPart):
    """Which cases belong together, and which backbone is frozen."""

    patient_pattern: Annotated[str | None, PATTERN] = None
    backbone_trainer: str | None = None
    backbone_plans: str | None = None
    backbone_checkpoint: str | None = None
    score_batches: Annotated[int, at_least(1)] = 4
    allow_leakage: bool = False


OWN_STABILITY: Mapping[str, StabilityTest] = {
    "rank": StabilityTest("rank", 2, 0.01, 1.0, False),
    "mask": StabilityTest("mask", 5, 0.01, 1.0, False),
    "drift": StabilityTest("drift", 1, 0.05, 1.0, False),
}
"""Values of tests that do not follow the preset: the same order or mask, and a level of 5 %."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "literal": {},
    "swift": {"warmup_epochs": 3},
    "paper": {"patience": 6},
    "adaptive": {"reset_threshold": True},
}
"""What each preset changes of the defaults; `adaptive` also has a threshold of its own."""


@dataclass(frozen=True, init=False)
class Settings:
    """The settings of a run; the defaults are the paper's where it has one.

    Exceptions are `preset` and `residual`; docs/results.md has the measurements that chose them.

    Args:
        values: flat keys and values. Keys left out, or None where a preset decides, get the value
            of their preset or their default.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its range, or values that
            exclude each other; the message names the key, the value and what is allowed.
    """

    cell: CellConfig
    schedule: SearchSchedule
    stability: StabilityTest
    optimisation: Optimisation
    data: DataConfig
    written: Mapping[str, Any] = field(compare=False)
    """The values that were given, by their present names."""
    deprecations: tuple[str, ...] = field(compare=False)
    """A sentence for each given key whose name is old or that has no effect any more."""

    def __init__(self, **values: Any) -> None:
        written, deprecations = _present_names(values)
        object.__setattr__(self, "written", written)
        object.__setattr__(self, "deprecations", deprecations)
        for name, part in _resolved_parts(written).items():
            object.__setattr__(self, name, part)
        if self.stability.stability_test == "drift" and self.cell.importance != "softmax":
            raise ValueError(
                "stability_test=drift compares logarithms of importances, so importance must be "
                f"softmax with it; got importance={self.cell.importance}"
            )

    def replace(self, **changes: Any) -> "Settings":
        """Return the settings with some values changed; presets are resolved again."""
        return Settings(**{**self.written, **changes})

    def to_mapping(self) -> dict[str, Any]:
        """Return all settings as flat, JSON-ready values."""
        values: dict[str, Any] = {}
        for name in PARTS:
            values |= dataclasses.asdict(getattr(self, name))
        values["architecture_betas"] = list(self.optimisation.architecture_betas)
        return values

    @classmethod
    def from_mapping(cls, values: Any) -> "Settings":
        """Return the settings of a plans file's `iac` section.

        Raises:
            ValueError: no mapping with text keys, or as the class raises.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"settings must be a JSON object of keys and values; got {values!r}: write {{}} "
                "for all defaults"
            )
        for key in values:
            _require_known(key)
        return cls(**values)

    @property
    def can_wait(self) -> bool:
        """Whether a stability check can fail, so that a pruning search may run to its limit.

        The Jensen-Shannon divergence is at most ln 2, so no threshold above that is ever missed,
        unless `raw-strict` takes an undefined one for unstable.
        """
        test = self.stability
        vacuous = test.stability_test == "js" and self.cell.importance != "raw-strict"
        always = vacuous and test.stability_threshold > math.log(2)
        return test.stability_test != "schedule" and not always

    @property
    def soonest_end(self) -> int:
        """Epochs after which a pruning search ends at the soonest, warm-up included."""
        pruning = self.stability.idle_epochs + PRUNES_PER_EDGE * self.stability.patience
        return self.schedule.warmup_epochs + pruning

    @property
    def latest_end(self) -> int:
        """Epochs after which a pruning search has ended in any case, warm-up included."""
        limit = self.schedule.search_epochs
        return limit if self.can_wait else min(self.soonest_end, limit)

    def require_prunable(self) -> None:
        """Check that a pruning search can finish.

        Raises:
            ValueError: fewer epochs between warm-up and limit than six prunes need.
        """
        warmup, limit = self.schedule.warmup_epochs, self.schedule.search_epochs
        if limit < self.soonest_end:
            first = " and one more before the first" if self.stability.idle_epochs else ""
            raise ValueError(
                f"a search must have at least {self.soonest_end - warmup} epochs after its warm-up,"
                f" {PRUNES_PER_EDGE} x patience{first}, to prune {PRUNES_PER_EDGE} operations from "
                f"every edge; search_epochs={limit} with warmup_epochs={warmup} "
                f"leaves {limit - warmup}: set search_epochs to {self.soonest_end} or more"
            )


PARTS: Mapping[str, type[CheckedPart]] = {
    "schedule": SearchSchedule,
    "stability": StabilityTest,
    "cell": CellConfig,
    "optimisation": Optimisation,
    "data": DataConfig,
}


def keys() -> tuple[str, ...]:
    """Return the flat keys of all settings."""
    return tuple(_key_types())


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Return key and typed value of a command line's `key=value`; old keys are kept.

    Raises:
        ValueError: no `=`, an unknown key, or a value of the wrong type.
    """
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ValueError(f"a setting must have the form key=value; got {assignment!r}")
    _require_known(key)
    if key in REMOVED:
        return key, text
    annotation = _key_types()[RENAMED.get(key, key)]
    if is_text(annotation):
        return key, converted(key, None if text == "null" else text, annotation)
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except (ValueError, RecursionError):
        value = text
    if value is None and RENAMED.get(key, key) in _DECIDED_BY_PRESETS:
        return key, None
    return key, converted(key, value, annotation)


_DECIDED_BY_PRESETS = tuple(f.name for f in dataclasses.fields(StabilityTest))[1:]


def _resolved_parts(written: Mapping[str, Any]) -> dict[str, CheckedPart]:
    """Return the parts of written values, after presets and stability tests filled in theirs."""
    given = {k: v for k, v in written.items() if v is not None or k not in _DECIDED_BY_PRESETS}
    preset, test = given.get("preset", SearchSchedule.preset), given.get("stability_test")
    # Neither need be text yet; their parts check that.
    brought = PRESETS.get(preset, {}) if isinstance(preset, str) else {}

    def part(kind: type[CheckedPart], defaults: Mapping[str, Any]) -> Any:
        names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return kind(**{k: v for k, v in {**defaults, **given}.items() if k in names})

    schedule, optimisation = part(SearchSchedule, brought), part(Optimisation, {})
    defaults = dict(brought)
    if schedule.preset == "adaptive":
        # Logits move by up to lr per step, and JS grows with the square of a small move.
        moved = optimisation.architecture_lr * schedule.iterations_per_epoch
        defaults["stability_threshold"] = 3e-4 * moved**2
    if isinstance(test, str) and test in OWN_STABILITY:
        defaults = dataclasses.asdict(OWN_STABILITY[test])
    return {
        "cell": part(CellConfig, {}),
        "schedule": schedule,
        "stability": part(StabilityTest, defaults),
        "optimisation": optimisation,
        "data": part(DataConfig, {}),
    }


def _present_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return values by the names of today, and a sentence for each that had another."""
    found: dict[str, Any] = {}
    notes = []
    for key, value in values.items():
        _require_known(key)
        if key in REMOVED:
            if REMOVED[key] is not None and value != REMOVED[key]:
                raise ValueError(
                    f"{key}={value!r} was removed, since no measurement supported it; only "
                    f"{REMOVED[key]!r} is left: leave {key} out"
                )
            notes.append(f"the setting {key} has no effect any more: leave it out")
            continue
        name = RENAMED.get(key, key)
        if name != key:
            notes.append(f"the setting {key} is deprecated: write {name}")
            if name in values:
                raise ValueError(f"{key} is the old name of {name}; got both: leave out {key}")
        found[name] = value
    return found, tuple(notes)


@functools.cache
def _key_types() -> dict[str, Any]:
    return {key: kind for part in PARTS.values() for key, kind in field_types(part).items()}


def _require_known(key: Any) -> None:
    known = _key_types()
    if key not in known and key not in RENAMED and key not in REMOVED:
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown setting {key!r}; {hint}allowed are {', '.join(known)}")
