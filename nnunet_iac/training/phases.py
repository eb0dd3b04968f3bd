"""The phases of a run: what happens to the cells between two epochs, and the record of it."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any

import numpy as np

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
from nnunet_iac.search.importance import importance
from nnunet_iac.search.pruning import (
    Decision,
    Observation,
    PruningEvent,
    PruningState,
    advance,
    begin,
    force,
    full_mask,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, PARAMETER_FREE
from nnunet_iac.training.cost import peak_memory_bytes, provenance
from nnunet_iac.training.methods import Method

COLLAPSE_SHARE = 0.5
"""Share of parameter-free operations above which a genotype is reported as collapsed."""


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
    first_finetune_epoch: int | None = None
    backbone: BackboneRecord | None = None
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
        """Begin a new record and give the cells their initial weights.

        Record and checkpoints of an earlier run are moved aside, so that neither is overwritten
        and `--c` cannot continue from them.
        """
        self._set_aside()
        self.state.backbone = backbone
        self.state.cost = replace(provenance(), run={"method": self.method.name, **run})
        self.folder.write_settings(self.settings)
        ticket = draw_ticket(network, self.settings.seed)
        self.folder.write_ticket(ticket)
        if genotype is not None:
            network.discretise(genotype)
            self._announce(genotype)
        load_ticket(network, ticket)
        if self.phase is Phase.SEARCH:
            self.state.pruning = begin(Observation(0, network.alpha, network.beta), self.settings)
        self.write_record()

    def end_epoch(self, network: IACUNet, completed: int, seconds: float) -> bool:
        """Close an epoch; return whether cells or phase changed, so optimisers must be rebuilt.

        Args:
            network: its cells are pruned or replaced in place.
            completed: epochs completed, this one included.
            seconds: what this epoch took.
        """
        before = self._structure()
        self._account(seconds)
        if self.phase is not Phase.FINETUNE:
            observation = Observation(completed, network.alpha, network.beta)
            if self.phase is Phase.WARMUP:
                self._end_warmup_epoch(observation, seconds)
            else:
                self._end_search_epoch(network, observation, seconds)
        self.write_record()
        return self._structure() != before

    def end_run(self, backbone_hash: str) -> None:
        """Record the backbone's hash after the run.

        Raises:
            RuntimeError: the backbone has changed.
        """
        assert self.state.backbone is not None
        self.state.backbone = replace(self.state.backbone, after=backbone_hash)
        self.write_record()
        if not self.state.backbone.unchanged:
            raise RuntimeError(
                "the frozen backbone must be bit-identical after the run; its hash was "
                f"{self.state.backbone.before} and is {backbone_hash}"
            )

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
        self.folder.write_backbone(self.state.backbone)
        memory = max(self.state.cost.peak_memory_bytes, peak_memory_bytes())
        self.state.cost = replace(self.state.cost, peak_memory_bytes=memory)
        self.folder.write_cost(self.state.cost)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in plain types and tensors."""
        return {**dataclasses.asdict(self.state), "phase": self.phase.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        pruning, backbone = state["pruning"], state["backbone"]
        self.state = RunState(
            phase=Phase(state["phase"]),
            pruning=None if pruning is None else PruningState(**pruning),
            rows=[TrajectoryRow(**row) for row in state["rows"]],
            events=[PruningEvent(**event) for event in state["events"]],
            first_finetune_epoch=state["first_finetune_epoch"],
            backbone=None if backbone is None else BackboneRecord(**backbone),
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
        self._append_row(observation, self._idle_decision(observation), seconds)
        if observation.epoch == self.settings.warmup_epochs:
            self.state.pruning = begin(observation, self.settings)
            self.state.phase = Phase.SEARCH

    def _end_search_epoch(self, network: IACUNet, observation: Observation, seconds: float) -> None:
        assert self.state.pruning is not None
        decision = self._idle_decision(observation)
        at_limit = observation.epoch >= self.settings.search_epochs
        if self.method.prunes:
            pruning, decision = advance(self.state.pruning, observation, self.settings)
            events = decision.events
            if at_limit and not pruning.finished:
                self.log(f"The search reached its limit of {observation.epoch} epochs undecided")
                pruning, forced = force(pruning, observation, self.settings)
                events += forced
            self.state.pruning = pruning
            self.state.events += events
            network.prune(pruning.active)
            self._log_events(events, pruning)
        self._append_row(observation, decision, seconds)
        if at_limit or self.state.pruning.finished:
            self._finish_search(network, observation)

    def _finish_search(self, network: IACUNet, observation: Observation) -> None:
        assert self.state.pruning is not None
        alpha, beta, active = observation.alpha, observation.beta, self.state.pruning.active
        genotype = discretise(alpha, beta, active, self.settings)
        network.discretise(genotype)
        if self.method.ticket:
            ticket = self.folder.read_ticket()
        else:
            # Another stream of the same seed: fresh, yet repeatable.
            fresh = np.random.SeedSequence([self.settings.seed, 1]).generate_state(1)
            ticket = draw_ticket(network, int(fresh[0]))
        load_ticket(network, ticket)
        self.state.phase = Phase.FINETUNE
        self.state.first_finetune_epoch = observation.epoch
        self._announce(genotype)

    def _announce(self, genotype: Genotype) -> None:
        self.folder.write_genotype(genotype)
        for path in (self.folder.cell_svg_file, self.folder.cell_png_file):
            draw_cell(genotype, path, self.settings.output_nodes)
        self.log(f"Genotype:\n{genotype}")
        names = [choice.operation for choice in genotype.choices]
        share = sum(name in PARAMETER_FREE for name in names) / len(names)
        if share > COLLAPSE_SHARE:
            self.log(
                f"WARNING: {share:.0%} of the cell's operations have no parameters; "
                "the search may have collapsed"
            )

    def _log_events(self, events: Sequence[PruningEvent], pruning: PruningState) -> None:
        pruned = ", ".join(f"{e.source}->{e.target} {e.operation}" for e in events) or "nothing"
        self.log(f"Pruned {pruned}; {int(pruning.active.sum())} operations left")

    def _idle_decision(self, observation: Observation) -> Decision:
        nothing = observation.beta.new_full((len(EDGES),), float("nan"))
        active = full_mask()
        theta = importance(observation.alpha, observation.beta, active, self.settings)
        return Decision(theta, nothing, nothing, active)

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
        known = self.folder.read_backbone()
        if known.before == record.before:
            after, reference = record.after or known.after, record.reference or known.reference
            self.state.backbone = replace(record, after=after, reference=reference)

    def _set_aside(self) -> None:
        fold = self.folder.path.parent
        earlier = [self.folder.path] if self.folder.path.exists() else []
        earlier += sorted(fold.glob("checkpoint_*.pth"))
        if earlier:
            aside = fold / f"before_{datetime.now():%Y%m%d_%H%M%S_%f}"
            aside.mkdir()
            for path in earlier:
                shutil.move(path, aside)
            self.log(f"Record and checkpoints of an earlier run are kept in {aside}")
