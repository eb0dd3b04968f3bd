"""The five parts of the settings, each what one concern of a run depends on."""

from dataclasses import dataclass
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
)

Preset = Literal["literal", "paper", "adaptive", "swift"]
ImportanceMode = Literal["softmax", "raw", "raw-strict"]
TestName = Literal["js", "schedule", "rank", "mask", "drift"]
Implant = Literal["cell", "convolution", "attention", "nested", "residual-attention"]

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
        return 1 if self.stability_test in ("rank", "mask", "drift") else 0


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
