"""The phases of a run: what happens to the cells between two epochs, and the record of it."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_iac.nn.iac_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.runs.cell_picture import draw_cell
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import (
    BackboneRecord,
    CostRecord,
    NetworkCost,
    PhaseCost,
    TrajectoryRow,
)
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
    idle,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import Edge
from nnunet_iac.training.backbone import tensors_hash
from nnunet_iac.training.cost import peak_memory_bytes, provenance
from nnunet_iac.training.methods import Method


class Phase(str, Enum):
    """The phase an epoch belongs to."""

    WARMUP = "warmup"
    SEARCH = "search"
    FINETUNE = "finetune"


@dataclass
class RunState:
    """All that a run must remember besides its network and optimisers."""

    phase: Phase
    pruning: PruningState | None = None
    rows: list[TrajectoryRow] = field(default_factory=list)
    events: list[PruningEvent] = field(default_factory=list)
    health: HealthState = field(default_factory=HealthState)
    health_events: list[HealthEvent] = field(default_factory=list)
    first_finetune_epoch: int | None = None
    backbone: BackboneRecord | None = None
    ticket_hash: str = ""
    cost: CostRecord = field(default_factory=CostRecord)


class Phases:
    """One run's way from warm-up to finetuning.

    Changes the structure of the network between epochs only, and writes `fold_X/iac` after each.

    Args:
        settings: of the run.
        method: which search.
        folder: where the record goes.
        log: receives lines for nnU-Net's log.
    """

    def __init__(
        self, settings: Settings, method: Method, folder: RunFolder, log: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.method = method
        self.folder = folder
        self.log = log
        first = Phase.WARMUP if settings.warmup_epochs else Phase.SEARCH
        self.state = RunState(first if method.searches else Phase.FINETUNE)
        if not method.searches:
            self.state.first_finetune_epoch = 0

    @property
    def phase(self) -> Phase:
        """The phase of the epoch under way, or of the next one between epochs."""
        return self.state.phase

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run: exact once the search is over, its limit before."""
        searched = self.state.first_finetune_epoch
        before = self.settings.search_epochs if searched is None else searched
        return before + self.settings.finetune_epochs

    def start(
        self,
        network: IACUNet,
        backbone: BackboneRecord,
        run: dict[str, Any],
        genotype: Genotype | None,
    ) -> None:
        """Begin a new record and give the cells their initial weights."""
        self.state.backbone = backbone
        self.state.cost = replace(provenance(), run={"method": self.method.name, **run})
        self.folder.write_settings(self.settings)
        ticket = draw_ticket(network, self.settings.seed)
        self.state.ticket_hash = tensors_hash(ticket)
        self.folder.write_ticket(ticket)
        if genotype is not None:
            network.discretise(genotype)
            self._announce(genotype)
        load_ticket(network, ticket)
        if self.phase is Phase.SEARCH:
            self.state.pruning = begin(Observation(0, network.alpha, network.beta), self.settings)
        self.write_record()

    def end_epoch(self, network: IACUNet, completed: int, seconds: float, loss: float) -> bool:
        """Close an epoch; return whether cells or phase changed, so optimisers must be rebuilt.

        Args:
            network: its cells are pruned or replaced in place.
            completed: epochs completed, this one included.
            seconds: what this epoch took.
            loss: its mean training loss.
        """
        before = self._structure()
        self._account(seconds)
        if self.phase is not Phase.FINETUNE:
            observation = Observation(completed, network.alpha, network.beta)
            if self.phase is Phase.WARMUP:
                self._end_warmup_epoch(observation, seconds)
            else:
                self._end_search_epoch(network, observation, seconds, loss)
        self.write_record()
        return self._structure() != before

    def continue_record(self, network: IACUNet) -> None:
        """Write the record as it was when the checkpoint was, and say what was missing in it."""
        readers = {
            self.folder.settings_file: self.folder.read_settings,
            self.folder.trajectory_file: self.folder.read_trajectory,
            self.folder.events_file: self.folder.read_events,
            self.folder.health_file: self.folder.read_health,
            self.folder.backbone_file: self.folder.read_backbone,
            self.folder.cost_file: self.folder.read_cost,
            self.folder.genotype_file: self.folder.read_genotype,
        }
        for path, read in readers.items():
            if path == self.folder.genotype_file and network.genotype is None:
                continue
            try:
                read()
            except (ValueError, FileNotFoundError) as error:
                self.log(f"WARNING: {path.name} is written again from the checkpoint: {error}")
        self.folder.write_settings(self.settings)
        self._ticket(network)
        if network.genotype is not None:
            self._announce(network.genotype)
        else:  # It may have been found in an epoch whose checkpoint was not written.
            for path in (self.folder.genotype_file, *self.folder.cell_files):
                path.unlink(missing_ok=True)
        self._note_other_circumstances()
        self.write_record()

    def notice(self, event: HealthEvent) -> None:
        """Record and log something about the health of the run, before anything else happens."""
        self.state.health_events.append(event)
        self.folder.write_health(self.state.health_events)
        self.log(f"WARNING: {event}")

    def _note_other_circumstances(self) -> None:
        """Record where a run goes on with other versions, hardware or code: bits may differ."""
        cost, now = self.state.cost, provenance()
        before = cost.continued[-1] if cost.continued else dataclasses.asdict(cost)
        known = {"hardware": now.hardware, "versions": now.versions, "commit": now.commit}
        differing = [key for key, value in known.items() if before[key] != value]
        if differing:
            self.state.cost = replace(cost, continued=[*cost.continued, known])
            self.log(
                f"WARNING: {' and '.join(differing)} differ from those the run began with, so it "
                "may not end as an unbroken run; cost.json holds both"
            )

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

    def add_network_cost(self, name: str, cost: NetworkCost) -> None:
        """Record the size and work of the backbone, the supernet or the final network."""
        networks = {**self.state.cost.networks, name: cost}
        self.state.cost = replace(self.state.cost, networks=networks)
        self.folder.write_cost(self.state.cost)

    def set_reference(self, scores: dict[str, Any]) -> None:
        """Record what the frozen backbone scores by itself."""
        assert self.state.backbone is not None
        self.state.backbone = replace(self.state.backbone, reference=scores)
        self.folder.write_backbone(self.state.backbone)

    def write_record(self) -> None:
        """Write all files that grow with the run."""
        assert self.state.backbone is not None
        self.folder.write_trajectory(self.state.rows)
        self.folder.write_events(self.state.events)
        self.folder.write_health(self.state.health_events)
        self.folder.write_backbone(self.state.backbone)
        memory = max(self.state.cost.peak_memory_bytes, peak_memory_bytes())
        self.state.cost = replace(self.state.cost, peak_memory_bytes=memory)
        self.folder.write_cost(self.state.cost)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in plain types and tensors."""
        # An edge as a plain tuple: checkpoints are read without knowing our classes.
        health = [
            {**dataclasses.asdict(event), "edge": event.edge and tuple(event.edge)}
            for event in self.state.health_events
        ]
        state = dataclasses.asdict(self.state)
        return {**state, "phase": self.phase.value, "health_events": health}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        pruning, backbone = state["pruning"], state["backbone"]
        self.state = RunState(
            phase=Phase(state["phase"]),
            pruning=None if pruning is None else PruningState(**pruning),
            rows=[TrajectoryRow(**row) for row in state["rows"]],
            events=[PruningEvent(**event) for event in state["events"]],
            health=HealthState(**state["health"]),
            health_events=[
                HealthEvent(**{**event, "edge": event["edge"] and Edge(*event["edge"])})
                for event in state["health_events"]
            ],
            first_finetune_epoch=state["first_finetune_epoch"],
            backbone=None if backbone is None else BackboneRecord(**backbone),
            ticket_hash=state["ticket_hash"],
            cost=CostRecord.from_mapping(state["cost"]),
        )
        self._recall_backbone()

    def _structure(self) -> tuple[Phase, int]:
        pruning = self.state.pruning
        return self.phase, 0 if pruning is None else int(pruning.active.sum())

    def _account(self, seconds: float) -> None:
        phases = dict(self.state.cost.phases)
        spent = phases.get(self.phase.value, PhaseCost())
        phases[self.phase.value] = PhaseCost(spent.epochs + 1, spent.seconds + seconds)
        self.state.cost = replace(self.state.cost, phases=phases)

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
            self._log_events(decision.events, self.state.pruning)
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
        assert self.state.pruning is not None
        alpha, beta, active = observation.alpha, observation.beta, self.state.pruning.active
        genotype = discretise(alpha, beta, active, self.settings)
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

    def _ticket(self, network: IACUNet) -> dict[str, Tensor]:
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

    def _log_events(self, events: Sequence[PruningEvent], pruning: PruningState) -> None:
        pruned = ", ".join(f"{e.source}->{e.target} {e.operation}" for e in events) or "nothing"
        self.log(f"Pruned {pruned}; {int(pruning.active.sum())} operations left")

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
