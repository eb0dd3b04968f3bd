"""The folder `fold_X/iac`: one name, one writer and one reader per file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from nnunet_iac.runs.atomic import read_json, replacing, write_json, write_text
from nnunet_iac.runs.records import (
    BackboneRecord,
    CostRecord,
    Trajectory,
    TrajectoryRow,
)
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings

FOLDER_NAME = "iac"


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
    def trajectory_file(self) -> Path:
        """The arrays of `Trajectory`."""
        return self.path / "trajectory.npz"

    @property
    def events_file(self) -> Path:
        """One `PruningEvent` a line."""
        return self.path / "events.jsonl"

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
    def cell_svg_file(self) -> Path:
        """The found cell, drawn."""
        return self.path / "cell.svg"

    @property
    def cell_png_file(self) -> Path:
        """The found cell, drawn."""
        return self.path / "cell.png"

    @property
    def reference_folder(self) -> Path:
        """nnU-Net's validation of the frozen backbone by itself."""
        return self.path / "reference"

    def write_settings(self, settings: Settings) -> None:
        """Write the settings with every default and preset filled in."""
        write_json(self.settings_file, settings.resolved().to_mapping())

    def read_settings(self) -> Settings:
        """Return the run's settings."""
        return Settings.from_mapping(read_json(self.settings_file))

    def write_genotype(self, genotype: Genotype) -> None:
        """Write the found cell."""
        write_json(self.genotype_file, genotype.to_document())

    def read_genotype(self) -> Genotype:
        """Return the found cell."""
        return read_genotype_file(self.genotype_file)

    def write_trajectory(self, rows: Sequence[TrajectoryRow]) -> None:
        """Write all rows so far."""
        trajectory = Trajectory.of_rows(rows)
        arrays = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(Trajectory)}
        with replacing(self.trajectory_file) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    def read_trajectory(self) -> Trajectory:
        """Return all rows so far."""
        with np.load(self.trajectory_file) as arrays:
            return Trajectory(**{f.name: arrays[f.name] for f in dataclasses.fields(Trajectory)})

    def write_events(self, events: Sequence[PruningEvent]) -> None:
        """Write all pruning events so far."""
        rows = (dataclasses.asdict(event) for event in events)
        documents = ({"edge": [row.pop("source"), row.pop("target")], **row} for row in rows)
        lines = (json.dumps(document, allow_nan=False) for document in documents)
        write_text(self.events_file, "".join(f"{line}\n" for line in lines))

    def read_events(self) -> tuple[PruningEvent, ...]:
        """Return all pruning events so far."""
        lines = self.events_file.read_text(encoding="utf-8").splitlines()
        rows = (json.loads(line) for line in lines)
        edges = ((row, *row.pop("edge")) for row in rows)
        return tuple(PruningEvent(**row, source=i, target=j) for row, i, j in edges)

    def write_backbone(self, record: BackboneRecord) -> None:
        """Write the proof of the frozen backbone."""
        write_json(self.backbone_file, dataclasses.asdict(record))

    def read_backbone(self) -> BackboneRecord:
        """Return the proof of the frozen backbone."""
        return BackboneRecord(**read_json(self.backbone_file))

    def write_cost(self, record: CostRecord) -> None:
        """Write what the run cost so far."""
        write_json(self.cost_file, dataclasses.asdict(record))

    def read_cost(self) -> CostRecord:
        """Return what the run cost so far."""
        return CostRecord.from_mapping(read_json(self.cost_file))

    def write_ticket(self, ticket: Mapping[str, Tensor]) -> None:
        """Write the tensors the cells started from."""
        with replacing(self.ticket_file) as temporary:
            save_file(dict(ticket), temporary)

    def read_ticket(self) -> dict[str, Tensor]:
        """Return the tensors the cells started from."""
        return load_file(self.ticket_file)


def record_beside(path: Path) -> RunFolder | None:
    """Return the record that a path belongs to, or None.

    Args:
        path: a fold folder, its record, or a file in either.
    """
    for folder in (path / FOLDER_NAME, path, path.parent, path.parent / FOLDER_NAME):
        if RunFolder(folder).settings_file.is_file():
            return RunFolder(folder)
    return None


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
