"""Width and searched skips together: Dice against cost, of several methods at several widths."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_iac.analysis.scores.statistics import bootstrap_interval
from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import SECTION, dataset_number, derived, write_new
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.search.budget import Cost
from nnunet_iac.search.settings import Settings
from nnunet_iac.width.candidates import candidate
from nnunet_iac.width.crops import training_cases
from nnunet_iac.width.planning import plans_name, write_width
from nnunet_iac.width.source import Source

REFERENCE = "reference"
RETROFITS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "iac-lth": ("nnUNetTrainerIACLTH", {}),
    "iac": ("nnUNetTrainerIAC", {}),
    "random": ("nnUNetTrainerIACDiscrete", {"genotype": "random:0"}),
}
"""Trainer of every method on top of the reference, and the settings that make it that method."""

_RESULTS, _TRAINERS = "nnUNet_results", "nnUNet_extTrainer"
_ON_CPU = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2"}
"""Where the user has set nothing else: workers would take the cores from the training."""

METHODS = (REFERENCE, *RETROFITS)


@dataclass(frozen=True)
class Run:
    """One training: a method at a width, of a fold.

    Args:
        cap: on the channels per stage.
        method: one of `METHODS`.
        fold: number.
        trainer: its trainer.
        plans: identifier of its plans.
    """

    cap: int
    method: str
    fold: int
    trainer: str
    plans: str


@dataclass(frozen=True)
class Point:
    """What a method at a width costs and scores.

    Args:
        cap: on the channels per stage.
        method: one of `METHODS`.
        parameters: of the network with its cells; over folds with different cells, their mean.
        macs: multiply-accumulates of one patch without deep supervision; likewise.
        dice: mean foreground Dice over the validation cases of all folds.
        low: lower end of its 95 % bootstrap interval; None for a single case.
        high: upper end.
        cases: how many.
    """

    cap: int
    method: str
    parameters: float
    macs: float
    dice: float
    low: float | None
    high: float | None
    cases: int


@dataclass(frozen=True)
class Pareto:
    """A grid of widths and methods, whose references are trained by the source's trainer.

    Args:
        source: plans and the trainer of the references.
        caps: the widths.
        methods: of `METHODS`; the reference is trained in any case, the others start from it.
        folds: numbers.
        settings: of the retrofits, as in plans.

    Raises:
        ValueError: an unknown method, no or an impossible cap, no fold, a bad setting, or too few
            cases for a fold.
        FileNotFoundError: the data are not preprocessed.
    """

    source: Source
    caps: tuple[int, ...]
    methods: tuple[str, ...] = METHODS
    folds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise ValueError(
                f"methods must be of {', '.join(METHODS)}; got {', '.join(unknown) or 'none'}"
            )
        if not self.caps or not self.folds:
            raise ValueError(
                "a comparison needs at least one cap and one fold; got "
                f"{len(self.caps)} caps and {len(self.folds)} folds"
            )
        for cap in self.caps:
            candidate(self.source.architecture, cap)
        for fold in self.folds:
            training_cases(self.source, fold)
        Settings.from_mapping(self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        own = {**self.source.described.get(SECTION, {}), **(self.settings or {})}
        trainer = self.source.trainer.__name__
        return own if trainer == "nnUNetTrainer" else {**own, "backbone_trainer": trainer}

    def runs(self) -> list[Run]:
        """Return all trainings, every reference before what starts from it."""
        retrofits = [method for method in RETROFITS if method in self.methods]
        found = []
        for cap in self.caps:
            plans = plans_name(self.source, cap)
            for fold in self.folds:
                found.append(Run(cap, REFERENCE, fold, self.source.trainer.__name__, plans))
                for method in retrofits:
                    trainer, _ = RETROFITS[method]
                    found.append(Run(cap, method, fold, trainer, f"{plans}_{method}"))
        return found

    def write_plans(self) -> None:
        """Write the plans of all trainings; those that are there already stay.

        Raises:
            ValueError: plans of such a name with other content.
        """
        for run in self.runs():
            path, _ = write_width(self.source, run.cap)
            if run.method != REFERENCE:
                _, own = RETROFITS[run.method]
                values = {**self._settings, **own}
                new = derived(read_json(path), run.plans, self.source.configuration, values)
                write_new(path.with_name(f"{run.plans}.json"), new)

    def folder(self, run: Run) -> Path:
        """Return the fold folder of a training.

        Raises:
            RuntimeError: nnUNet_results is not set.
        """
        results = os.environ.get(_RESULTS)
        if not results:
            raise RuntimeError(
                f"the environment variable {_RESULTS} must name nnU-Net's folder of results "
                f"and is not set; run `export {_RESULTS}=/path/to/it`"
            )
        model = f"{run.trainer}__{run.plans}__{self.source.configuration}"
        return Path(results) / self.source.folder.name / model / f"fold_{run.fold}"

    def finished(self, run: Run) -> bool:
        """Return whether a training has been validated."""
        return (self.folder(run) / "validation" / "summary.json").is_file()

    def command(self, run: Run, device: str) -> list[str]:
        """Return nnU-Net's command of a training; one that was interrupted goes on."""
        number = str(dataset_number(self.source.folder.name))
        begun = any(self.folder(run).glob("checkpoint_*.pth"))
        return [
            *("nnUNetv2_train", number, self.source.configuration, str(run.fold)),
            *("-tr", run.trainer, "-p", run.plans, "-device", device, *(["--c"] if begun else [])),
        ]

    def points(self) -> list[Point]:
        """Return what the finished trainings cost and score, by cap and method."""
        ending = self.source.dataset["file_ending"]
        found = []
        for cap in self.caps:
            width = self.source.cost(cap)
            for method in self.methods:
                runs = [r for r in self.runs() if (r.cap, r.method) == (cap, method)]
                dice: dict[str, float | None] = {}
                costs = []
                for run in filter(self.finished, runs):
                    summary = self.folder(run) / "validation" / "summary.json"
                    dice |= foreground_dice(summary, ending)["per_case"]
                    costs.append(width + self._cells(run))
                values = [value for value in dice.values() if value is not None]
                if not values:
                    continue
                interval = bootstrap_interval(values) if len(values) > 1 else None
                found.append(
                    Point(
                        cap,
                        method,
                        fmean(cost.parameters for cost in costs),
                        fmean(cost.macs for cost in costs),
                        fmean(values),
                        None if interval is None else interval.low,
                        None if interval is None else interval.high,
                        len(values),
                    )
                )
        return found

    def _cells(self, run: Run) -> Cost:
        """Return what a training's cells cost, from its record."""
        if run.method == REFERENCE:
            return Cost(0, 0)
        networks = RunFolder.of_fold(self.folder(run)).read_cost().networks
        final, backbone = networks["final"], networks["backbone"]
        return Cost(final.parameters - backbone.parameters, final.macs - backbone.macs)


def train(study: Pareto, device: str, report: Callable[[str], None]) -> None:
    """Train what is not finished, one after the other.

    Args:
        study: its plans are written first.
        device: as nnU-Net's -device.
        report: receives a line per training.

    Raises:
        ValueError: as `Pareto.write_plans`.
        RuntimeError: a training failed; the message has the end of its output.
    """
    study.write_plans()
    runs = study.runs()
    for number, run in enumerate(runs, start=1):
        command = study.command(run, device)
        done = study.finished(run)
        report(f"[{number}/{len(runs)}] {'done before' if done else ' '.join(command)}")
        if not done:
            _run(command, study.folder(run) / "output.log", device)


def _run(command: Sequence[str], log: Path, device: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    given = os.environ.get(_TRAINERS)
    environment = {
        **(_ON_CPU if device == "cpu" else {}),
        **os.environ,
        _TRAINERS: os.pathsep.join(filter(None, (str(trainers_dir()), given))),
    }
    program = Path(sys.executable).parent / command[0]
    with log.open("a") as output:
        done = subprocess.run(
            [program, *command[1:]], env=environment, stdout=output, stderr=output
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(
            f"{' '.join(command)} must succeed and exited with {done.returncode}; {log} ends "
            f"with\n{tail}\nrun the same command again to go on"
        )


def write_points(study: Pareto, points: Sequence[Point], path: Path) -> None:
    """Write the points as JSON, with what they were measured on."""
    document = {
        "dataset": study.source.folder.name,
        "configuration": study.source.configuration,
        "plans": study.source.plans["plans_name"],
        "trainer": study.source.trainer.__name__,
        "folds": list(study.folds),
        "settings": study._settings,
        "points": [asdict(point) for point in points],
    }
    write_json(path, document)


def table(points: Sequence[Point]) -> str:
    """Return the points as text."""
    lines = [
        f"{'cap':>6}  {'method':<10}{'parameters':>14}{'MACs':>18}{'Dice':>8}  {'95 %':<16}{'n':>4}"
    ]
    for point in points:
        interval = "-" if point.low is None else f"{point.low:.3f} to {point.high:.3f}"
        lines.append(
            f"{point.cap:>6}  {point.method:<10}{point.parameters:>14,.0f}{point.macs:>18,.0f}"
            f"{point.dice:>8.3f}  {interval:<16}{point.cases:>4}"
        )
    return "\n".join(lines)
