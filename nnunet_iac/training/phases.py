"""The phases of a run: what happens to the cells between two epochs, and the record of it."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_iac.drawing.cell_picture import draw_cell
from nnunet_iac.nn.iac_unet import IACUNet
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, TrajectoryRow
from nnunet_iac.search.budget import within_budget
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import (
    COLLAPSE_SHARE,
    HealthEvent,
    HealthState,
    examine,
    parameter_free_share,
)
from nnunet_iac.search.pruning import (
    Decision,
    Observation,
    PruningEvent,
    PruningState,
    begin,
    close_epoch,
    due,
    idle,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import Edge
from nnunet_iac.training.methods import Method
from nnunet_iac.training.record import Phase, RecordState, RunRecord


@dataclass
class RunState(RecordState):
    """All that a run must remember besides its network and optimisers."""

    pruning: PruningState | None = None
    rows: list[TrajectoryRow] = field(default_factory=list)
    events: list[PruningEvent] = field(default_factory=list)
    health: HealthState = field(default_factory=HealthState)
    health_events: list[HealthEvent] = field(default_factory=list)
    first_finetune_epoch: int | None = None
    ticket_hash: str = ""


class Phases(RunRecord):
    """One run's way from warm-up to finetuning.

    Changes the structure of the network between epochs only, and writes `fold_X/iac` after each.

    Args:
        settings: of the run.
        method: which search.
        folder: where the record goes.
        log: receives lines for nnU-Net's log.
    """

    state: RunState

    def __init__(
        self, settings: Settings, method: Method, folder: RunFolder, log: Callable[[str], None]
    ) -> None:
        first = Phase.WARMUP if settings.warmup_epochs else Phase.SEARCH
        if method.searches:
            state = RunState(first)
        else:
            state = RunState(Phase.FINETUNE, first_finetune_epoch=0)
        super().__init__(settings, folder, log, state)
        self.method = method
        self.costs: CellCosts | None = None
        """What cells cost, where the settings limit that."""

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run: exact once the search is over, its limit before."""
        searched = self.state.first_finetune_epoch
        before = self.settings.search_epochs if searched is None else searched
        return before + self.settings.finetune_epochs

    def start(
        self,
        network: Any,
        backbone: BackboneRecord,
        run: dict[str, Any],
        genotype: Genotype | None,
    ) -> None:
        """Begin a new record and give the cells their initial weights."""
        self.begin_record(backbone, {"method": self.method.name, **run})
        ticket = draw_ticket(network, self.settings.seed)
        self.state.ticket_hash = tensors_hash(ticket)
        self.folder.write_ticket(ticket)
        if genotype is not None:
            network.discretise(genotype)
            self._announce(genotype)
        load_ticket(network, ticket)
        if self.phase is Phase.SEARCH:
            self.state.pruning = begin(Observation(0, network.alpha, network.beta), self.settings)

    def due(self, network: Any, completed: int) -> Tensor | None:
        """Return the edges that the end of this epoch prunes by a score that must be measured."""
        pruning = self.state.pruning
        measured = self.settings.pruning_score != "importance"
        if not (measured and self.method.prunes and self.phase is Phase.SEARCH) or pruning is None:
            return None
        edges = due(pruning, Observation(completed, network.alpha, network.beta), self.settings)
        return edges if edges.any() else None

    def end_epoch(
        self,
        network: Any,
        completed: int,
        seconds: float,
        loss: float,
        score: Tensor | None = None,
    ) -> bool:
        """Close an epoch; return whether cells or phase changed, so optimisers must be rebuilt.

        Args:
            network: its cells are pruned or replaced in place.
            completed: epochs completed, this one included.
            seconds: what this epoch took.
            loss: its mean training loss.
            score: of the operations on the edges that are `due`.
        """
        before = self._structure()
        self.account(seconds)
        if self.phase is not Phase.FINETUNE:
            scored = {} if score is None else {"score": score}
            observation = Observation(completed, network.alpha, network.beta, **scored)
            if self.phase is Phase.WARMUP:
                self._end_warmup_epoch(observation, seconds)
            else:
                self._end_search_epoch(network, observation, seconds, loss)
        self.write_record()
        return self._structure() != before

    def readers(self) -> dict[Path, Callable[[], object]]:
        """Return the files that a checkpoint can write again, and what reads them."""
        return {
            **super().readers(),
            self.folder.trajectory_file: self.folder.read_trajectory,
            self.folder.events_file: self.folder.read_events,
            self.folder.health_file: self.folder.read_health,
        }

    def continue_cells(self, network: Any) -> None:
        """Put the files of ticket and found cell in order, and say what was missing."""
        self._ticket(network)
        if network.genotype is not None:
            self.warn_of_damage(self.folder.genotype_file, self.folder.read_genotype)
            self._announce(network.genotype)
            if self.method.searches and self.costs is not None:
                self._found(Observation(0, network.alpha, network.beta))
        else:  # It may have been found in an epoch whose checkpoint was not written.
            own = (self.folder.genotype_file, self.folder.budget_file, *self.folder.cell_files)
            for path in own:
                path.unlink(missing_ok=True)

    def notice(self, event: HealthEvent) -> None:
        """Record and log something about the health of the run, before anything else happens."""
        self.state.health_events.append(event)
        self.folder.write_health(self.state.health_events)
        self.log(f"WARNING: {event}")

    def require_frozen(self, backbone_hash: str) -> None:
        """Check that a checkpoint holds the backbone that was frozen.

        Raises:
            RuntimeError: it holds another.
        """
        assert self.state.backbone is not None
        if backbone_hash != self.state.backbone.before:
            raise RuntimeError(
                "the frozen backbone must be bit-identical throughout the run; its hash was "
                f"{self.state.backbone.before} and is {backbone_hash}: the cells were trained "
                "for another network, so start anew without --c"
            )

    def end_run(self, backbone_hash: str) -> None:
        """Record the backbone's hash after the run.

        Raises:
            RuntimeError: the backbone has changed.
        """
        assert self.state.backbone is not None
        self.state.backbone = replace(self.state.backbone, after=backbone_hash)
        self.write_record()
        self.require_frozen(backbone_hash)

    def set_reference(self, scores: dict[str, Any]) -> None:
        """Record what the frozen backbone scores by itself."""
        assert self.state.backbone is not None
        self.state.backbone = replace(self.state.backbone, reference=scores)
        self.folder.write_backbone(self.state.backbone)

    def write_record(self) -> None:
        """Write all files that grow with the run."""
        self.folder.write_trajectory(self.state.rows)
        self.folder.write_events(self.state.events)
        self.folder.write_health(self.state.health_events)
        super().write_record()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in plain types and tensors."""
        # An edge as a plain tuple: checkpoints are read without knowing our classes.
        health = [
            {**dataclasses.asdict(event), "edge": event.edge and tuple(event.edge)}
            for event in self.state.health_events
        ]
        return {**super().state_dict(), "health_events": health}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        pruning = state["pruning"]
        self.state = RunState(
            **self.common_state(state),
            pruning=None if pruning is None else PruningState(**pruning),
            rows=[TrajectoryRow(**row) for row in state["rows"]],
            events=[PruningEvent(**event) for event in state["events"]],
            health=HealthState(**state["health"]),
            health_events=[
                HealthEvent(**{**event, "edge": event["edge"] and Edge(*event["edge"])})
                for event in state["health_events"]
            ],
            first_finetune_epoch=state["first_finetune_epoch"],
            ticket_hash=state["ticket_hash"],
        )
        self._recall_backbone()

    def _structure(self) -> tuple[Phase, int]:
        pruning = self.state.pruning
        return self.phase, 0 if pruning is None else int(pruning.active.sum())

    def _end_warmup_epoch(self, observation: Observation, seconds: float) -> None:
        self._append_row(observation, idle(observation, self.settings), seconds)
        if observation.epoch == self.settings.warmup_epochs:
            self.state.pruning = begin(observation, self.settings)
            self.state.phase = Phase.SEARCH

    def _end_search_epoch(
        self, network: IACUNet, observation: Observation, seconds: float, loss: float
    ) -> None:
        assert self.state.pruning is not None
        decision = idle(observation, self.settings)
        if self.method.prunes:
            self.state.pruning, decision = close_epoch(
                self.state.pruning, observation, self.settings
            )
            if any(event.rule == "forced" for event in decision.events):
                self.log(f"The search reached its limit of {observation.epoch} epochs undecided")
            self.state.events += decision.events
            network.prune(self.state.pruning.active)
            self._log_events(decision.events)
        self._append_row(observation, decision, seconds)
        self._examine(observation, decision, loss)
        if self.state.pruning.finished or observation.epoch >= self.settings.search_epochs:
            self._finish_search(network, observation)

    def _examine(self, observation: Observation, decision: Decision, loss: float) -> None:
        """Look after the health of the search, with the operations the epoch was trained with."""
        self.state.health, noticed = examine(
            self.state.health, observation, decision.active, loss, self.settings
        )
        for event in noticed:
            self.notice(event)

    def _finish_search(self, network: IACUNet, observation: Observation) -> None:
        genotype = self._found(observation)
        network.discretise(genotype)
        if self.method.ticket:
            ticket = self._ticket(network)
        else:
            # Another stream of the same seed: fresh, yet repeatable.
            fresh = np.random.SeedSequence([self.settings.seed, 1]).generate_state(1)
            ticket = draw_ticket(network, int(fresh[0]))
        load_ticket(network, ticket)
        self.state.phase = Phase.FINETUNE
        self.state.first_finetune_epoch = observation.epoch
        self._announce(genotype)

    def _found(self, observation: Observation) -> Genotype:
        """Return the cell that the search found, within the budget if there is one."""
        assert self.state.pruning is not None
        alpha, beta, active = observation.alpha, observation.beta, self.state.pruning.active
        wanted = discretise(alpha, beta, active, self.settings)
        if self.costs is None:
            return wanted
        outcome = within_budget(wanted, alpha, beta, active, self.settings, self.costs)
        self.folder.write_budget(self.costs, outcome)
        self.log(str(outcome))
        return outcome.genotype

    def _ticket(self, network: RetrofittedUNet) -> dict[str, Tensor]:
        """Return the ticket of the record; one that is damaged or gone is drawn again.

        Raises:
            RuntimeError: what is drawn now is not what the search started from.
        """
        try:
            ticket = self.folder.read_ticket()
            if tensors_hash(ticket) == self.state.ticket_hash:
                return ticket
            reason = "its tensors have changed"
        except (ValueError, FileNotFoundError) as error:
            reason = str(error)
        self.log(f"WARNING: {self.folder.ticket_file.name} is drawn again: {reason}")
        ticket = draw_ticket(network, self.settings.seed)
        if tensors_hash(ticket) != self.state.ticket_hash:
            raise RuntimeError(
                f"{self.folder.ticket_file} must hold the tensors the search started from; "
                f"{reason}, and this torch draws others from the same seed: restore the file"
            )
        self.folder.write_ticket(ticket)
        return ticket

    def _announce(self, genotype: Genotype) -> None:
        self.folder.write_genotype(genotype)
        for path in self.folder.cell_files:
            draw_cell(genotype, path, self.settings.output_nodes)
        self.log(f"Genotype:\n{genotype}")
        share = parameter_free_share(genotype)
        if share > COLLAPSE_SHARE:
            self.log(
                f"WARNING: {share:.0%} of the cell's operations have no parameters; "
                "the search may have collapsed"
            )

    def _log_events(self, events: Sequence[PruningEvent]) -> None:
        if events:
            pruned = (f"{e.source}->{e.target} {e.operation}" for e in events)
            self.log(f"Pruned {', '.join(pruned)}")

    def _append_row(self, observation: Observation, decision: Decision, seconds: float) -> None:
        row = TrajectoryRow(
            epoch=observation.epoch,
            alpha=observation.alpha.numpy(),
            beta=observation.beta.numpy(),
            importance=decision.importance.numpy(),
            divergence=decision.divergence.numpy(),
            threshold=decision.threshold.numpy(),
            active=decision.active.numpy(),
            seconds=seconds,
        )
        self.state.rows.append(row)

    def _recall_backbone(self) -> None:
        """Take over what later stages of this run have already proven and scored."""
        record = self.state.backbone
        if record is None or not self.folder.backbone_file.is_file():
            return
        try:
            known = self.folder.read_backbone()
        except ValueError:
            return
        if known.before == record.before:
            after, reference = record.after or known.after, record.reference or known.reference
            self.state.backbone = replace(record, after=after, reference=reference)
