"""Begin, resume and end of a run: what happens to backbone, cells and record then."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from nnunet_iac.runs.atomic import remove_leftovers
from nnunet_iac.runs.fold import LOCK, archive_previous_run, full_disk_named, held
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.training.backbone import Backbone
from nnunet_iac.training.batches import search_halves
from nnunet_iac.training.checkpoints import require_nothing_lost, require_own_record, run_identity
from nnunet_iac.training.continuation import ContinuationController
from nnunet_iac.training.controller import SearchController
from nnunet_iac.training.distributed import ranks
from nnunet_iac.training.preflight import PlannedNetwork, Preflight
from nnunet_iac.training.recorder import Recorder
from nnunet_iac.training.retention import retained_source
from nnunet_iac.training.source_cases import SourceCases
from nnunet_iac.training.trained_backbone import original_weights
from nnunet_iac.training.transfer import GivenCell, given_cell

INTERRUPTED = 130
"""The exit status of a process that the user ended with Ctrl-C."""
Split = tuple[list[str], list[str]]
"""Training and validation cases."""


class Lifecycle:
    """Begins, resumes and ends one run, whose controller and recorder it makes."""

    def __init__(
        self, checks: Preflight, trainer: str, rank: int, do_split: Callable[[], Split]
    ) -> None:
        settings, method = checks.settings, checks.method
        self.checks = checks
        self.trainer = trainer
        self.is_first_rank = rank == 0
        self._do_split = do_split
        self._lock = FileLock(checks.fold / LOCK)
        # The first rank keeps the record; the others write theirs into a temporary folder.
        self._spare = TemporaryDirectory() if rank else None
        folder = RunFolder.of_fold(self._spare.name if self._spare else checks.fold)
        self.recorder = Recorder(settings, folder, checks.log, method.retrofits)
        controller: Any = SearchController if method.retrofits else ContinuationController
        self.controller: Any = controller(settings, method, self.recorder)
        self.source: SourceCases | None = None
        """The source's training cases, where the run uses some so as to forget less."""

    @functools.cached_property
    def split(self) -> Split:
        """Training and validation cases, checked, which do not share a patient."""
        return self.checks.split(self.checks.preprocessed_cases(), self._do_split)

    @property
    def held_out(self) -> list[str]:
        """The validation cases; none of a fold that is validated on its training cases."""
        training, validation = self.split
        same = self.checks.number != "all" and training == validation
        return [] if same else list(validation)

    @property
    def cases(self) -> dict[str, list[str]]:
        """The cases of either side and, in a bilevel search, of either half."""
        (training, validation), settings = self.split, self.checks.settings
        cases = {"training": list(training), "validation": list(validation)}
        if not self.checks.method.bilevel:
            return cases
        pattern, seed = settings.data.patient_pattern, settings.optimisation.seed
        return cases | search_halves(training, pattern, seed)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of a run: a checkpoint or record of another must not be continued."""
        plans, name, number = self.checks.plans, self.checks.configuration, self.checks.number
        return run_identity(self.trainer, plans, name, number, self.split)

    def held(self) -> AbstractContextManager[None]:
        """Return a context in which no other process may work on this fold."""
        return held(self._lock) if self.is_first_rank else nullcontext()

    def begin(
        self,
        network: Any,
        planned: PlannedNetwork,
        continues: bool,
    ) -> Backbone:
        """Start from the backbone in an empty fold, with the record and the first weights.

        Everything that can be wrong is found before an earlier run is moved away. `continues` is
        whether the user wanted that.
        """
        checks, retrofits = self.checks, self.checks.method.retrofits
        self._remove_leftovers()
        if continues and self.is_first_rank:
            require_nothing_lost(checks.fold)
        checks.require_siblings()
        cases, stock = self.cases, planned.make()
        backbone = checks.backbone(stock, self.held_out)
        stock.load_state_dict(backbone.weights)
        self.controller.costs = checks.costs(network, planned)
        cell = self._given(planned) if retrofits else GivenCell()
        record = backbone.record(cell.leakage)
        self.source = retained_source(checks, record, cases["training"])
        if cell.counterpart is not None:
            network.match(cell.counterpart)
        network.load_state_dict(backbone.weights, strict=not retrofits)
        checks.fit_in_memory(network, planned, cell.genotype)
        checks.require_compiler(planned.device)
        if self.is_first_rank and (archive := archive_previous_run(checks.fold)) is not None:
            checks.log(f"Record and checkpoints of an earlier run are kept in {archive}")
        run = {**self.identity, "ranks": ranks()}
        if cell.provenance is not None:
            run["genotype_from"] = cell.provenance
        if self.source is not None:
            run["source"] = self.source.dataset
            run["source_cases"] = list(self.source.cases)
        self.controller.start(network, record, run, cell.genotype)
        self.recorder.add_network_cost("backbone", planned.cost(stock.to(planned.device)))
        if checks.method.searches:
            self.recorder.add_network_cost("supernet", planned.cost(network))
        self.recorder.folder.write_split(cases)
        return backbone

    def resume(self, network: Any, planned: PlannedNetwork) -> None:
        """Put the record beside the loaded checkpoint in order."""
        self._remove_leftovers()
        self.checks.require_siblings()
        self.checks.fit_in_memory(network, planned, getattr(network, "genotype", None))
        self.checks.require_compiler(planned.device)
        self.controller.costs = self.checks.costs(network, planned)
        require_own_record(self.recorder.folder, self.identity, self.checks.settings)
        self.controller.resume(network)
        record = self.recorder.backbone
        assert record is not None
        self.source = retained_source(self.checks, record, self.split[0])
        self._require_same_source()
        self.recorder.folder.write_split(self.cases)

    def _require_same_source(self) -> None:
        """Check that the source's cases are those that the run began with."""
        known = self.recorder.cost.run.get("source_cases", [])
        if known != (found := [] if self.source is None else list(self.source.cases)):
            differ = ", ".join(sorted({*known} ^ {*found}))
            raise ValueError(
                "a run must continue with the training cases of its source that it began with; "
                f"these differ: {differ}: restore that data set and its splits, or start anew "
                "without --c"
            )

    def backbone_weights(self, network: Any) -> dict[str, Tensor]:
        """Return the weights that a retrofit began with."""
        record = self.recorder.backbone
        assert record is not None
        return network.backbone_state() if record.trained is None else original_weights(record)

    def _remove_leftovers(self) -> None:
        if self.is_first_rank:
            remove_leftovers(self.checks.fold)

    def _given(self, planned: PlannedNetwork) -> GivenCell:
        fold, dimensions = self.checks.target(self.held_out), len(planned.batch) - 2
        settings, costs = self.checks.settings, self.controller.costs
        parts, log = (settings.cell, settings.data), self.checks.log
        return given_cell(*parts, fold, dimensions, costs, log)


@contextmanager
def resumable(trainer: Any, option: str) -> Iterator[None]:
    """Hold the trainer's fold; log how to resume if the user or a full disk ends the work.

    `option` of nnUNetv2_train resumes: --c the training, --val the validation.
    """
    cure = f"run the same command again with {option}"
    try:
        with trainer.run.held(), full_disk_named(trainer.run.checks.fold, cure):
            yield
    except KeyboardInterrupt:
        done = f"with {trainer.current_epoch} of at most {trainer.num_epochs} epochs done"
        where = done if option == "--c" else "in the final validation"
        trainer.print_to_log_file(f"Interrupted {where}: {cure}")
        raise SystemExit(INTERRUPTED) from None


def run_epochs(trainer: Any) -> None:
    """Call the hooks of nnU-Net's trainer for every epoch, as many as turn out to be needed."""
    while trainer.current_epoch < trainer.num_epochs:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        train, val = trainer.dataloader_train, trainer.dataloader_val
        steps = range(trainer.num_iterations_per_epoch)
        trainer.on_train_epoch_end([trainer.train_step(next(train)) for _ in steps])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            steps = range(trainer.num_val_iterations_per_epoch)
            trainer.on_validation_epoch_end([trainer.validation_step(next(val)) for _ in steps])
        trainer.on_epoch_end()
