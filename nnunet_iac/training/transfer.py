"""A cell found elsewhere: where it comes from, whether it fits here, and what it has seen."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder, record_beside
from nnunet_iac.runs.plans import configuration_of
from nnunet_iac.search.controls import OF_KIND
from nnunet_iac.search.patients import patient_of, shared_patients

TOLD = ("method", "trainer", "dataset", "plans", "configuration", "fold")
"""What a record repeats of the run that found its cell."""
UNSEARCHED = (OF_KIND["random"], OF_KIND["identity"])
"""Methods whose cells no data decided."""
SHOWN = 3
"""Cases that a message names."""


@dataclass(frozen=True)
class Origin:
    """The run that found a cell.

    Args:
        path: of the cell, as it was named.
        run: what its record tells of it; nothing of a file without a record beside it.
        learned_from: its training cases, and its validation cases if its backbone leaked.
        dimensions: of its images; None where its plans are gone.
        leaked: why its backbone may have seen its validation cases, or None.
    """

    path: Path
    run: dict[str, Any]
    learned_from: tuple[str, ...] = ()
    dimensions: int | None = None
    leaked: str | None = None

    @classmethod
    def of(cls, path: Path) -> "Origin":
        """Return the origin of the cell at a path, as far as its surroundings tell.

        A run that was given its cell leads on to where that came from; where nothing is there any
        more, to what its own record tells of it.
        """
        record = record_beside(path)
        if record is None:
            return cls(path, {})
        run = record.read_cost().run
        if (given := run.get("genotype_from")) is not None:
            earlier = cls.of(Path(given["path"]))
            return replace(earlier, path=path) if earlier.run else cls._told(path, given)
        if run.get("method") in UNSEARCHED:
            return cls(path, run)
        leaked = record.read_backbone().leakage if record.backbone_file.is_file() else None
        sides = ("training",) if leaked is None else ("training", "validation")
        split = read_json(record.split_file) if record.split_file.is_file() else {}
        learned_from = tuple(case for side in sides for case in split.get(side, ()))
        return cls(path, run, learned_from, _dimensions(record, run), leaked)

    @classmethod
    def _told(cls, path: Path, given: dict[str, Any]) -> "Origin":
        """Return the origin that the record of a run with this cell tells of."""
        run = {key: given[key] for key in TOLD if key in given}
        return cls(path, run, (), given.get("dimensions"), given.get("leakage"))

    def described(self) -> dict[str, Any]:
        """Return what the record of a run with this cell tells of it."""
        known = {key: self.run[key] for key in TOLD if key in self.run}
        found = {"dimensions": self.dimensions, "leakage": self.leaked}
        known |= {key: value for key, value in found.items() if value is not None}
        return {"path": str(self.path), **known}

    def unknown(self) -> str | None:
        """Return what to tell of a cell of which nobody can say what it has seen, or None."""
        if self.learned_from or self.run.get("method") in UNSEARCHED:
            return None
        return (
            f"{self.path} has no training cases of a search beside it, so nothing says which "
            "cases its cell has seen"
        )

    def require_dimensions(self, dimensions: int) -> None:
        """Check that the cell was found on images of as many dimensions.

        Raises:
            ValueError: it was not.
        """
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
        its backbone. A cell that nobody searched, as a random one, knows nothing.

        Args:
            dataset: of the target.
            fold: of the target.
            validation: its cases.
            pattern: of the patients in their identifiers.
        """
        if not self.run or self.run.get("method") in UNSEARCHED or fold == "all":
            return None
        source = (self.run.get("dataset"), self.run.get("fold"))
        here = source[0] == dataset
        backbone = "" if self.leaked is None else f" (its backbone {self.leaked})"
        searched = f"{self.path}{backbone} was searched on"
        if not self.learned_from:
            leaks = here and (source[1] != fold or self.leaked is not None)
            return f"{searched} fold {source[1]}" if leaks else None
        if here:
            shared = shared_patients(self.learned_from, validation, pattern)
            where = f"fold {source[1]}"
        else:
            shared = _shared_with_other_data(self.learned_from, validation, pattern)
            where = f"{source[0]}, whose training cases have names of validation cases"
        if not shared:
            return None
        named = ", ".join(shared[:SHOWN]) + (" …" if len(shared) > SHOWN else "")
        return f"{searched} {where} ({named})"


def _shared_with_other_data(
    theirs: Iterable[str], ours: Iterable[str], pattern: str | None
) -> tuple[str, ...]:
    """Return the patients on both sides, sorted; a case of theirs the pattern fails is one."""
    found = set()
    for case in theirs:
        fits = pattern is not None and re.search(pattern, case) is not None
        found.add(patient_of(case, pattern if fits else None))
    return tuple(sorted(found & {patient_of(case, pattern) for case in ours}))


def _dimensions(record: RunFolder, run: dict[str, Any]) -> int | None:
    plans = record.path.parent.parent / "plans.json"
    if not plans.is_file() or "configuration" not in run:
        return None
    patch = configuration_of(read_json(plans), run["configuration"]).get("patch_size")
    return len(patch) if isinstance(patch, list) else None
