"""Width and searched skips together: a study of several methods at several widths."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nnunet_iac.runs.atomic import write_text
from nnunet_iac.runs.plans import SECTION, require_file_ending
from nnunet_iac.width.candidates import candidate, features_of
from nnunet_iac.width.crops import training_cases
from nnunet_iac.width.planning import plans_name, write_width
from nnunet_iac.width.source import Source
from nnunet_iac.workflow.study import REFERENCE, Study
from nnunet_iac.workflow.study_file import study_of

METHODS = (REFERENCE, "continued", "iac-lth", "iac", "random")
DEFAULT_METHODS = (REFERENCE, "continued", "iac-lth", "random")
"""What is trained on top of a reference has longer to learn; `continued` is its equal in that."""

OURS_TO_SET = ("backbone_trainer", "backbone_plans", "backbone_checkpoint", "genotype", "skip")
"""Settings of the source plans that would lead a method to another backbone or other cells."""


@dataclass(frozen=True)
class Pareto:
    """A grid of widths and methods, whose references are trained by the source's trainer.

    Args:
        source: plans and the trainer of the references.
        caps: the widths.
        methods: of `METHODS`; the reference is trained in any case, the others start from it.
        folds: numbers.
        settings: of the retrofits, as in plans.
        name: of the study.
        device: as nnU-Net's -device.

    Raises:
        ValueError: an unknown method, no or an impossible cap, no fold, something named twice, a
            bad setting, too few cases for a fold, or a trainer that ignores the widths of plans.
        FileNotFoundError: the data are not preprocessed.
    """

    source: Source
    caps: tuple[int, ...]
    methods: tuple[str, ...] = DEFAULT_METHODS
    folds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] | None = None
    name: str = "pareto"
    device: str = "cpu"

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
        require_file_ending(self.source.dataset.get("file_ending"))
        study_of(self.document())

    def document(self) -> dict[str, Any]:
        """Return the study as its file has it."""
        known = self.source.described.get(SECTION, {})
        settings = {key: value for key, value in known.items() if key not in OURS_TO_SET}
        settings |= self.settings or {}
        seed, patients = settings.pop("seed", 0), settings.pop("patient_pattern", None)
        dataset = {
            "dataset": self.source.folder.name,
            "configurations": [self.source.configuration],
            "folds": list(self.folds),
        }
        trainer = self.source.trainer.__name__
        return {
            "name": self.name,
            "device": self.device,
            "datasets": [dataset if patients is None else {**dataset, "patients": patients}],
            "backbones": {
                backbone(cap): {"plans": plans_name(self.source, cap), "trainer": trainer}
                for cap in self.caps
            },
            "seeds": [seed],
            "settings": settings,
            "methods": {
                name: None for name in METHODS if name in self.methods and name != REFERENCE
            },
        }

    def study(self) -> Study:
        """Return the study of all trainings, every reference before what starts from it."""
        return study_of(self.document())

    def write_plans(self) -> None:
        """Write the plans of all widths; those that are there already stay.

        Raises:
            ValueError: plans of such a name with other content.
        """
        for cap in self.caps:
            write_width(self.source, cap)

    def write_study(self, folder: Path) -> Path:
        """Write the plans of all widths and the study's file, and return that."""
        self.write_plans()
        path = folder / "study.yaml"
        write_text(path, yaml.safe_dump(self.document(), sort_keys=False))
        return path


def backbone(cap: int) -> str:
    """Return what the study calls the network of a width."""
    return f"cap{cap}"


def study_name(folder: Path) -> str:
    """Return the name of a study whose results go to a folder: trainings are called after it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", folder.resolve().name).strip("-") or "pareto"
