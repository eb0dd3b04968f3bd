"""A run as the analysis sees it: its record, how far it came, and what it scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.scores import case_scores
from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.analysis.vocabulary import BASELINES, TRAINS_BACKBONE
from nnunet_iac.runs.fold import fold_folders, in_use
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.records import (
    RUN_KEYS,
    BackboneRecord,
    CostRecord,
    PhaseCost,
    SourceRecord,
    Trajectory,
)
from nnunet_iac.runs.scores import VALIDATION_SUMMARY
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import COLLAPSE_SHARE, HealthEvent, parameter_free_share
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings


@dataclass(frozen=True)
class Run:
    """One fold's record, complete or not.

    Args:
        method: how it came to its cells, or which control it is.
        trajectory: all epochs of the search so far; none where nothing is searched.
        validated: whether nnU-Net's final validation is there.
        scores: of that validation; none where that was of training cases.
        reference: of the backbone on the same cases, once there are some.
        source: of both on the backbone's own data set, where that is another and was at hand.
        busy: whether a process is at work on it; None where that cannot be known.
        judged: whether it is what the page is about, though its method is that of a control.
    """

    method: str
    trainer: str
    dataset: str
    plans: str
    configuration: str
    fold: str
    fold_folder: Path
    settings: Settings
    cost: CostRecord
    backbone: BackboneRecord
    trajectory: Trajectory
    events: tuple[PruningEvent, ...]
    health: tuple[HealthEvent, ...]
    genotype: Genotype | None
    validated: bool
    scores: CaseScores | None
    reference: CaseScores | None
    source: SourceRecord | None
    busy: bool | None
    judged: bool = False

    @property
    def record(self) -> RunFolder:
        """The run's files."""
        return RunFolder.of_fold(self.fold_folder)

    @property
    def is_control(self) -> bool:
        """Whether it is there for cells to be compared with, though it may have some itself."""
        return self.method in BASELINES and not self.judged

    @property
    def trains_backbone(self) -> bool:
        """Whether it trains what others freeze."""
        return self.method in TRAINS_BACKBONE

    @property
    def search_epochs(self) -> int:
        """Epochs of the search so far, warm-up included."""
        return sum(phase.epochs for phase in self._search_phases)

    @property
    def search_seconds(self) -> float:
        """Seconds of the search so far, warm-up and its validation included."""
        return sum(phase.seconds for phase in self._search_phases)

    @property
    def epochs(self) -> int:
        """All epochs so far."""
        return sum(phase.epochs for phase in self.cost.phases.values())

    @property
    def seconds(self) -> float:
        """Seconds of all epochs so far."""
        return sum(phase.seconds for phase in self.cost.phases.values())

    @property
    def collapsed(self) -> bool:
        """Whether most operations of the cell that the run's own search found lack parameters."""
        if self.genotype is None or not self.search_epochs:
            return False
        return parameter_free_share(self.genotype) > COLLAPSE_SHARE

    @property
    def stage(self) -> str:
        """The stage that it reached, in words."""
        if self.validated:
            return "finished"
        where = f"after epoch {self.epochs}" if self.epochs else "before its first epoch ended"
        state = {True: "in progress", False: "interrupted", None: "unfinished"}[self.busy]
        return f"{state} {where}"

    @property
    def _search_phases(self) -> list[PhaseCost]:
        phases = self.cost.phases
        return [phases[name] for name in ("warmup", "search") if name in phases]


def read_run(fold_folder: Path) -> Run:
    """Return the run of a fold, as far as it came.

    Raises:
        FileNotFoundError: the record lacks a file that every run writes first.
        ValueError: a damaged file.
    """
    record = RunFolder.of_fold(fold_folder)
    for path in (record.settings_file, record.cost_file, record.backbone_file):
        if not path.is_file():
            raise FileNotFoundError(
                f"a run's record must hold {path.name}; {path} does not exist: wait for the run's "
                "first epoch, restore the file, or leave this run out"
            )
    cost = record.read_cost()
    if missing := [key for key in RUN_KEYS if key not in cost.run]:
        raise ValueError(
            f"{record.cost_file} must identify the run; under 'run' it lacks "
            f"{', '.join(missing)}: restore it, or read it with the release that wrote it"
        )
    searched = record.trajectory_file.is_file()
    seen = case_scores.scores_training_cases(fold_folder)
    identity: dict[str, Any] = {key: str(cost.run[key]) for key in RUN_KEYS}
    trajectory = record.read_trajectory() if searched else Trajectory.of_rows([])
    events = record.read_events() if record.events_file.is_file() else ()
    _require_same_prunes(record, trajectory, events)
    return Run(
        **identity,
        fold_folder=fold_folder,
        settings=record.read_settings(),
        cost=cost,
        backbone=record.read_backbone(),
        trajectory=trajectory,
        events=events,
        health=record.read_health(),
        genotype=record.read_genotype() if record.genotype_file.is_file() else None,
        validated=_validated(fold_folder),
        scores=None if seen else _scores(fold_folder),
        reference=None if seen else _scores(record.reference_folder),
        source=record.read_source(),
        busy=in_use(fold_folder),
    )


def _require_same_prunes(
    record: RunFolder, trajectory: Trajectory, events: Sequence[PruningEvent]
) -> None:
    """Check that the events are what the trajectory's mask has lost up to its last epoch."""
    if not trajectory.epoch.size:
        return
    earlier = sum(event.epoch < trajectory.epoch[-1] for event in events)
    lost = int((~trajectory.active[-1]).sum())
    if earlier != lost:
        raise ValueError(
            f"{record.events_file} must hold every prune of {record.trajectory_file.name}, {lost} "
            f"before epoch {trajectory.epoch[-1]}; it holds {earlier}: restore it, or leave this "
            "run out"
        )


def _validated(folder: Path) -> bool:
    return (folder / VALIDATION_SUMMARY).is_file()


def _scores(folder: Path) -> CaseScores | None:
    """Return what nnU-Net's final validation wrote of held-out cases, or None before it."""
    return case_scores.read_case_scores(folder) if _validated(folder) else None


def find_runs(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the fold folders with a record at or below paths, in order and each once.

    Paths are fold folders, their `iac` folders, model folders, or folders of several models.
    """
    found: dict[Path, None] = {}
    for path in paths:
        start = path.parent if path.name == FOLDER_NAME else path
        folders = [start / FOLDER_NAME] if (start / FOLDER_NAME).is_dir() else []
        for model in (start, *sorted(start.glob("*"))) if not folders else ():
            folders += [fold / FOLDER_NAME for fold in fold_folders(model)]
        folders = [folder for folder in folders if RunFolder(folder).settings_file.is_file()]
        if not folders:
            raise ValueError(
                f"a report needs the record of a run; there is none in {path}: name a fold folder "
                "of a retrofit, such as nnUNetTrainerIACDiscrete__PLANS__2d/fold_0, or its model "
                "folder"
            )
        found.update((folder.parent, None) for folder in folders)
    return tuple(found)


def controls_beside(run: Run) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Return the controls in nnU-Net's results that began with a run's frozen tensors on its fold.

    Why one could not be read is returned, too.
    """
    beside = run.fold_folder.parent.parent
    found, unread = [], []
    records = beside.glob(f"nnUNetTrainer*/{run.fold_folder.name}/{FOLDER_NAME}/cost.json")
    for folder in sorted(path.parent.parent for path in records):
        try:
            if RunFolder.of_fold(folder).read_cost().run.get("method") in BASELINES:
                found.append(read_run(folder))
        except (ValueError, OSError) as error:
            unread.append(f"{folder.parent.name}/{folder.name} beside it was not read: {error}.")
    start = run.backbone.before
    same = tuple(control for control in found if control.backbone.before == start)
    return same, tuple(unread)


def labels(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return a short name for each run, different from the others' of its method."""
    keys = ("dataset", "configuration", "method", "plans")
    parts = [(*(getattr(run, key) for key in keys), f"fold {run.fold}") for run in runs]
    names = []
    for part in parts:
        similar = [other for other in parts if other[2] == part[2]]
        shown = [i in (2, 4) or len({other[i] for other in similar}) > 1 for i in range(5)]
        names.append(", ".join(p for p, wanted in zip(part, shown, strict=True) if wanted))
    return tuple(
        name if names.count(name) == 1 else f"{name}, run {names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    )
