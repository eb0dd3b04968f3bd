"""The five parts of the settings, each what one concern of a run depends on, and their checks."""

import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from nnunet_iac.search.controls import CellSource


@dataclass(frozen=True)
class Constraint:
    """Condition on the value of a setting beyond its type, in words and as a predicate."""

    allowed: str
    holds: Callable[[Any], bool]


def at_least(minimum: int) -> Constraint:
    """Return the constraint of a least value."""
    return Constraint(f">= {minimum}", lambda value: value >= minimum)


def between(minimum: float, maximum: float) -> Constraint:
    """Return the constraint of a least and a largest value, beyond which arithmetic overflows."""
    return Constraint(
        f">= {minimum:,} and <= {maximum:,}", lambda value: minimum <= value <= maximum
    )


def above(minimum: int) -> Constraint:
    """Return the constraint of a bound that is not allowed itself."""
    return Constraint(f"> {minimum}", lambda value: value > minimum)


def _valid_pattern(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


COUNT = between(1, 1_000_000)
COUNT_OR_NONE = between(0, 1_000_000)
CHANNELS = between(1, 4096)
LEARNING_RATE = between(1e-12, 100)
BELOW_THE_POLE = Constraint("(0, pi/2)", lambda value: 0 < value < math.pi / 2)
DECAY = Constraint("[0, 1)", lambda value: 0 <= value < 1)
SHARE = Constraint("(0, 1]", lambda value: 0 < value <= 1)
NODE_COUNT = Constraint("1, 2, 3 or 4", lambda value: 1 <= value <= 4)
ADAM_BETAS = Constraint("two numbers in [0, 1)", lambda pair: 0 <= min(pair) <= max(pair) < 1)
PATTERN = Constraint("a valid regular expression", _valid_pattern)
TORCH_SEED = Constraint("0 to 2^64 - 1, as torch takes it", lambda value: 0 <= value < 2**64)


def is_text(annotation: Any) -> bool:
    """Return whether a setting of this type is a text, or one of several."""
    kinds = (annotation, *get_args(annotation))
    return str in kinds or any(get_origin(kind) is Literal for kind in kinds)


def converted(name: str, value: Any, annotation: Any) -> Any:
    """Return `value` as the type of its setting; integers become floats, lists become tuples."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return None if value is None else converted(name, value, get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            allowed = ", ".join(get_args(annotation))
            raise ValueError(f"setting {name!r} must be one of {allowed}; got {value!r}")
        return value
    convert, expected = _CONVERSIONS[annotation]
    found = convert(value)
    if found is None:
        raise ValueError(
            f"setting {name!r} must be {expected}; got {value!r} ({type(value).__name__})"
        )
    return found


def _as_float(value: Any) -> float | None:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_pair(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    first, second = _as_float(value[0]), _as_float(value[1])
    return None if first is None or second is None else (first, second)


_CONVERSIONS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (lambda value: value if type(value) is int else None, "an integer"),
    float: (_as_float, "a finite number"),
    bool: (lambda value: value if type(value) is bool else None, "true or false"),
    str: (lambda value: value if isinstance(value, str) and value else None, "a non-empty text"),
    tuple[float, float]: (_as_pair, "a list of two numbers"),
}


class CheckedPart:
    """A frozen dataclass whose fields are converted to their types and checked."""

    def __post_init__(self) -> None:
        part: Any = type(self)
        for name in part.__dataclass_fields__:
            object.__setattr__(self, name, checked_value(part, name, getattr(self, name)))


def checked_value(part: Any, name: str, value: Any) -> Any:
    """Return the value of a part's field, converted to its type, or raise a `ValueError`."""
    hint = _annotated_types(part)[name]
    if get_origin(hint) is not Annotated:
        return converted(name, value, hint)
    constraint: Constraint = hint.__metadata__[0]
    value = converted(name, value, hint.__origin__)
    if value is not None and not constraint.holds(value):
        raise ValueError(f"setting {name!r} must be {constraint.allowed}; got {value!r}")
    return value


@functools.cache
def _annotated_types(part: Any) -> dict[str, Any]:
    return typing.get_type_hints(part, include_extras=True)


Preset = Literal["literal", "paper", "adaptive", "swift", "adapt"]
ImportanceMode = Literal["softmax", "raw", "raw-strict"]
Implant = Literal["cell", "convolution", "attention", "nested", "residual-attention"]

RetentionName = Literal["none", "l2-sp", "ewc", "lwf", "rehearsal"]

RetrofitPart = Literal["cells", "cells+norms", "cells+decoder", "all"]
"""Parts that a retrofit can finetune; the first is the default."""

ControlPart = Literal["network", "decoder", "norms"]
"""Parts of the backbone that the control can train; the first is the default."""

TrainablePart = Literal[RetrofitPart, ControlPart]

BackbonePart = Literal["none", "norms", "decoder", "all"]
"""Trained parts of a backbone's own tensors."""

BACKBONE_PARTS: Mapping[TrainablePart, BackbonePart] = {
    **{"cells": "none", "cells+norms": "none", "cells+decoder": "decoder", "all": "all"},
    **{"network": "all", "decoder": "decoder", "norms": "norms"},
}
"""By the setting `trainable_part`; with `cells+norms` the backbone's own norms stay as they are."""

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
"""Settings that decide the network of a plans file; all folds of a model share them."""


@dataclass(frozen=True)
class CellConfig(CheckedPart):
    """Settings of the modules in the skip connections and of the weights of edges."""

    channel_ratio: Annotated[float, SHARE] = 0.25
    min_channels: Annotated[int, CHANNELS] = 16
    partial_channels: Annotated[int, CHANNELS] = 4
    output_nodes: Annotated[int, NODE_COUNT] = 4
    norm: Literal["plans", "batch"] = "plans"
    residual: Literal["none", "zero"] = "zero"
    trainable_part: TrainablePart | None = None
    activation_checkpointing: bool = False
    importance: ImportanceMode = "softmax"
    edge_transform: Literal["tanh", "tan"] = "tanh"
    tan_clamp: Annotated[float, BELOW_THE_POLE] = 1.5
    skip: Literal["cell", "attention", "nested", "residual-attention"] = "cell"
    genotype: str | None = None
    max_parameter_ratio: Annotated[float | None, above(0)] = None
    max_mac_ratio: Annotated[float | None, above(0)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_channels < self.partial_channels:
            raise ValueError(
                "min_channels must be at least partial_channels; got "
                f"min_channels={self.min_channels}, partial_channels={self.partial_channels}"
            )
        if self.genotype is not None:
            if self.skip != "cell":
                raise ValueError(
                    "genotype chooses a cell, so skip must be cell with it; got "
                    f"genotype={self.genotype}, skip={self.skip}: leave one of them out"
                )
            CellSource.of(self.genotype)
        if self.implant != "cell" and self.has_budget:
            raise ValueError(
                "max_parameter_ratio and max_mac_ratio limit cells, and these settings implant "
                f"none but {self.implant}; got {self.max_parameter_ratio} and "
                f"{self.max_mac_ratio}: leave them out"
            )

    @property
    def has_budget(self) -> bool:
        """Whether the parameters or MACs of cells are limited."""
        return (self.max_parameter_ratio, self.max_mac_ratio) != (None, None)

    @property
    def implant(self) -> Implant:
        """The module that is put into the skip connections."""
        if self.genotype is not None and CellSource.of(self.genotype).kind == "convolution":
            return "convolution"
        return self.skip

    @property
    def decoder_norms(self) -> Literal["frozen", "tuned"]:
        """Whether a retrofit adds a scale and a shift to every norm of its frozen decoder."""
        return "tuned" if self.trainable_part == "cells+norms" else "frozen"

    @property
    def trained_backbone(self) -> BackbonePart:
        """The part of its backbone's own tensors that a retrofit finetunes."""
        return BACKBONE_PARTS[self.trainable_part or "cells"]

    @property
    def structure(self) -> dict[str, Any]:
        """The values that decide which network the plans describe, by the names in `STRUCTURAL`."""
        return {key: getattr(self, key) for key in STRUCTURAL}

    def network_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `nnunet_iac.retrofit`."""
        own = ("activation_checkpointing", "trained_backbone")
        return {**self.structure, **{key: getattr(self, key) for key in own}}


@dataclass(frozen=True)
class SearchSchedule(CheckedPart):
    """Lengths of the phases; `search_epochs` is the whole search stage, warm-up included."""

    preset: Preset = "literal"
    warmup_epochs: Annotated[int, COUNT_OR_NONE] = 15
    search_epochs: Annotated[int, COUNT] = 200
    finetune_epochs: Annotated[int, COUNT_OR_NONE] = 200
    finetune_patience: Annotated[int | None, COUNT] = None
    iterations_per_epoch: Annotated[int, COUNT] = 250
    val_iterations_per_epoch: Annotated[int, COUNT] = 50

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

    A check is stable while the divergence of the last two distributions (`search.pruning`) is below
    `stability_threshold`. Whenever an edge is unstable its threshold is multiplied by
    `threshold_growth`; with `reset_threshold` every prune restores it.
    """

    patience: Annotated[int, COUNT] = 1
    stability_threshold: Annotated[float, above(0)] = 1.0
    threshold_growth: Annotated[float, at_least(1)] = 2.0
    reset_threshold: bool = False


@dataclass(frozen=True)
class Optimisation(CheckedPart):
    """Optimisers, learning rates and random numbers."""

    weights_lr: Annotated[float, LEARNING_RATE] = 0.01
    weights_lr_min: Annotated[float, at_least(0)] = 1e-4
    annealing_power: Annotated[float, between(1, 1000)] = 2.0
    architecture_lr: Annotated[float, LEARNING_RATE] = 1e-3
    architecture_betas: Annotated[tuple[float, float], ADAM_BETAS] = (0.9, 0.999)
    architecture_weight_decay: Annotated[float, between(0, 100)] = 0.0
    finetune_optimizer: Literal["adam", "sgd"] = "adam"
    finetune_lr: Annotated[float, LEARNING_RATE] = 1e-3
    finetune_schedule: Literal["constant", "poly"] = "poly"
    ema_decay: Annotated[float, DECAY] = 0.0
    retention: RetentionName = "none"
    retention_weight: Annotated[float, between(1e-12, 1_000_000_000)] = 0.1
    rehearsal_cases: Annotated[int, COUNT] = 10
    deep_supervision: bool = True
    compile_cells: bool = False
    seed: Annotated[int, TORCH_SEED] = 0
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
    score_source: bool = True
    allow_leakage: bool = False
