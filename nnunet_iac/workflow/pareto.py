"""Width and searched skips together: Dice against cost, of several methods at several widths."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.plans import (
    SECTION,
    configuration_of,
    dataset_number,
    derived,
    require_file_ending,
    write_new,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.width.candidates import candidate, features_of
from nnunet_iac.width.crops import training_cases
from nnunet_iac.width.planning import PROVENANCE, plans_name, write_width
from nnunet_iac.width.source import Source

REFERENCE = "reference"
RETROFITS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "continued": ("nnUNetTrainerContinue", {}),
    "iac-lth": ("nnUNetTrainerIACLTH", {}),
    "iac": ("nnUNetTrainerIAC", {}),
    "random": ("nnUNetTrainerIACDiscrete", {"genotype": "random:0"}),
}
"""Trainer of every method on top of the reference, and the settings that make it that method."""

_RESULTS, _TRAINERS = "nnUNet_results", "nnUNet_extTrainer"
_ON_CPU = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2"}
"""Where the user has set nothing else: workers would take the cores from the training."""

METHODS = (REFERENCE, *RETROFITS)
SEARCHED = ("iac-lth", "iac")
DEFAULT_METHODS = (REFERENCE, "continued", "iac-lth", "random")
"""What is trained on top of a reference has longer to learn; `continued` is its equal in that."""

OURS_TO_SET = ("backbone_trainer", "backbone_plans", "backbone_checkpoint", "genotype", "skip")
"""Settings of the source plans that would lead a method to another backbone or other cells."""


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
class Pareto:
    """A grid of widths and methods, whose references are trained by the source's trainer.

    Args:
        source: plans and the trainer of the references.
        caps: the widths.
        methods: of `METHODS`; the reference is trained in any case, the others start from it.
        folds: numbers.
        settings: of the retrofits, as in plans.

    Raises:
        ValueError: an unknown method, no or an impossible cap, no fold, something named twice, a
            bad setting, too few cases for a fold, or a trainer that ignores the widths of plans.
        FileNotFoundError: the data are not preprocessed.
        RuntimeError: nnUNet_results is not set.
    """

    source: Source
    caps: tuple[int, ...]
    methods: tuple[str, ...] = DEFAULT_METHODS
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
        for named in (self.caps, self.folds, self.methods):
            if len(set(named)) < len(named):
                raise ValueError(
                    "caps, folds and methods must each be named once; got "
                    f"{', '.join(map(str, named))}"
                )
        widest = max(features_of(self.source.architecture))
        caps = sorted({widest, *self.caps}, reverse=True)
        self.source.costs([candidate(self.source.architecture, cap) for cap in caps])
        for fold in self.folds:
            training_cases(self.source, fold)
        for key in OURS_TO_SET:
            if key in (self.settings or {}):
                raise ValueError(f"{key} is what the methods differ in: leave it out of --set")
        Settings.from_mapping(self.common_settings)
        require_file_ending(self.source.dataset.get("file_ending"))
        for run in self.runs():
            self.folder(run)

    @property
    def common_settings(self) -> dict[str, Any]:
        """The settings of all retrofits, before each adds its own."""
        known = self.source.described.get(SECTION, {})
        own = {key: value for key, value in known.items() if key not in OURS_TO_SET}
        trainer = {"backbone_trainer": self.source.trainer.__name__}
        return {**own, **(self.settings or {}), **trainer}

    def settings_of(self, method: str) -> dict[str, Any]:
        """Return the settings of a retrofit.

        What does not search is finetuned as long as a search and its finetuning may take together.
        """
        _, own = RETROFITS[method]
        values = {**self.common_settings, **own}
        settings = Settings.from_mapping(values)
        if method in SEARCHED:
            return values
        return {**values, "finetune_epochs": settings.search_epochs + settings.finetune_epochs}

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
            ValueError: plans of such a name with other content, or a training under that name that
                was made with other plans.
        """
        for run in self.runs():
            path, _ = write_width(self.source, run.cap)
            if run.method != REFERENCE:
                values = self.settings_of(run.method)
                new = derived(read_json(path), run.plans, self.source.configuration, values)
                write_new(path.with_name(f"{run.plans}.json"), new)
            self._require_same_plans(run)

    def _require_same_plans(self, run: Run) -> None:
        """Check that what has been trained under a name was trained with these plans."""
        model = self.folder(run).parent
        if not (model / "plans.json").is_file():
            return
        wanted, found = (
            configuration_of(read_json(path), self.source.configuration)
            for path in (self.source.folder / f"{run.plans}.json", model / "plans.json")
        )
        unused = dict.fromkeys((PROVENANCE, SECTION) if run.method == REFERENCE else (PROVENANCE,))
        if wanted | unused != found | unused:
            raise ValueError(
                f"{model} must have been trained with the plans {run.plans} as they are now, and "
                "was trained with others: move it elsewhere, or take other settings"
            )

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

    def summary(self, run: Run) -> Path:
        """Return the file with the scores of a training's validation, which ends it."""
        return self.folder(run) / "validation" / "summary.json"

    def finished(self, run: Run) -> bool:
        """Return whether a training has been validated."""
        return self.summary(run).is_file()

    def command(self, run: Run, device: str) -> list[str]:
        """Return nnU-Net's command of a training; one that was interrupted goes on."""
        number = str(dataset_number(self.source.folder.name))
        begun = any(self.folder(run).glob("checkpoint_*.pth"))
        return [
            *("nnUNetv2_train", number, self.source.configuration, str(run.fold)),
            *("-tr", run.trainer, "-p", run.plans, "-device", device, *(["--c"] if begun else [])),
        ]


def train(study: Pareto, device: str, report: Callable[[str], None]) -> list[str]:
    """Train what is not finished, one after the other; return why trainings failed.

    What starts from a reference that failed is left out, everything else goes on.

    Args:
        study: its plans are written first.
        device: as nnU-Net's -device.
        report: receives a line per training.

    Raises:
        ValueError: as `Pareto.write_plans`.
    """
    study.write_plans()
    runs = study.runs()
    failures = []
    without = set()
    for number, run in enumerate(runs, start=1):
        command = study.command(run, device)
        done, lacks = study.finished(run), (run.cap, run.fold) in without
        what = "done before" if done else "left out" if lacks else " ".join(command)
        report(f"[{number}/{len(runs)}] {what}")
        if done or lacks:
            continue
        try:
            _run(command, study.folder(run) / "output.log", device)
        except RuntimeError as error:
            report(f"error: {error}")
            failures.append(str(error))
            if run.method == REFERENCE:
                without.add((run.cap, run.fold))
    return failures


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
