"""The record of a run, `fold_X/iac`, and what its log gets after every epoch."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_iac.drawing.cell_picture import draw_cell
from nnunet_iac.runs import records
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.typed import typed
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import NON_FINITE, HealthEvent
from nnunet_iac.search.pruning import Decision, Observation, PruningEvent, PruningState
from nnunet_iac.search.relaxation import distribution
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import Edge
from nnunet_iac.training.distributed import ranks
from nnunet_iac.training.loggers import TensorBoardLogger, tensorboard_wanted
from nnunet_iac.training.progress import Progress, progress_line
from nnunet_iac.training.provenance import peak_memory_bytes, provenance

OF_CELLS = ("trajectory", "events", "health")
"""Files that grow with a run that has cells."""

RECENT = 10
"""Epochs over which the pace is measured."""

PLOT_INTERVAL_SECONDS = 60.0
"""nnU-Net redraws progress.png every epoch, which takes longer than a short epoch."""


class Recorder:
    """Holds and writes the record of a run."""

    def __init__(
        self, settings: Settings, folder: RunFolder, log: Callable[[str], None], cells: bool = True
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.log = log
        self.has_cells = cells
        self.backbone: records.BackboneRecord | None = None
        self.cost = records.CostRecord()
        self.rows: list[records.TrajectoryRow] = []
        self.events: list[PruningEvent] = []
        self.health_events: list[HealthEvent] = []

    def begin(self, backbone: records.BackboneRecord, run: dict[str, Any]) -> None:
        """Begin a new record; `run` identifies it."""
        self.backbone = backbone
        self.cost = replace(provenance(), run=run)
        self.folder.write_settings(self.settings)
        self.write()

    def restore(self) -> None:
        """Write the record as of the loaded checkpoint, and log which files were damaged."""
        for name in ("settings", "backbone", "cost", *(OF_CELLS if self.has_cells else ())):
            self.warn_of_damage(name)
        self.folder.write_settings(self.settings)
        self._note_other_circumstances()
        self.write()

    def write(self) -> None:
        """Write all files that grow with the run."""
        assert self.backbone is not None
        if self.has_cells:
            self.folder.write_trajectory(self.rows)
            self.folder.write_events(self.events)
            self.folder.write_health(self.health_events)
        self.folder.write_backbone(self.backbone)
        memory = max(self.cost.peak_memory_bytes, peak_memory_bytes())
        self.cost = replace(self.cost, peak_memory_bytes=memory)
        self.folder.write_cost(self.cost)

    def account(self, phase: str, seconds: float) -> None:
        """Add an epoch to what a phase has cost."""
        spent = self.cost.phases.get(phase, records.PhaseCost())
        total = records.PhaseCost(spent.epochs + 1, spent.seconds + seconds)
        self.cost = replace(self.cost, phases={**self.cost.phases, phase: total})

    def add_network_cost(self, name: str, cost: Cost) -> None:
        """Record the size and work of the backbone, the supernet or the final network."""
        self.cost = replace(self.cost, networks={**self.cost.networks, name: cost})
        self.folder.write_cost(self.cost)

    def add_row(self, observation: Observation, decision: Decision, seconds: float) -> None:
        """Add the trajectory's row of an epoch that took so many seconds."""
        decided = ("importance", "divergence", "threshold", "active")
        known = {key: getattr(observation, key).numpy() for key in ("alpha", "beta")}
        known |= {key: getattr(decision, key).numpy() for key in decided}
        self.rows.append(records.TrajectoryRow(epoch=observation.epoch, seconds=seconds, **known))

    def add_events(self, events: Sequence[PruningEvent]) -> None:
        """Add and log the operations that were pruned after an epoch."""
        self.events += events
        if events:
            pruned = ", ".join(f"{event.edge} {event.operation}" for event in events)
            self.log(f"Pruned {pruned}")

    def add_health_event(self, event: HealthEvent) -> None:
        """Write and log an event of the run's health, before anything else happens."""
        self.health_events.append(event)
        self.folder.write_health(self.health_events)
        self.log(f"WARNING: {event}")

    def add_backbone_facts(self, **facts: Any) -> None:
        """Write fields of the backbone's record that become known later."""
        assert self.backbone is not None
        self.backbone = replace(self.backbone, **facts)
        self.folder.write_backbone(self.backbone)

    def write_cell(self, genotype: Genotype) -> None:
        """Write and log a cell, with its pictures."""
        self.folder.write_genotype(genotype)
        for path in self.folder.cell_files:
            draw_cell(genotype, path, self.settings.cell.output_nodes)
        self.log(f"Genotype:\n{genotype}")

    def remove_cell(self) -> None:
        """Remove the files of a cell."""
        folder = self.folder
        for path in (folder.genotype_file, folder.budget_file, *folder.cell_files):
            path.unlink(missing_ok=True)

    def warn_of_damage(self, name: str) -> None:
        """Log if a file of the record, such as `cost`, cannot be read and so is written again."""
        try:
            getattr(self.folder, f"read_{name}")()
        except (ValueError, FileNotFoundError) as error:
            path: Path = getattr(self.folder, f"{name}_file")
            self.log(f"WARNING: {path.name} is written again from the checkpoint: {error}")

    def add_tensorboard(self, loggers: list[Any], first_epoch: int) -> None:
        """Add TensorBoard to nnU-Net's loggers if the environment asks for it."""
        if tensorboard_wanted():
            loggers.append(TensorBoardLogger(self.folder.path / "tensorboard", first_epoch))

    def log_progress(self, progress: Progress, logger: Any) -> None:
        """Log how far the run is."""
        times = (logger.get_value(f"epoch_{side}_timestamps", None) for side in ("start", "end"))
        self.log(progress_line(progress, self.pace(progress.phase, *times), datetime.now()))

    def pace(self, phase: str, starts: Sequence[float], ends: Sequence[float]) -> float:
        """Return the mean seconds of the recent epochs of a phase that has just had one."""
        recent = min(self.cost.phases[phase].epochs, RECENT)
        return float(np.mean(np.subtract(ends[-recent:], starts[-recent:])))

    def state_dict(self) -> dict[str, Any]:
        """Return the record's part of a checkpoint, in plain types and tensors."""
        state: dict[str, Any] = {
            "backbone": None if self.backbone is None else dataclasses.asdict(self.backbone),
            "cost": dataclasses.asdict(self.cost),
        }
        if not self.has_cells:
            return state
        # An edge as a plain tuple: checkpoints are read without knowing our classes.
        health = [
            {**dataclasses.asdict(event), "edge": event.edge and tuple(event.edge)}
            for event in self.health_events
        ]
        return {
            **state,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "events": [dataclasses.asdict(event) for event in self.events],
            "health_events": health,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        backbone = state["backbone"]
        self.backbone = None if backbone is None else typed(records.BackboneRecord, backbone)
        self.cost = typed(records.CostRecord, state["cost"])
        if self.has_cells:
            known = {field.name for field in dataclasses.fields(records.TrajectoryRow)}
            self.rows = [
                records.TrajectoryRow(**{key: row[key] for key in known & row.keys()})
                for row in state["rows"]
            ]
            self.events = [PruningEvent(**event) for event in state["events"]]
            self.health_events = [
                HealthEvent(**{**event, "edge": event["edge"] and Edge(*event["edge"])})
                for event in state["health_events"]
            ]
        self._keep_known_facts()

    def _note_other_circumstances(self) -> None:
        """Record where a run resumes with other versions, hardware or code: bits may differ."""
        now = provenance()
        names = ("hardware", "versions", "commit")
        known = {**{name: getattr(now, name) for name in names}, "ranks": ranks()}
        first = dataclasses.asdict(self.cost) | {"ranks": self.cost.run.get("ranks", ranks())}
        before = first | (self.cost.continued[-1] if self.cost.continued else {})
        differing = [key for key, value in known.items() if before[key] != value]
        if differing:
            self.cost = replace(self.cost, continued=[*self.cost.continued, known])
            self.log(
                f"WARNING: {' and '.join(differing)} differ from those the run began with, so it "
                "may not end as an unbroken run; cost.json holds both"
            )

    def _keep_known_facts(self) -> None:
        """Keep what later stages of this run have already proven and scored."""
        if self.backbone is None or not self.folder.backbone_file.is_file():
            return
        try:
            known = self.folder.read_backbone()
        except ValueError:
            return
        if known.before == self.backbone.before:
            self.backbone = replace(
                self.backbone,
                after=self.backbone.after or known.after,
                encoder_after=self.backbone.encoder_after or known.encoder_after,
                reference=self.backbone.reference or known.reference,
            )
            self._keep_known_faults()

    def _keep_known_faults(self) -> None:
        """Keep numbers that were not finite, after which no checkpoint was written."""
        try:
            found = self.folder.read_health() if self.has_cells else ()
        except ValueError:
            return
        kept = [e for e in found if e.kind == NON_FINITE and e not in self.health_events]
        self.health_events = sorted([*self.health_events, *kept], key=lambda event: event.epoch)


def search_scalars(
    row: records.TrajectoryRow, state: PruningState | None, cell: CellConfig
) -> dict[str, float]:
    """Return the numbers of a search's epoch by name.

    `operations_left` and `edges_settled` (edges with one operation left) are taken after the
    prune; `entropy` of p in nats and `divergence` of the stability test, means over the edges, are
    what the prune saw. What is undefined is left out: the divergence where nothing was compared,
    the entropy where p is no distribution on any edge (`raw-strict`).
    """
    active = torch.from_numpy(row.active)
    p = distribution(torch.from_numpy(row.alpha), torch.from_numpy(row.beta), active, cell)
    entropy = -torch.xlogy(p, p).sum(dim=1).numpy()
    left = (active if state is None else state.active).sum(dim=1)
    numbers = {"operations_left": float(left.sum()), "edges_settled": float((left == 1).sum())}
    for name, values in (("entropy", entropy), ("divergence", row.divergence)):
        defined = values[np.isfinite(values)]
        if defined.size:
            numbers[name] = float(defined.mean())
    return numbers


def draw_progress(trainer: Any) -> None:
    """Draw a trainer's last progress.png, however soon after the one before."""
    if trainer.local_rank == 0:
        trainer.logger.plot_progress_png.function(trainer.output_folder)


class Throttled:
    """Calls a function of one argument at most once a minute, as for nnU-Net's slow drawing."""

    def __init__(self, function: Callable[[str], None]) -> None:
        self.function = function
        self._last = -math.inf

    def __call__(self, argument: str) -> None:
        """Call the function if the last call was long enough ago."""
        if time.monotonic() - self._last > PLOT_INTERVAL_SECONDS:
            self.function(argument)
            self._last = time.monotonic()


def keep_average(average: list[float], earlier: list[float], dice: float) -> None:
    """Leave an epoch whose patches have foreground in neither truth nor prediction out of an EMA.

    nnU-Net's is not a number ever after, and no checkpoint would be the best again. `dice` is the
    epoch's, of which the average has just been extended; `earlier` is put before it again.
    """
    if math.isnan(average[-1]):
        average[-1] = average[-2] if math.isnan(dice) and len(average) > 1 else dice
    average[:0] = earlier
