"""What every run leaves, whichever its phases: settings, the backbone, and the cost so far."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, CostRecord, NetworkCost, PhaseCost
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.cost import peak_memory_bytes, provenance


class Phase(str, Enum):
    """The phase an epoch belongs to."""

    WARMUP = "warmup"
    SEARCH = "search"
    FINETUNE = "finetune"
    CONTINUED = "continued"
    """Of the control, which trains the backbone on."""


@dataclass
class RecordState:
    """All that a record must remember between epochs."""

    phase: Phase
    backbone: BackboneRecord | None = None
    cost: CostRecord = field(default_factory=CostRecord)


class RunRecord:
    """Writes `fold_X/iac` while a run goes on.

    Args:
        settings: of the run.
        folder: where the record goes.
        log: receives lines for nnU-Net's log.
        state: at first, only its phase.
    """

    state: RecordState

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        log: Callable[[str], None],
        state: RecordState,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.log = log
        self.state = state

    @property
    def phase(self) -> Phase:
        """The phase of the epoch under way, or of the next one between epochs."""
        return self.state.phase

    def begin_record(self, backbone: BackboneRecord, run: dict[str, Any]) -> None:
        """Begin a new record; `run` says which run this is."""
        self.state.backbone = backbone
        self.state.cost = replace(provenance(), run=run)
        self.folder.write_settings(self.settings)
        self.write_record()

    def continue_record(self) -> None:
        """Write the record as it was when the checkpoint was, and say what was missing in it."""
        for path, read in self.readers().items():
            self.warn_of_damage(path, read)
        self.folder.write_settings(self.settings)
        self._note_other_circumstances()
        self.write_record()

    def readers(self) -> dict[Path, Callable[[], object]]:
        """Return the files that a checkpoint can write again, and what reads them."""
        return {
            self.folder.settings_file: self.folder.read_settings,
            self.folder.backbone_file: self.folder.read_backbone,
            self.folder.cost_file: self.folder.read_cost,
        }

    def warn_of_damage(self, path: Path, read: Callable[[], object]) -> None:
        """Log if a file of the record cannot be read and so is written again."""
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            self.log(f"WARNING: {path.name} is written again from the checkpoint: {error}")

    def account(self, seconds: float, phase: Phase | None = None, epochs: int = 1) -> None:
        """Add an epoch to what a phase has cost, the one under way unless another is named."""
        name = (phase or self.phase).value
        phases = dict(self.state.cost.phases)
        spent = phases.get(name, PhaseCost())
        phases[name] = PhaseCost(spent.epochs + epochs, spent.seconds + seconds)
        self.state.cost = replace(self.state.cost, phases=phases)

    def add_network_cost(self, name: str, cost: NetworkCost) -> None:
        """Record the size and work of the backbone, the supernet or the final network."""
        networks = {**self.state.cost.networks, name: cost}
        self.state.cost = replace(self.state.cost, networks=networks)
        self.folder.write_cost(self.state.cost)

    def write_record(self) -> None:
        """Write all files that grow with the run."""
        assert self.state.backbone is not None
        self.folder.write_backbone(self.state.backbone)
        memory = max(self.state.cost.peak_memory_bytes, peak_memory_bytes())
        self.state.cost = replace(self.state.cost, peak_memory_bytes=memory)
        self.folder.write_cost(self.state.cost)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in plain types and tensors."""
        return {**dataclasses.asdict(self.state), "phase": self.phase.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.state = RecordState(**self.common_state(state))

    @staticmethod
    def common_state(state: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of `RecordState` out of what `state_dict` returned."""
        backbone = state["backbone"]
        return {
            "phase": Phase(state["phase"]),
            "backbone": None if backbone is None else BackboneRecord(**backbone),
            "cost": CostRecord.from_mapping(state["cost"]),
        }

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
