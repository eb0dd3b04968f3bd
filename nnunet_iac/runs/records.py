"""The typed rows of a run's record."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

EDGES_BY_OPERATIONS = (14, 7)


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

    @classmethod
    def of_rows(cls, rows: Sequence[TrajectoryRow]) -> "Trajectory":
        """Return the rows stacked; no rows give empty arrays of the right shape."""
        edges, operations = EDGES_BY_OPERATIONS
        shapes = {
            "epoch": (),
            "seconds": (),
            "beta": (edges,),
            "divergence": (edges,),
            "threshold": (edges,),
        }
        types = {"epoch": np.int64, "active": np.bool_}
        arrays: dict[str, Any] = {}
        for row_field in dataclasses.fields(TrajectoryRow):
            name = row_field.name
            shape = (len(rows), *shapes.get(name, (edges, operations)))
            values = [getattr(row, name) for row in rows]
            arrays[name] = np.asarray(values, types.get(name, np.float64)).reshape(shape)
        return cls(**arrays)


@dataclass(frozen=True)
class BackboneRecord:
    """The proof that the backbone stayed frozen, and what it scores by itself.

    Args:
        path: the checkpoint file.
        trainer: name of the trainer that wrote it.
        fold: its fold.
        before: SHA-256 over all backbone tensors, buffers included, read from the file.
        after: the same over the final network; None until then.
        leakage: why the checkpoint may have seen this fold's validation cases, or None.
        reference: Dice of the very checkpoint on the fold's validation cases: `mean` (over
            foreground classes, then cases) and `per_case`; None until validated.
    """

    path: str
    trainer: str
    fold: int | str
    before: str
    after: str | None = None
    leakage: str | None = None
    reference: dict[str, Any] | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the backbone has been compared and found bit-identical."""
        return self.before == self.after


@dataclass(frozen=True)
class PhaseCost:
    """What one phase took."""

    epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class NetworkCost:
    """Size and work of one network; MACs for one patch of the plans."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class CostRecord:
    """What a run cost, on what, and with which code."""

    phases: dict[str, PhaseCost] = field(default_factory=dict)
    networks: dict[str, NetworkCost] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "CostRecord":
        """Return the record that `dataclasses.asdict` took apart."""
        phases = {name: PhaseCost(**cost) for name, cost in values["phases"].items()}
        networks = {name: NetworkCost(**cost) for name, cost in values["networks"].items()}
        return cls(**{**values, "phases": phases, "networks": networks})
