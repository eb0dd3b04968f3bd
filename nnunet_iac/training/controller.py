"""The phases of a retrofit: what changes between two epochs, and which optimisers each has."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.discretisation import discretise, within_budget
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import (
    COLLAPSE_SHARE,
    NON_FINITE,
    HealthEvent,
    HealthState,
    examine,
    parameter_free_share,
)
from nnunet_iac.search.pruning import Observation, PruningState, begin, close_epoch, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, Edge
from nnunet_iac.training import optimisation
from nnunet_iac.training.batches import ARCHITECTURE
from nnunet_iac.training.compilation import compile_cells, compiles_cells
from nnunet_iac.training.distributed import (
    broadcast_from_rank0,
    freeze_unused_heads,
    freeze_unused_nodes,
    rank,
    require_same_on_all_ranks,
)
from nnunet_iac.training.finetuning import FinetuneLength
from nnunet_iac.training.method import Method, method_name
from nnunet_iac.training.progress import Progress, search_ends, search_progress
from nnunet_iac.training.recorder import Recorder, search_scalars
from nnunet_iac.training.trained_backbone import (
    record_encoder,
    require_encoder_unchanged,
    require_unchanged,
    with_trained_part,
)
from nnunet_iac.training.weight_average import WeightAverage

MAX_SKIPPED_STEPS = 50
"""In a row; the scaler halves its scale each time, so a longer series is no overflow."""


class Phase(StrEnum):
    """The phase an epoch belongs to."""

    WARMUP = "warmup"
    SEARCH = "search"
    FINETUNE = "finetune"
    CONTINUED = "continued"
    """The phase of the control, which continues training the backbone."""


def not_finite(what: str, epoch: int, edge: Edge | None = None) -> RuntimeError:
    """Return the error of a number that is not finite; `edge` is where, if it has a place."""
    where = "" if edge is None else f" on edge {edge}"
    return RuntimeError(
        f"{what}{where} in epoch {epoch}. The last checkpoint is kept: look for broken images and "
        "continue with --c, or start anew under new plans with lower learning rates"
    )


@dataclass(frozen=True)
class Change:
    """Changes made at the end of an epoch."""

    structure: bool = False
    search_ended: bool = False


class SearchController:
    """Takes a retrofit from warm-up to finetuning.

    Changes the structure of the network between epochs only, and has the record written after each.
    """

    def __init__(self, settings: Settings, method: Method, recorder: Recorder) -> None:
        self.settings = settings
        self.method = method
        self.recorder = recorder
        self.phase = Phase.WARMUP if settings.schedule.warmup_epochs else Phase.SEARCH
        self.first_finetune_epoch: int | None = None
        if not method.searches:
            self.phase, self.first_finetune_epoch = Phase.FINETUNE, 0
        self.pruning: PruningState | None = None
        self.health = HealthState()
        self.finetuning = FinetuneLength(settings.schedule)
        self.average = WeightAverage(settings.optimisation.ema_decay)
        self.ticket_hash = ""
        self.costs: CellCosts | None = None
        """Costs of cells, where the settings limit them."""
        self.architecture_optimizer: Optimizer | None = None
        self.skipped_steps = 0

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, or the most where search or finetuning may end before."""
        searched = self.first_finetune_epoch
        before = self.settings.schedule.search_epochs if searched is None else searched
        return before + self.finetuning.epochs

    def start(
        self, network: Any, backbone: BackboneRecord, run: dict, genotype: Genotype | None = None
    ) -> None:
        """Begin a new record and give the cells their initial weights."""
        retention = self.method.retention(self.settings.optimisation)
        name = method_name(self.method, self.settings.cell, retention)
        part = self.settings.cell.trained_backbone
        backbone = with_trained_part(backbone, part, network.encoder)
        self.recorder.begin(backbone, {"method": name, **run})
        ticket = draw_ticket(network, self.settings.optimisation.seed)
        self.ticket_hash = tensors_hash(ticket)
        self.recorder.folder.write_ticket(ticket)
        if genotype is not None:
            network.discretise(genotype)
            self._announce(genotype)
        load_ticket(network, ticket)
        if self.phase is Phase.SEARCH:
            self._begin_search(Observation(0, network.alpha, network.beta))

    def resume(self, network: Any) -> None:
        """Write the record as of the loaded checkpoint, ticket and found cell included."""
        self.recorder.restore()
        self._ticket(network)
        if network.genotype is not None:
            self.recorder.warn_of_damage("genotype")
            self._announce(network.genotype)
            if self.method.searches and self.costs is not None:
                self._found(Observation(0, network.alpha, network.beta))
        else:  # It may have been found in an epoch whose checkpoint was not written.
            self.recorder.remove_cell()

    def end_run(self, network: RetrofittedUNet, cost: Cost) -> None:
        """Record the final network's cost, and check that what was frozen has not changed."""
        unused = sum(parameter.numel() for parameter in network.architecture_parameters())
        final = replace(cost, parameters=cost.parameters - unused)
        self.recorder.add_network_cost("final", final)
        self.recorder.add_backbone_facts(after=tensors_hash(network.backbone_state()))
        record_encoder(self.recorder, network)
        self.recorder.write()
        self._require_frozen(network)

    def _require_frozen(self, network: RetrofittedUNet) -> None:
        record = self.recorder.backbone
        assert record is not None
        if network.backbone_learns:
            require_encoder_unchanged(record, network.encoder)
        else:
            why = "the cells were trained for another network, so "
            now = tensors_hash(network.backbone_state())
            require_unchanged("backbone", record.before, now, why)

    def optimisers(self, network: Any) -> tuple[Optimizer, optimisation.EpochSchedule]:
        """Return optimiser and schedule of the phase's weights; make that of alpha and beta.

        alpha and beta learn in the search only, norms and backbone in the finetuning only. Adam's
        averages for alpha and beta are kept. Discrete cells are compiled on request.
        """
        searching = self.phase is Phase.SEARCH
        network.zero_grad()  # nnU-Net clips by all gradients, also of what has stopped learning.
        for parameter in network.architecture_parameters():
            parameter.requires_grad_(searching)
        for parameter in network.norm_weights():
            parameter.requires_grad_(self.phase is Phase.FINETUNE)
        network.unfreeze(self.phase is Phase.FINETUNE)
        previous, self.architecture_optimizer = self.architecture_optimizer, None
        schedule, rates = self.settings.schedule, self.settings.optimisation
        if self.phase is Phase.FINETUNE:
            assert self.first_finetune_epoch is not None
            if not rates.deep_supervision:
                freeze_unused_heads(network)
            if network.genotype is not None:
                freeze_unused_nodes(network)
            backbone = (p for p in network.backbone_weights() if p.requires_grad)
            learning = [*network.weights(), *network.norm_weights(), *backbone]
            epochs = schedule.finetune_epochs, self.first_finetune_epoch
            self.average.track(network)
            if compiles_cells(rates, learning[0].device) and network.genotype is not None:
                compile_cells(network)
            return optimisation.finetune_optimiser(learning, rates, *epochs)
        if searching:
            self.architecture_optimizer = optimisation.architecture_optimiser(network, rates)
            if previous is not None:
                self.architecture_optimizer.load_state_dict(previous.state_dict())
        return optimisation.search_optimiser(network, rates, schedule.search_epochs)

    def set_modes(self, network: Any) -> None:
        """Leave the modes of the network as they are: a retrofit keeps its backbone's itself."""

    def search_step(
        self,
        network: Any,
        optimizer: Optimizer,
        loss: Callable[[], Tensor],
        epoch: int,
        update: str | None,
        grad_scaler: torch.amp.GradScaler | None,
    ) -> Tensor:
        """Step the weights together with alpha and beta, or one of them; return the batch's loss.

        `loss` runs the network on the batch, `epoch` is nnU-Net's number, from 0, and `update` is
        what the batch of a bilevel search is for, weights or architecture.
        """
        assert self.architecture_optimizer is not None
        optimizers = [optimizer, self.architecture_optimizer]
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        if self.method.bilevel:
            optimizers = optimizers[1:] if update == ARCHITECTURE else optimizers[:1]
        value = loss()
        clipped = network.weights() if optimizer in optimizers else []
        stepped = optimisation.step(value, optimizers, clipped, grad_scaler)
        self.skipped_steps = 0 if stepped else self.skipped_steps + 1
        allowed = 0 if grad_scaler is None else MAX_SKIPPED_STEPS
        if self.skipped_steps > allowed and torch.isfinite(value):
            where = _non_finite_edge(network)
            raise self.not_finite("gradients must be finite; one is not", epoch, where)
        return value.detach()

    def not_finite(self, what: str, epoch: int, edge: Edge | None = None) -> RuntimeError:
        """Return the error of a number that is not finite, after recording it."""
        self.recorder.add_health_event(HealthEvent(epoch + 1, NON_FINITE, edge, what))
        return not_finite(what, epoch, edge)

    def end_epoch(self, network: Any, completed: int, seconds: float, loss: float) -> Change:
        """Prune, discretise or leave the cells as they are; return what has changed."""
        require_same_on_all_ranks(*network.architecture_parameters())
        before = self.phase, self._operations()
        self.recorder.account(self.phase.value, seconds)
        if self.phase is Phase.WARMUP:
            self._end_warmup_epoch(Observation(completed, network.alpha, network.beta), seconds)
        elif self.phase is Phase.SEARCH:
            observation = Observation(completed, network.alpha, network.beta)
            self._end_search_epoch(network, observation, seconds, loss)
        else:
            self.finetuning.end_epoch(loss, self.recorder.log)
        self.recorder.write()
        return Change(
            structure=(self.phase, self._operations()) != before,
            search_ended=self.phase is Phase.FINETUNE and before[0] is not Phase.FINETUNE,
        )

    def scalars(self, phase: Phase) -> dict[str, float]:
        """Return the numbers of the last epoch, of that phase, by name; the finetuning has none."""
        if phase is Phase.FINETUNE:
            return {}
        return search_scalars(self.recorder.rows[-1], self.pruning, self.settings.cell)

    def progress(self, phase: Phase, epochs: int) -> Progress:
        """Return how far the run is after so many epochs, the last of them of a phase."""
        if phase is Phase.FINETUNE:
            return Progress(phase.value, epochs, (self.num_epochs, self.num_epochs))
        ends = search_ends(self.pruning, epochs, self.settings, self.method.prunes)
        further = self.settings.schedule.finetune_epochs
        first, last = (end + further for end in ends)
        search = search_progress(self.pruning, ends)
        return Progress(phase.value, epochs, (first, last), search)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of a run, in plain types and tensors."""
        optimizer = self.architecture_optimizer
        return {
            "phases": {
                **self.recorder.state_dict(),
                "phase": self.phase.value,
                "pruning": None if self.pruning is None else dataclasses.asdict(self.pruning),
                "health": dataclasses.asdict(self.health),
                "first_finetune_epoch": self.first_finetune_epoch,
                "finetuning": self.finetuning.state_dict(),
                "ticket_hash": self.ticket_hash,
            },
            "architecture_optimizer": None if optimizer is None else optimizer.state_dict(),
            **self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], network: Any) -> None:
        """Restore what `state_dict` returned; the network has the checkpoint's weights already."""
        phases = state["phases"]
        self.phase = Phase(phases["phase"])
        self.first_finetune_epoch = phases["first_finetune_epoch"]
        self.finetuning.load_state_dict(phases.get("finetuning", {}))
        self.ticket_hash = phases["ticket_hash"]
        pruning = phases["pruning"]
        if pruning is not None and "history" in pruning:  # Of a checkpoint of an earlier release.
            pruning["previous"] = pruning.pop("history")[-1]
        self.pruning = None if pruning is None else PruningState(**pruning)
        self.health = HealthState(**phases["health"])
        self.recorder.load_state_dict(phases)
        self.architecture_optimizer = None
        self.optimisers(network)
        self.average.load_state_dict(state)
        self._require_frozen(network)
        if self.architecture_optimizer is not None:
            optimisation.load_optimiser(
                self.architecture_optimizer, state["architecture_optimizer"]
            )

    def _operations(self) -> int:
        return 0 if self.pruning is None else int(self.pruning.active.sum())

    def _begin_search(self, observation: Observation) -> None:
        self.pruning = begin(observation, self.settings.stability, self.settings.cell)
        self.phase = Phase.SEARCH

    def _end_warmup_epoch(self, observation: Observation, seconds: float) -> None:
        self.recorder.add_row(observation, idle(observation, self.settings.cell), seconds)
        if observation.epoch == self.settings.schedule.warmup_epochs:
            self._begin_search(observation)

    def _end_search_epoch(
        self, network: IACUNet, observation: Observation, seconds: float, loss: float
    ) -> None:
        assert self.pruning is not None
        schedule, cell = self.settings.schedule, self.settings.cell
        limit, decision = schedule.search_epochs, idle(observation, cell)
        if self.method.prunes:
            self.pruning, decision = close_epoch(
                self.pruning, observation, self.settings.stability, cell, limit
            )
            if any(event.rule == "forced" for event in decision.events):
                self.recorder.log(
                    f"The search reached its limit of {observation.epoch} epochs undecided"
                )
            network.prune(self.pruning.active)
            self.recorder.add_events(decision.events)
        self.recorder.add_row(observation, decision, seconds)
        self.health, noticed = examine(
            self.health, observation, decision.active, loss, schedule.warmup_epochs, cell
        )
        for event in noticed:
            self.recorder.add_health_event(event)
        if self.pruning.finished or observation.epoch >= limit:
            self._finish_search(network, observation)

    def _finish_search(self, network: IACUNet, observation: Observation) -> None:
        genotype = self._found(observation)
        network.discretise(genotype)
        # Another stream of the same seed: fresh, yet repeatable.
        fresh = np.random.SeedSequence([self.settings.optimisation.seed, 1]).generate_state(1)
        own = self.method.prunes
        load_ticket(network, self._ticket(network) if own else draw_ticket(network, int(fresh[0])))
        self.phase = Phase.FINETUNE
        self.first_finetune_epoch = observation.epoch
        self._announce(genotype)
        self.recorder.log(
            f"Search finished after {observation.epoch} epochs; finetuning the cell for "
            f"{self.settings.schedule.finetune_epochs}"
        )

    def _found(self, observation: Observation) -> Genotype:
        """Return the cell that the search found, within the budget if there is one."""
        assert self.pruning is not None
        alpha, beta, active = observation.alpha, observation.beta, self.pruning.active
        wanted = discretise(alpha, beta, active, self.settings.cell)
        if self.costs is None:
            return wanted
        outcome = within_budget(wanted, alpha, beta, active, self.settings.cell, self.costs)
        self.recorder.folder.write_budget(self.costs, outcome)
        self.recorder.log(str(outcome))
        return outcome.genotype

    def _ticket(self, network: RetrofittedUNet) -> dict[str, Tensor]:
        """Return the ticket of the record, which the first rank has."""
        own = self._recorded_ticket(network) if rank() == 0 else None
        found: dict[str, Tensor] = broadcast_from_rank0(own)
        return found

    def _recorded_ticket(self, network: RetrofittedUNet) -> dict[str, Tensor]:
        """Return the ticket of the record; one that is damaged or gone is drawn again."""
        folder = self.recorder.folder
        try:
            ticket = folder.read_ticket()
            if tensors_hash(ticket) == self.ticket_hash:
                return ticket
            reason = "its tensors have changed"
        except (ValueError, FileNotFoundError) as error:
            reason = str(error)
        self.recorder.log(f"WARNING: {folder.ticket_file.name} is drawn again: {reason}")
        ticket = draw_ticket(network, self.settings.optimisation.seed)
        if tensors_hash(ticket) != self.ticket_hash:
            raise RuntimeError(
                f"{folder.ticket_file} must hold the tensors the search started from; "
                f"{reason}, and this torch draws others from the same seed: restore the file"
            )
        folder.write_ticket(ticket)
        return ticket

    def _announce(self, genotype: Genotype) -> None:
        self.recorder.write_cell(genotype)
        share = parameter_free_share(genotype)
        if self.method.searches and share > COLLAPSE_SHARE:
            self.recorder.log(
                f"WARNING: {share:.0%} of the cell's operations have no parameters; "
                "the search may have collapsed"
            )


def _non_finite_edge(network: IACUNet) -> Edge | None:
    """Return the first edge where the gradient of alpha or beta is not finite."""
    for gradient in (network.alpha.grad, network.beta.grad):
        if gradient is not None and len(wrong := (~torch.isfinite(gradient)).nonzero()):
            return EDGES[int(wrong[0][0])]
    return None
