"""The cell that a run is given: where it comes from, whether it fits, and what it has seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_iac.host.plans import configuration_of, read_plans
from nnunet_iac.runs.atomic import content_of
from nnunet_iac.runs.folder import RunFolder, path_for_fold, record_beside
from nnunet_iac.runs.genotype_source import find_genotype
from nnunet_iac.runs.records import RUN_KEYS
from nnunet_iac.search.controls import (
    OF_KIND,
    OF_RETENTION,
    CellSource,
    identity_genotype,
    random_genotypes,
)
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import is_within, require_within
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import named, shared_patients
from nnunet_iac.search.setting_parts import CellConfig, DataConfig
from nnunet_iac.training.backbone import Fold

UNSEARCHED = {OF_KIND[k] + end for k in ("random", "identity") for end in OF_RETENTION.values()}
"""Methods whose cells no data decided."""


@dataclass(frozen=True)
class Origin:
    """The run that found a cell, by what lies beside it.

    `run` is that part of its record, empty without one; `learned_from` its training cases, with the
    validation cases if its backbone leaked; `leaked` why it may have.
    """

    path: Path
    run: dict[str, Any]
    learned_from: tuple[str, ...] = ()
    dimensions: int | None = None
    leaked: str | None = None

    @classmethod
    def of(cls, path: Path) -> "Origin":
        """Return the origin of the cell at a path, as far as the files beside it show.

        For a run that was given its cell, that cell's origin; if its files are gone, or are those
        of a later run that was given the cell in turn, what the run's own record repeats of them.
        """
        origin, seen, record = cls(path, {}), set[Path](), record_beside(path)
        while record is not None and record.path.resolve() not in seen:
            seen.add(record.path.resolve())
            run = record.read_cost().run
            with content_of(record.cost_file):
                if (given := run.get("genotype_from")) is None:
                    return cls._of_record(path, record, run)
                repeated = {key: given[key] for key in RUN_KEYS if key in given}
                if repeated or not origin.run:
                    facts = given.get("dimensions"), given.get("leakage")
                    origin = cls(path, repeated, (), *facts)
                record = record_beside(Path(given["path"]))
        return origin

    @classmethod
    def _of_record(cls, path: Path, record: RunFolder, run: dict[str, Any]) -> "Origin":
        if run.get("method") in UNSEARCHED:
            return cls(path, run)
        leaked = record.read_backbone().leakage if record.backbone_file.is_file() else None
        sides = ("training",) if leaked is None else ("training", "validation")
        split = record.read_split() if record.split_file.is_file() else {}
        learned_from = tuple(case for side in sides for case in split.get(side, ()))
        return cls(path, run, learned_from, _dimensions(record, run), leaked)

    def is_of(self, dataset: str) -> bool:
        """Return whether the search learned from cases of a data set, also by rehearsing them."""
        return dataset in (self.run.get("dataset"), self.run.get("source"))

    def provenance(self) -> dict[str, Any]:
        """Return what the record of a run with this cell repeats of its origin."""
        known = {key: self.run[key] for key in RUN_KEYS if key in self.run}
        found = {"dimensions": self.dimensions, "leakage": self.leaked}
        known |= {key: value for key, value in found.items() if value is not None}
        return {"path": str(self.path), **known}

    def unknown(self) -> str | None:
        """Return the warning for a cell whose training cases are not known, or None."""
        if self.learned_from or self.run.get("method") in UNSEARCHED:
            return None
        return (
            f"{self.path} has no training cases of a search beside it, so it is not known "
            "which cases its cell has seen"
        )

    def require_dimensions(self, dimensions: int) -> None:
        """Check that the cell was found on images of as many dimensions."""
        if self.dimensions not in (None, dimensions):
            raise ValueError(
                f"a cell must have been searched on images of the same dimension; {self.path} was "
                f"searched in {self.dimensions}-D ({self.run.get('configuration')}) and this "
                f"configuration is {dimensions}-D: search again, or, if that is meant, name a copy "
                "of its genotype.json alone"
            )

    def leakage(
        self, dataset: str, fold: int | str, validation: list[str], pattern: str | None
    ) -> str | None:
        """Return why the cell may know validation cases of the target, or None.

        By the patients that both sides share; of a run whose cases are not known, by its fold and
        its backbone. A cell without a search, such as a random one, has seen none.
        """
        if not self.run or self.run.get("method") in UNSEARCHED:
            return None
        if fold == "all" or not validation:
            return None
        source = (self.run.get("dataset"), self.run.get("fold"))
        here = source[0] == dataset
        backbone = "" if self.leaked is None else f" (its backbone {self.leaked})"
        searched = f"{self.path}{backbone} was searched on"
        rehearsed = self.run.get("source_cases", ())
        if shared := shared_patients(rehearsed, validation, pattern, any_case=True):
            return (
                f"{searched} {source[0]} and rehearsed {self.run.get('source')} ({named(shared)})"
            )
        if not self.learned_from:
            leaks = here and (source[1] != fold or self.leaked is not None)
            return f"{searched} fold {source[1]}" if leaks else None
        if here:
            shared = shared_patients(self.learned_from, validation, pattern)
            where = f"fold {source[1]}"
        else:
            shared = shared_patients(self.learned_from, validation, pattern, any_case=True)
            where = f"{source[0]}, whose training cases have names of validation cases"
        if not shared:
            return None
        return f"{searched} {where} ({named(shared)})"


@dataclass(frozen=True)
class GivenCell:
    """Modules that a run without a search puts into the skip connections.

    No genotype is another module. `counterpart` is the cell whose number of parameters a
    convolution gets.
    """

    genotype: Genotype | None = None
    counterpart: Genotype | None = None
    provenance: dict[str, Any] | None = None
    leakage: str | None = None


def given_cell(
    cell: CellConfig,
    data: DataConfig,
    fold: Fold,
    dimensions: int,
    costs: CellCosts | None,
    log: Callable[[str], None],
) -> GivenCell:
    """Return the cell that the settings name; one that must not be used is a ValueError.

    Under a budget, which `costs` are for, a random cell is the first drawn that is within it.
    """
    source = None if cell.genotype is None else CellSource.of(cell.genotype)
    if source is None:
        return GivenCell()
    if source.kind == "random":
        drawn = random_genotypes(source.seed)
        return GivenCell(next(g for g in drawn if not costs or is_within(g, costs, cell)))
    if source.kind == "identity":
        given = GivenCell(identity_genotype())
    elif source.path is not None:
        given = _cell_at(path_for_fold(source.path, fold.number), data, fold, dimensions, log)
    else:
        return GivenCell()
    if source.kind == "convolution":
        return replace(given, genotype=None, counterpart=given.genotype)
    if costs is not None and given.genotype is not None:
        require_within(given.genotype, costs, cell)
    return given


def _cell_at(
    path: Path, data: DataConfig, fold: Fold, dimensions: int, log: Callable[[str], None]
) -> GivenCell:
    genotype, origin = find_genotype(path), Origin.of(path)
    origin.require_dimensions(dimensions)
    if (unknown := origin.unknown()) is not None:
        log(f"WARNING: {unknown}")
    leakage = origin.leakage(
        fold.dataset, fold.number, list(fold.validation_cases), data.patient_pattern
    )
    if leakage is not None:
        if origin.is_of(fold.dataset) and not data.allow_leakage:
            raise ValueError(
                "the cell must not have been searched on this fold's validation cases; "
                f"{leakage} and this is fold {fold.number}: put {{fold}} in the path, or set "
                "allow_leakage=true, which every record then shows"
            )
        log(f"WARNING: {leakage}")
    return GivenCell(genotype, provenance=origin.provenance(), leakage=leakage)


def _dimensions(record: RunFolder, run: dict[str, Any]) -> int | None:
    plans = record.path.parent.parent / "plans.json"
    if not plans.is_file() or "configuration" not in run:
        return None
    patch = configuration_of(read_plans(plans), run["configuration"]).get("patch_size")
    return len(patch) if isinstance(patch, list) else None
