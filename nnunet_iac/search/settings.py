"""All settings of a run: one frozen, validated dataclass. These names are used everywhere."""

import dataclasses
import difflib
import functools
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_origin

from nnunet_iac.search.controls import CellSource
from nnunet_iac.search.setting_values import (
    ADAM_BETAS,
    BELOW_ONE,
    BELOW_THE_POLE,
    NODE_COUNT,
    PATTERN,
    SEED,
    SHARE,
    Rule,
    above,
    at_least,
    converted,
    is_text,
)

Preset = Literal["literal", "paper", "adaptive", "swift"]
ImportanceMode = Literal["softmax", "raw", "raw-strict"]
Norm = Literal["plans", "batch"]
StabilityTest = Literal["js", "schedule", "rank", "mask", "drift"]
SkipModule = Literal["cell", "attention", "nested", "residual-attention"]
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
"""Settings that decide which network a plans file describes; the folds of a model share them."""


@dataclass(frozen=True)
class Stability:
    """The stability test in force: `checks` consecutive stable checks before a prune.

    `test` says what is measured (`search.stability`); below the threshold `theta` a check is
    stable, and a `schedule` has no threshold. `kappa` multiplies it whenever an edge is unstable;
    `reset` puts it back at every prune.
    """

    test: StabilityTest
    checks: int
    theta: float
    kappa: float
    reset: bool


PRESET_VALUES: Mapping[str, Mapping[str, Any]] = {"swift": {"warmup_epochs": 3}}
"""Defaults that a preset brings along, wherever settings are read."""

OWN_STABILITY: Mapping[StabilityTest, Stability] = {
    "rank": Stability("rank", checks=2, theta=0.01, kappa=1.0, reset=False),
    "mask": Stability("mask", checks=5, theta=0.01, kappa=1.0, reset=False),
    "drift": Stability("drift", checks=1, theta=0.05, kappa=1.0, reset=False),
}
"""Values of tests that do not follow the preset: the same order or mask, and a level of 5 %."""


@dataclass(frozen=True)
class Settings:
    """The settings of a search and its finetuning; the defaults are the paper's where it has one.

    All but `preset` and `residual`: docs/results.md says what they were chosen by.

    `search_epochs` is the budget of the whole search stage and includes the warm-up. The four
    settings of the stability test default to their preset's value; `stability` resolves them. What
    else a preset brings (`PRESET_VALUES`) is filled in by `from_mapping`.

    Raises:
        ValueError: a value of the wrong type or outside its range, or values that exclude each
            other; the message names the key, the value and what is allowed.
    """

    preset: Preset = "literal"
    warmup_epochs: Annotated[int, at_least(0)] = 15
    search_epochs: Annotated[int, at_least(1)] = 200
    finetune_epochs: Annotated[int, at_least(0)] = 200
    iterations_per_epoch: Annotated[int, at_least(1)] = 250
    val_iterations_per_epoch: Annotated[int, at_least(1)] = 50
    stability_test: StabilityTest = "js"
    stable_checks: Annotated[int | None, at_least(1)] = None
    theta: Annotated[float | None, above(0)] = None
    kappa: Annotated[float | None, at_least(1)] = None
    reset_theta: bool | None = None
    importance: ImportanceMode = "softmax"
    pruning_score: Literal["importance", "perturbation"] = "importance"
    held_back: Annotated[float, BELOW_ONE] = 0.2
    score_batches: Annotated[int, at_least(1)] = 4
    edge_transform: Literal["tanh", "tan"] = "tanh"
    tan_clamp: Annotated[float, BELOW_THE_POLE] = 1.5
    channel_ratio: Annotated[float, SHARE] = 0.25
    min_channels: Annotated[int, at_least(1)] = 16
    partial_channels: Annotated[int, at_least(1)] = 4
    output_nodes: Annotated[int, NODE_COUNT] = 4
    max_identity: Annotated[int | None, at_least(0)] = None
    max_parameter_ratio: Annotated[float | None, above(0)] = None
    max_mac_ratio: Annotated[float | None, above(0)] = None
    skip: SkipModule = "cell"
    norm: Norm = "plans"
    residual: Literal["none", "zero"] = "zero"
    decoder_norms: Literal["frozen", "tuned"] = "frozen"
    recompute_cells: bool = False
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
    trained_on: Literal["network", "decoder"] = "network"
    deep_supervision: bool = True
    seed: Annotated[int, SEED] = 0
    deterministic: bool = True
    patient_pattern: Annotated[str | None, PATTERN] = None
    backbone_trainer: str | None = None
    backbone_plans: str | None = None
    backbone_checkpoint: str | None = None
    genotype: str | None = None
    allow_leakage: bool = False

    def __post_init__(self) -> None:
        for name, annotation in _annotations().items():
            value = converted(name, getattr(self, name), annotation)
            _check_range(name, value)
            object.__setattr__(self, name, value)
        if self.min_channels < self.partial_channels:
            raise ValueError(
                "min_channels must be at least partial_channels; got "
                f"min_channels={self.min_channels}, partial_channels={self.partial_channels}"
            )
        if self.weights_lr_min > self.weights_lr:
            raise ValueError(
                "weights_lr_min must not exceed weights_lr; got "
                f"weights_lr_min={self.weights_lr_min}, weights_lr={self.weights_lr}"
            )
        if self.stability_test == "drift" and self.importance != "softmax":
            raise ValueError(
                "stability_test=drift compares logarithms of importances, so importance must be "
                f"softmax with it; got importance={self.importance}"
            )
        if self.stability_test == "mask" and self.stability.theta > LEAST_CHANGE_OF_A_MASK:
            raise ValueError(
                "a mask that has changed must not be stable, so theta must be at most 2/7 with "
                f"stability_test=mask; got theta={self.theta}"
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
        if self.warmup_epochs >= self.search_epochs:
            raise ValueError(
                "search_epochs counts the warm-up and must exceed warmup_epochs; got "
                f"search_epochs={self.search_epochs}, warmup_epochs={self.warmup_epochs}"
            )

    @property
    def stability(self) -> Stability:
        """The stability test: its own or the preset's values, replaced by settings where given."""
        preset = OWN_STABILITY.get(self.stability_test) or self._preset_stability()
        return Stability(
            test=self.stability_test,
            checks=preset.checks if self.stable_checks is None else self.stable_checks,
            theta=preset.theta if self.theta is None else self.theta,
            kappa=preset.kappa if self.kappa is None else self.kappa,
            reset=preset.reset if self.reset_theta is None else self.reset_theta,
        )

    @property
    def implant(self) -> Implant:
        """What is put into the skip connections."""
        if self.genotype is not None and CellSource.of(self.genotype).kind == "convolution":
            return "convolution"
        return self.skip

    def network_arguments(self) -> dict[str, Any]:
        """Return the keywords of `nnunet_iac.nn.planned_retrofit.retrofit`."""
        structural = {key: getattr(self, key) for key in STRUCTURAL}
        return {**structural, "activation_checkpointing": self.recompute_cells}

    def _preset_stability(self) -> Stability:
        if self.preset in ("literal", "swift"):
            return Stability("js", checks=1, theta=1.0, kappa=2.0, reset=False)
        if self.preset == "paper":
            return Stability("js", checks=6, theta=1.0, kappa=2.0, reset=False)
        # Logits move by up to lr per step, and JS grows with the square of a small move.
        drift = self.architecture_lr * self.iterations_per_epoch
        return Stability("js", checks=1, theta=3e-4 * drift**2, kappa=2.0, reset=True)

    @property
    def can_wait(self) -> bool:
        """Whether a stability check can fail, so that a pruning search may run to its limit.

        The Jensen-Shannon divergence is at most ln 2, so no threshold above that is ever missed,
        unless `raw-strict` takes an undefined one for unstable.
        """
        test = self.stability
        vacuous = test.test == "js" and self.importance != "raw-strict"
        return test.test != "schedule" and not (vacuous and test.theta > math.log(2))

    @property
    def soonest_end(self) -> int:
        """Epochs after which a pruning search ends at the soonest, warm-up included."""
        return self.warmup_epochs + self._idle + PRUNES_PER_EDGE * self.stability.checks

    @property
    def _idle(self) -> int:
        """Epochs after the warm-up that cannot be stable: all operations were tied at its end.

        Orders and masks change then, and a t test takes two increments at least.
        """
        return 1 if self.stability_test in OWN_STABILITY else 0

    @property
    def latest_end(self) -> int:
        """Epochs after which a pruning search has ended in any case, warm-up included."""
        return self.search_epochs if self.can_wait else min(self.soonest_end, self.search_epochs)

    def require_prunable(self) -> None:
        """Check that a pruning search can finish.

        Raises:
            ValueError: fewer epochs between warm-up and limit than six prunes need.
        """
        available = self.search_epochs - self.warmup_epochs
        needed = self.soonest_end - self.warmup_epochs
        if available < needed:
            first = " and one more before the first" if self._idle else ""
            raise ValueError(
                f"a search must have at least {needed} epochs after its warm-up, {PRUNES_PER_EDGE} "
                f"x stable_checks{first}, to prune {PRUNES_PER_EDGE} operations from every edge; "
                f"search_epochs={self.search_epochs} with warmup_epochs={self.warmup_epochs} "
                f"leaves {available}: set search_epochs to {self.soonest_end} or more"
            )

    def resolved(self) -> "Settings":
        """Return the same settings with the stability test's values filled in."""
        test = self.stability
        return dataclasses.replace(
            self,
            stable_checks=test.checks,
            theta=test.theta,
            kappa=test.kappa,
            reset_theta=test.reset,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return all settings as JSON-ready values."""
        values = dataclasses.asdict(self)
        values["architecture_betas"] = list(self.architecture_betas)
        return values

    @classmethod
    def from_mapping(cls, values: Any) -> "Settings":
        """Return the settings of a plans file's `iac` section; what is absent has its default.

        Raises:
            ValueError: no mapping, an unknown key, or as the class raises.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"settings must be a JSON object of keys and values; got {values!r}: write {{}} "
                "for all defaults"
            )
        for key in values:
            _require_known(key)
        # A preset may be no text; the class says so.
        brought = PRESET_VALUES.get(str(values.get("preset")), {})
        return cls(**{**brought, **values})


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Return key and typed value of a command line's `key=value`.

    Raises:
        ValueError: no `=`, an unknown key, or a value of the wrong type.
    """
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ValueError(f"a setting must have the form key=value; got {assignment!r}")
    _require_known(key)
    annotation = _annotations()[key]
    if is_text(annotation):
        return key, converted(key, None if text == "null" else text, annotation)
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except (ValueError, RecursionError):
        value = text
    return key, converted(key, value, annotation)


@functools.cache
def _annotations() -> dict[str, Any]:
    return typing.get_type_hints(Settings)


@functools.cache
def _rules() -> dict[str, Rule]:
    hints = typing.get_type_hints(Settings, include_extras=True)
    return {
        name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated
    }


def _require_known(key: Any) -> None:
    known = _annotations()
    if key not in known:
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown setting {key!r}; {hint}allowed are {', '.join(known)}")


def _check_range(name: str, value: Any) -> None:
    rule = _rules().get(name)
    if rule is not None and value is not None and not rule.holds(value):
        raise ValueError(f"setting {name!r} must be {rule.allowed}; got {value!r}")
