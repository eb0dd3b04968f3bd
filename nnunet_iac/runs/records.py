"""The typed rows of a run's record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nnunet_iac.search.cost import Cost
from nnunet_iac.search.space import EDGES, OPERATIONS

RUN_KEYS = ("method", "trainer", "dataset", "plans", "configuration", "fold")
"""Keys of `run` in the cost record of every run."""

EDGES_BY_OPERATIONS = (len(EDGES), len(OPERATIONS))
SHAPES: dict[str, tuple[int, ...]] = {
    "epoch": (),
    "seconds": (),
    **dict.fromkeys(("beta", "divergence", "threshold"), EDGES_BY_OPERATIONS[:1]),
    **dict.fromkeys(("alpha", "importance", "active"), EDGES_BY_OPERATIONS),
}
"""Shape of every array of a trajectory, in one epoch."""
TYPES: dict[str, type] = {"epoch": np.int64, "active": np.bool_}
"""Their types, where these are not float64."""


@dataclass(frozen=True)
class TrajectoryRow:
    """The cell after one epoch, and what the pruning step saw; taken before it pruned.

    `epoch` counts completed epochs, as the paper does: nnU-Net's log calls the first one
    "Epoch 0". Divergence is NaN where nothing was compared, and so are both divergence and
    threshold in a search that does not prune. `seconds` is what the epoch took, validation
    included.
    """

    epoch: int
    alpha: Float[np.ndarray, "edges operations"]
    beta: Float[np.ndarray, " edges"]
    importance: Float[np.ndarray, "edges operations"]
    divergence: Float[np.ndarray, " edges"]
    threshold: Float[np.ndarray, " edges"]
    active: Bool[np.ndarray, "edges operations"]
    seconds: float = float("nan")


@dataclass(frozen=True)
class Trajectory:
    """All rows of a search as arrays, the epoch first."""

    epoch: Int[np.ndarray, " epochs"]
    alpha: Float[np.ndarray, "epochs edges operations"]
    beta: Float[np.ndarray, "epochs edges"]
    importance: Float[np.ndarray, "epochs edges operations"]
    divergence: Float[np.ndarray, "epochs edges"]
    threshold: Float[np.ndarray, "epochs edges"]
    active: Bool[np.ndarray, "epochs edges operations"]
    seconds: Float[np.ndarray, " epochs"]

    def __post_init__(self) -> None:
        for name, shape in SHAPES.items():
            array = getattr(self, name)
            expected = (np.size(self.epoch), *shape), np.dtype(TYPES.get(name, np.float64))
            if (array.shape, array.dtype) != expected:
                raise ValueError(
                    f"{name!r} must have shape {expected[0]} and type {expected[1]}; "
                    f"it has {array.shape} and {array.dtype}"
                )

    @classmethod
    def of_rows(cls, rows: Sequence[TrajectoryRow]) -> "Trajectory":
        """Return the rows stacked; no rows give empty arrays of the right shape."""
        arrays: dict[str, Any] = {
            name: np.asarray([getattr(row, name) for row in rows], TYPES.get(name, np.float64))
            for name in SHAPES
        }
        return cls(**{name: a.reshape(len(rows), *SHAPES[name]) for name, a in arrays.items()})


@dataclass(frozen=True)
class BackboneRecord:
    """Proof of what a run did to its backbone, and the backbone's own scores.

    Args:
        path: the checkpoint file.
        trainer: name of the trainer that wrote it.
        fold: its fold.
        before: SHA-256 over all backbone tensors, buffers included, read from the file.
        after: the same over the final network; None until then, and always for a control, which
            trains the backbone.
        trained: the part of it that was trained (`norms`, `decoder`, `all`); None if it was frozen,
            which `after` proves.
        leakage: why the checkpoint may have seen this fold's validation cases, or None.
        reference: Dice of the very checkpoint on the fold's validation cases: `mean` (over
            foreground classes, then cases), `per_case` and `errors`, by case the false positives
            and misses; None until validated.
        encoder_before, encoder_after: the same hash over the encoder alone, where other parts are
            trained; None otherwise.
    """

    path: str
    trainer: str
    fold: int | str
    before: str
    after: str | None = None
    leakage: str | None = None
    reference: dict[str, Any] | None = None
    encoder_before: str | None = None
    encoder_after: str | None = None
    trained: str | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the backbone has been compared and found bit-identical."""
        return self.before == self.after


@dataclass(frozen=True)
class SourceRecord:
    """Scores of an adapted model on the validation cases of its own data set, the source.

    Args:
        dataset: the source's data set, and the `configuration` and `fold` of its model.
        backbone: SHA-256 of the model's tensors, which `before` was scored with.
        network: the same of the run's network, which `after` was scored with.
        before: Dice as in `BackboneRecord.reference`; `after` likewise.
        forgetting: mean Dice after minus before, negative where something is forgotten; None where
            no case has a Dice.
    """

    dataset: str
    configuration: str
    fold: int | str
    backbone: str
    network: str
    before: dict[str, Any]
    after: dict[str, Any]
    forgetting: float | None


@dataclass(frozen=True)
class PhaseCost:
    """Seconds and epochs of one phase."""

    epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class CostRecord:
    """Cost of a run, its hardware, versions and commit."""

    phases: dict[str, PhaseCost] = field(default_factory=dict)
    networks: dict[str, Cost] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    run: dict[str, Any] = field(default_factory=dict)
    continued: list[dict[str, Any]] = field(default_factory=list)
    """Hardware, versions, commit and ranks wherever it was continued under other ones."""

    def __post_init__(self) -> None:
        for key in RUN_KEYS:
            if not isinstance(self.run.get(key, ""), str | int):
                raise ValueError(f"run.{key} must be a name or a number; got {self.run[key]!r}")
