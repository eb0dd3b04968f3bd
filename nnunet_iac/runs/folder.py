"""The folder `fold_X/iac`: one name, one writer and one reader per file."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nnunet_iac.runs.atomic import read_json, replacing, write_json, write_text
from nnunet_iac.runs.records import (
    SHAPES,
    BackboneRecord,
    CostRecord,
    SourceRecord,
    Trajectory,
    TrajectoryRow,
)
from nnunet_iac.runs.typed import Record, typed
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import Budgeted
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge

FOLDER_NAME = "iac"
LONGEST_LINE = 100_000
"""Bytes of a line of events that are read; an event has some hundred."""

Event = TypeVar("Event")


class Inside:
    """The path of a file in a run's record, as an attribute of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The record of one run. Every file is written atomically and can be read during the run."""

    path: Path

    @classmethod
    def of_fold(cls, fold_folder: str | Path) -> "RunFolder":
        """Return the record inside nnU-Net's `fold_X`."""
        return cls(Path(fold_folder) / FOLDER_NAME)

    settings_file = Inside("settings.json")  # With every default and preset filled in.
    genotype_file = Inside("genotype.json")
    budget_file = Inside("budget.json")  # Only where a budget is set.
    trajectory_file = Inside("trajectory.npz")  # The arrays of `Trajectory`.
    events_file = Inside("events.jsonl")  # One `PruningEvent` a line.
    health_file = Inside("health.jsonl")  # One `HealthEvent` a line.
    cost_file = Inside("cost.json")
    ticket_file = Inside("ticket.safetensors")  # The full-width tensors the cells started from.
    backbone_file = Inside("backbone.json")
    split_file = Inside("split.json")  # The cases of either side, and half in a full search.
    cell_svg_file = Inside("cell.svg")
    cell_png_file = Inside("cell.png")
    reference_folder = Inside("reference")  # nnU-Net's validation of the backbone by itself.
    source_file = Inside("source.json")  # Of a model that is adapted: scores on its own data set.
    source_before_folder = Inside("source_before")  # nnU-Net's validation there of the backbone.
    source_after_folder = Inside("source_after")  # nnU-Net's validation there of the network.

    @property
    def cell_files(self) -> tuple[Path, Path]:
        """Both drawings of the found cell."""
        return self.cell_svg_file, self.cell_png_file

    def write_settings(self, settings: Settings) -> None:
        """Write the settings with every default and preset filled in."""
        write_json(self.settings_file, settings.to_mapping())

    def read_settings(self) -> Settings:
        """Return the run's settings."""
        with _content(self.settings_file) as values:
            return Settings.from_mapping(values)

    def write_split(self, split: Mapping[str, Sequence[str]]) -> None:
        """Write which cases the run learns from and which it is scored on."""
        write_json(self.split_file, dict(split))

    def read_split(self) -> dict[str, list[str]]:
        """Return which cases the run learns from and which it is scored on."""
        with _content(self.split_file) as split:
            return typed(dict[str, list[str]], split, "the split")

    def write_genotype(self, genotype: Genotype) -> None:
        """Write the found cell."""
        write_json(self.genotype_file, genotype.to_document())

    def read_genotype(self) -> Genotype:
        """Return the found cell."""
        return read_genotype_file(self.genotype_file)

    def write_budget(self, costs: CellCosts, outcome: Budgeted) -> None:
        """Write what cells cost and what the budget left of the cell the search wanted."""
        wanted = {"outcome": str(outcome), "wanted": outcome.wanted.to_document()}
        kept = {"kept_importance": outcome.kept_importance}
        write_json(self.budget_file, costs.to_document() | wanted | kept)

    def write_trajectory(self, rows: Sequence[TrajectoryRow]) -> None:
        """Write all rows so far."""
        with replacing(self.trajectory_file) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **vars(Trajectory.of_rows(rows)))

    def read_trajectory(self) -> Trajectory:
        """Return all rows so far; a damaged file is a ValueError."""
        try:
            with open(self.trajectory_file, "rb") as file, np.load(file) as arrays:
                # Searches of earlier releases may have further arrays, such as `score`.
                trajectory = Trajectory(**{name: arrays[name] for name in SHAPES})
                if not all(np.isfinite(a).all() for a in (trajectory.alpha, trajectory.beta)):
                    raise ValueError("alpha and beta must be finite")
                return trajectory
        except OSError:
            raise
        except Exception as error:  # Of a damaged file numpy, zipfile and zlib raise a dozen kinds.
            raise ValueError(
                f"{self.trajectory_file} must hold a trajectory and could not be read "
                f"({type(error).__name__}: {error}); restore it, or search again"
            ) from error

    def write_events(self, events: Sequence[PruningEvent]) -> None:
        """Write all pruning events so far."""
        rows = (dataclasses.asdict(event) for event in events)
        documents = ({"edge": [row.pop("source"), row.pop("target")], **row} for row in rows)
        _write_lines(self.events_file, documents)

    def read_events(self) -> tuple[PruningEvent, ...]:
        """Return all pruning events so far; a damaged line is a ValueError."""

        def event(edge: Edge, row: dict[str, Any]) -> PruningEvent:
            OPERATIONS.index(row["operation"])
            return typed(PruningEvent, {**row, "source": edge.source, "target": edge.target})

        return _events(self.events_file, event)

    def write_health(self, events: Sequence[HealthEvent]) -> None:
        """Write all events of the search's health so far."""
        _write_lines(self.health_file, map(dataclasses.asdict, events))

    def read_health(self) -> tuple[HealthEvent, ...]:
        """Return all events of the search's health so far; nothing where no file was written."""
        if not self.health_file.is_file():
            return ()
        of = functools.partial(typed, HealthEvent)
        return _events(self.health_file, lambda edge, row: of({**row, "edge": edge}))

    def write_backbone(self, record: BackboneRecord) -> None:
        """Write the proof of the frozen backbone."""
        write_json(self.backbone_file, dataclasses.asdict(record))

    def read_backbone(self) -> BackboneRecord:
        """Return the proof of the frozen backbone."""
        return _record(BackboneRecord, self.backbone_file)

    def write_source(self, record: SourceRecord) -> None:
        """Write what an adapted model scores on its source."""
        write_json(self.source_file, dataclasses.asdict(record))

    def read_source(self) -> SourceRecord | None:
        """Return what an adapted model scores on its source; None where it was not scored."""
        if not self.source_file.is_file():
            return None
        return _record(SourceRecord, self.source_file)

    def write_cost(self, record: CostRecord) -> None:
        """Write what the run cost so far."""
        write_json(self.cost_file, dataclasses.asdict(record))

    def read_cost(self) -> CostRecord:
        """Return what the run cost so far."""
        return _record(CostRecord, self.cost_file)

    def write_ticket(self, ticket: Mapping[str, Tensor]) -> None:
        """Write the tensors the cells started from."""
        with replacing(self.ticket_file) as temporary:
            temporary.write_bytes(save(dict(ticket)))

    def read_ticket(self) -> dict[str, Tensor]:
        """Return the tensors the cells started from; a damaged file is a ValueError."""
        try:
            return load_file(self.ticket_file)
        except SafetensorError as error:
            raise ValueError(f"{self.ticket_file} must hold tensors: {error}") from error


@contextmanager
def _content(path: Path) -> Iterator[Any]:
    """Yield what a file holds, and name it where that is not what a class needs."""
    values = read_json(path)
    try:
        if values == {}:
            raise ValueError("it is empty")
        yield values
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} must hold what this release writes, and is damaged or of another release "
            f"({error}): restore it, or read it with the release that wrote it"
        ) from error


def _record(kind: type[Record], path: Path) -> Record:
    with _content(path) as values:
        return typed(kind, values)


def record_beside(path: Path) -> RunFolder | None:
    """Return the record of a fold folder, of itself, or of a file in either; or None."""
    for folder in (path / FOLDER_NAME, path, path.parent, path.parent / FOLDER_NAME):
        if RunFolder(folder).settings_file.is_file():
            return RunFolder(folder)
    return None


def _write_lines(path: Path, documents: Iterable[Any]) -> None:
    write_text(path, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in documents))


def _events(path: Path, event: Callable[[Any, dict[str, Any]], Event]) -> tuple[Event, ...]:
    """Return one event a line, each made of its edge and its other values."""
    events = []
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            try:
                row = json.loads(line)
                edge = row.pop("edge")
                events.append(event(None if edge is None else EDGES[EDGES.index(Edge(*edge))], row))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(
                    f"line {number} of {path} must hold an event and could not be read "
                    f"({type(error).__name__}: {error}); restore the file, or search again"
                ) from error
    return tuple(events)


def path_for_fold(path: str, fold: int | str) -> Path:
    """Return a path of the settings, `{fold}` filled in."""
    return Path(path.replace("{fold}", str(fold))).expanduser()


def read_genotype_file(path: Path) -> Genotype:
    """Return the genotype of a JSON file; an invalid one is a ValueError that names the file."""
    document: Any = read_json(path)
    try:
        return Genotype.from_document(document)
    except ValueError as error:
        raise ValueError(f"{path} must hold a genotype: {error}") from error
