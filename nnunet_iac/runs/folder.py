"""The folder `fold_X/iac`: one name, one writer and one reader per file."""

import dataclasses
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
    BackboneRecord,
    CostRecord,
    Trajectory,
    TrajectoryRow,
)
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import Budgeted
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, Edge

FOLDER_NAME = "iac"
Event = TypeVar("Event")


@dataclass(frozen=True)
class RunFolder:
    """The record of one run. Every file is written atomically and can be read while it goes on."""

    path: Path

    @classmethod
    def of_fold(cls, fold_folder: str | Path) -> "RunFolder":
        """Return the record inside nnU-Net's `fold_X`."""
        return cls(Path(fold_folder) / FOLDER_NAME)

    @property
    def settings_file(self) -> Path:
        """All settings of the run, as they were resolved."""
        return self.path / "settings.json"

    @property
    def genotype_file(self) -> Path:
        """The found cell."""
        return self.path / "genotype.json"

    @property
    def budget_file(self) -> Path:
        """What cells cost, and what the budget gave up; only where a budget is set."""
        return self.path / "budget.json"

    @property
    def trajectory_file(self) -> Path:
        """The arrays of `Trajectory`."""
        return self.path / "trajectory.npz"

    @property
    def events_file(self) -> Path:
        """One `PruningEvent` a line."""
        return self.path / "events.jsonl"

    @property
    def health_file(self) -> Path:
        """One `HealthEvent` a line."""
        return self.path / "health.jsonl"

    @property
    def cost_file(self) -> Path:
        """The `CostRecord`."""
        return self.path / "cost.json"

    @property
    def ticket_file(self) -> Path:
        """The full-width tensors the cells started from."""
        return self.path / "ticket.safetensors"

    @property
    def backbone_file(self) -> Path:
        """The `BackboneRecord`."""
        return self.path / "backbone.json"

    @property
    def split_file(self) -> Path:
        """The cases of either side, and of either half in a full search."""
        return self.path / "split.json"

    @property
    def cell_svg_file(self) -> Path:
        """The found cell, drawn."""
        return self.path / "cell.svg"

    @property
    def cell_png_file(self) -> Path:
        """The found cell, drawn."""
        return self.path / "cell.png"

    @property
    def cell_files(self) -> tuple[Path, Path]:
        """Both drawings of the found cell."""
        return self.cell_svg_file, self.cell_png_file

    @property
    def reference_folder(self) -> Path:
        """nnU-Net's validation of the frozen backbone by itself."""
        return self.path / "reference"

    def write_settings(self, settings: Settings) -> None:
        """Write the settings with every default and preset filled in."""
        write_json(self.settings_file, settings.to_mapping())

    def read_settings(self) -> Settings:
        """Return the run's settings."""
        return Settings.from_mapping(read_json(self.settings_file))

    def write_split(self, split: Mapping[str, Sequence[str]]) -> None:
        """Write which cases the run learns from and which it is scored on."""
        write_json(self.split_file, dict(split))

    def write_genotype(self, genotype: Genotype) -> None:
        """Write the found cell."""
        write_json(self.genotype_file, genotype.to_document())

    def read_genotype(self) -> Genotype:
        """Return the found cell."""
        return read_genotype_file(self.genotype_file)

    def write_budget(self, costs: CellCosts, outcome: Budgeted) -> None:
        """Write what cells cost and what the budget left of the cell the search wanted."""
        document = {
            **costs.to_document(),
            "outcome": str(outcome),
            "wanted": outcome.wanted.to_document(),
            "kept_importance": outcome.kept_importance,
        }
        write_json(self.budget_file, document)

    def write_trajectory(self, rows: Sequence[TrajectoryRow]) -> None:
        """Write all rows so far."""
        trajectory = Trajectory.of_rows(rows)
        arrays = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(Trajectory)}
        with replacing(self.trajectory_file) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    def read_trajectory(self) -> Trajectory:
        """Return all rows so far.

        Raises:
            ValueError: the file is damaged, or an array is missing or of another shape.
        """
        try:
            with (
                open(self.trajectory_file, "rb") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                # Searches of earlier releases may have further arrays, such as `score`.
                return Trajectory(
                    **{f.name: arrays[f.name] for f in dataclasses.fields(Trajectory)}
                )
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
        """Return all pruning events so far.

        Raises:
            ValueError: a damaged line; the message names file and line.
        """
        return _events(
            self.events_file,
            lambda edge, row: PruningEvent(**row, source=edge.source, target=edge.target),
        )

    def write_health(self, events: Sequence[HealthEvent]) -> None:
        """Write all that was noticed about the search's health so far."""
        _write_lines(self.health_file, map(dataclasses.asdict, events))

    def read_health(self) -> tuple[HealthEvent, ...]:
        """Return all that was noticed so far; nothing where no file was written.

        Raises:
            ValueError: a damaged line; the message names file and line.
        """
        if not self.health_file.is_file():
            return ()
        return _events(self.health_file, lambda edge, row: HealthEvent(**row, edge=edge))

    def write_backbone(self, record: BackboneRecord) -> None:
        """Write the proof of the frozen backbone."""
        write_json(self.backbone_file, dataclasses.asdict(record))

    def read_backbone(self) -> BackboneRecord:
        """Return the proof of the frozen backbone."""
        with _fields_of(self.backbone_file):
            return BackboneRecord(**read_json(self.backbone_file))

    def write_cost(self, record: CostRecord) -> None:
        """Write what the run cost so far."""
        write_json(self.cost_file, dataclasses.asdict(record))

    def read_cost(self) -> CostRecord:
        """Return what the run cost so far."""
        with _fields_of(self.cost_file):
            return CostRecord.from_mapping(read_json(self.cost_file))

    def write_ticket(self, ticket: Mapping[str, Tensor]) -> None:
        """Write the tensors the cells started from."""
        with replacing(self.ticket_file) as temporary:
            temporary.write_bytes(save(dict(ticket)))

    def read_ticket(self) -> dict[str, Tensor]:
        """Return the tensors the cells started from.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return load_file(self.ticket_file)
        except SafetensorError as error:
            raise ValueError(f"{self.ticket_file} must hold tensors: {error}") from error


@contextmanager
def _fields_of(path: Path) -> Iterator[None]:
    """Name the file where what it holds is not what its class needs."""
    try:
        yield
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} must be written by this release and has other fields ({error}); restore it, "
            "or read it with the release that wrote it"
        ) from error


def record_beside(path: Path) -> RunFolder | None:
    """Return the record that a path belongs to, or None.

    Args:
        path: a fold folder, its record, or a file in either.
    """
    for folder in (path / FOLDER_NAME, path, path.parent, path.parent / FOLDER_NAME):
        if RunFolder(folder).settings_file.is_file():
            return RunFolder(folder)
    return None


def _write_lines(path: Path, documents: Iterable[Any]) -> None:
    write_text(path, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in documents))


def _events(path: Path, event: Callable[[Any, dict[str, Any]], Event]) -> tuple[Event, ...]:
    """Return one event a line, each made of its edge and its other values."""
    events = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            edge = row.pop("edge")
            events.append(event(None if edge is None else EDGES[EDGES.index(Edge(*edge))], row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"line {number} of {path} must hold an event and could not be read "
                f"({type(error).__name__}: {error}); restore the file, or search again"
            ) from error
    return tuple(events)


def path_for_fold(path: str, fold: int | str) -> Path:
    """Return a path of the settings, `{fold}` filled in."""
    return Path(path.replace("{fold}", str(fold))).expanduser()


def read_genotype_file(path: Path) -> Genotype:
    """Return the genotype of a JSON file.

    Raises:
        ValueError: the file is no valid genotype; the message names the file and what is wrong.
    """
    document: Any = read_json(path)
    try:
        return Genotype.from_document(document)
    except ValueError as error:
        raise ValueError(f"{path} must hold a genotype: {error}") from error
