"""The replay of a search: every decision recomputed from its trajectory and compared."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.search import pruning
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import Decision, Observation, PruningEvent
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS

COLUMNS = ("importance", "divergence", "threshold", "active")
"""Columns of a trajectory, beside alpha and beta, that a replay recomputes."""

SHOWN = 20
"""Disagreements that the text of a replay spells out."""


@dataclass(frozen=True)
class Replay:
    """Recomputed decisions, and a sentence for every difference from the record.

    `genotype_compared`: whether there were a recomputed and a recorded genotype.
    """

    epochs: int
    prunes: int
    genotype_compared: bool
    disagreements: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the record is what the search must have decided."""
        return not self.disagreements

    def __str__(self) -> str:
        """The replay for people: what was recomputed, then `agrees` or what does not."""
        genotype = "the genotype" if self.genotype_compared else "no genotype"
        lines = [f"recomputed {self.epochs} epochs, {self.prunes} prunes and {genotype}"]
        if not self.epochs:
            lines = ["there was no search to replay: the trajectory has no epochs"]
        lines += self.disagreements[:SHOWN]
        if len(self.disagreements) > SHOWN:
            lines.append(f"and {len(self.disagreements) - SHOWN} more disagreements")
        return "\n".join([*lines, "agrees"] if self.agrees else lines)


def replay(folder: RunFolder) -> Replay:
    """Return the search recomputed from `trajectory.npz` and `settings.json`, and compared.

    Of the trajectory only the epochs, alpha and beta are taken, and whether the search prunes: its
    threshold is a number then. All else must equal the record bit for bit. Under a budget the
    genotype depends on what cells cost, which `budget.json` holds.

    Raises:
        FileNotFoundError, ValueError: a missing or damaged file, or a gap in the epochs.
    """
    for path in (folder.settings_file, folder.trajectory_file, folder.events_file):
        if not path.is_file():
            raise FileNotFoundError(
                f"a replay needs the record of a run; {path} does not exist: name the fold folder "
                "of a run, or restore the file"
            )
    settings, trajectory = folder.read_settings(), folder.read_trajectory()
    _require_every_epoch(folder, trajectory)
    decisions, genotype = _recomputed(trajectory, settings, folder)
    events = [event for decision in decisions for event in decision.events]
    recorded = folder.read_genotype() if folder.genotype_file.is_file() else None
    disagreements = [*_differing_values(trajectory, decisions)]
    disagreements += _differing_events(folder.read_events(), events)
    if not settings.cell.genotype:
        disagreements += _differing_genotype(recorded, genotype, len(decisions))
    compared = recorded is not None and genotype is not None
    return Replay(len(trajectory.epoch), len(events), compared, tuple(disagreements))


def _require_every_epoch(folder: RunFolder, trajectory: Trajectory) -> None:
    for expected, found in enumerate(trajectory.epoch.tolist(), start=1):
        if found != expected:
            raise ValueError(
                f"the epochs of {folder.trajectory_file} must be 1, 2, 3 and so on; it has "
                f"{found} in the place of {expected}: restore the file, or search again"
            )


def _recomputed(
    trajectory: Trajectory, settings: Settings, folder: RunFolder
) -> tuple[list[Decision], Genotype | None]:
    """Return the decision of every epoch up to the search's end, and what it found if it ended."""
    prunes = not np.isnan(trajectory.threshold[settings.schedule.warmup_epochs :]).all()
    active = pruning.full_mask()
    start = Observation(0, torch.zeros(active.shape), torch.zeros(len(EDGES)))
    state = pruning.begin(start, settings.stability, settings.cell)
    decisions = []
    rows = zip(trajectory.epoch.tolist(), trajectory.alpha, trajectory.beta, strict=True)
    for epoch, alpha, beta in rows:
        seen = Observation(epoch, torch.from_numpy(alpha), torch.from_numpy(beta))
        decision = pruning.idle(seen, settings.cell)
        if epoch <= settings.schedule.warmup_epochs:
            state = pruning.begin(seen, settings.stability, settings.cell)
        elif prunes:
            state, decision = pruning.close_epoch(
                state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
            )
        decisions.append(decision)
        if state.finished or epoch >= settings.schedule.search_epochs:
            costs = _costs(folder, settings.cell)
            return decisions, discretise(seen.alpha, seen.beta, state.active, settings.cell, costs)
    return decisions, None


def _costs(folder: RunFolder, cell: CellConfig) -> CellCosts | None:
    """Return what cells cost in the run, or None where no budget asks for it."""
    if not cell.has_budget:
        return None
    path = folder.budget_file
    if not path.is_file():
        raise FileNotFoundError(
            f"the replay of a search under a budget needs what its cells cost; {path} does not "
            "exist: restore the file"
        )
    try:
        return CellCosts.from_document(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} must hold what cells cost: {error}; restore it") from error


def _differing_values(trajectory: Trajectory, decisions: list[Decision]) -> Iterator[str]:
    for row, decision in enumerate(decisions):
        for name in COLUMNS:
            recorded, recomputed = getattr(trajectory, name)[row], getattr(decision, name).numpy()
            for index in np.argwhere(~_identical(recorded, recomputed)).tolist():
                of = "" if len(index) == 1 else f" of {OPERATIONS[index[1]]}"
                yield (
                    f"{_place(row + 1, index[0])}: {name}{of} is {recorded[tuple(index)]} in "
                    f"trajectory.npz, recomputed {recomputed[tuple(index)]}"
                )
    if len(trajectory.epoch) > len(decisions):
        yield (
            f"trajectory.npz has epochs up to {len(trajectory.epoch)}, but the recomputed search "
            f"ends after epoch {len(decisions)}"
        )


def _identical(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return where two arrays hold the same bits, or NaN both."""
    if first.dtype == np.bool_:
        return first == second
    same_bits = first.view(np.int64) == second.view(np.int64)
    return same_bits | (np.isnan(first) & np.isnan(second))


def _differing_events(
    recorded: Iterable[PruningEvent], recomputed: Iterable[PruningEvent]
) -> Iterator[str]:
    by_place: dict[str, tuple[list[PruningEvent], list[PruningEvent]]] = {}
    for side, events in enumerate((recorded, recomputed)):
        for event in events:
            place = f"epoch {event.epoch}, edge {event.edge}"
            by_place.setdefault(place, ([], []))[side].append(event)
    for place, (found, expected) in by_place.items():
        if found != expected:
            yield f"{place}: events.jsonl prunes {_named(found)}, recomputed {_named(expected)}"


def _named(events: list[PruningEvent]) -> str:
    """Return the events of one edge and epoch as text, with all that may differ."""
    texts = (
        f"{e.operation} ({e.rule}, importance {e.importance}, divergence {e.divergence}, "
        f"threshold {e.threshold})"
        for e in events
    )
    return " and ".join(texts) or "nothing"


def _differing_genotype(
    recorded: Genotype | None, recomputed: Genotype | None, epoch: int
) -> Iterator[str]:
    if recorded is None or recomputed is None:
        place = f"epoch {epoch}"
        if recorded is not None:
            yield f"{place}: there is a genotype.json, but the recomputed search has not ended"
        if recomputed is not None:
            yield f"{place}: the recomputed search has ended, but there is no genotype.json"
        return
    found, expected = recorded.operations, recomputed.operations
    for index, edge in enumerate(EDGES):
        was, now = (side.get(edge, "no operation") for side in (found, expected))
        if was != now:
            yield f"{_place(epoch, index)}: genotype.json has {was}, recomputed {now}"


def _place(epoch: int, index: int) -> str:
    return f"epoch {epoch}, edge {EDGES[index]}"
