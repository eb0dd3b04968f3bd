"""A cell found elsewhere: where it comes from, whether it fits here, and what it has seen."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder, record_beside
from nnunet_iac.runs.plans import configuration_of
from nnunet_iac.search.controls import OF_KIND
from nnunet_iac.search.patients import shared_patients

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
        learned_from: its training cases.
        dimensions: of its images; None where its plans are gone.
    """

    path: Path
    run: dict[str, Any]
    learned_from: tuple[str, ...]
    dimensions: int | None

    @classmethod
    def of(cls, path: Path) -> "Origin":
        """Return the origin of the cell at a path, as far as its surroundings tell.

        A run that was given its cell leads on to where that came from; one whose cell nobody
        searched, as a random one, is no origin.
        """
        record = record_beside(path)
        if record is None:
            return cls(path, {}, (), None)
        run = record.read_cost().run
        if (given := run.get("genotype_from")) is not None:
            earlier = cls.of(Path(given["path"]))
            return replace(earlier, path=path) if earlier.run else cls(path, given, (), None)
        if run.get("method") in UNSEARCHED:
            return cls(path, {}, (), None)
        learned_from = (
            read_json(record.split_file)["training"] if record.split_file.is_file() else ()
        )
        return cls(path, run, tuple(learned_from), _dimensions(record, run))

    def described(self) -> dict[str, Any]:
        """Return what the record of a run with this cell tells of it."""
        known = {key: self.run[key] for key in TOLD if key in self.run}
        return {"path": str(self.path), **known}

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

        By the patients that both sides share; of a run whose cases are not known, by its fold.

        Args:
            dataset: of the target.
            fold: of the target.
            validation: its cases.
            pattern: of the patients in their identifiers.
        """
        if not self.run or fold == "all":
            return None
        source = (self.run.get("dataset"), self.run.get("fold"))
        if not self.learned_from:
            other_fold = source[0] == dataset and source[1] != fold
            return f"{self.path} was searched on fold {source[1]}" if other_fold else None
        if source[0] == dataset:
            shared = shared_patients(self.learned_from, validation, pattern)
            where = f"fold {source[1]}"
        else:  # The pattern is of the target's identifiers.
            shared = tuple(sorted({*self.learned_from} & {*validation}))
            where = f"{source[0]}, whose training cases have names of validation cases"
        if not shared:
            return None
        named = ", ".join(shared[:SHOWN]) + (" …" if len(shared) > SHOWN else "")
        return f"{self.path} was searched on {where} ({named})"


def _dimensions(record: RunFolder, run: dict[str, Any]) -> int | None:
    plans = record.path.parent.parent / "plans.json"
    if not plans.is_file() or "configuration" not in run:
        return None
    patch = configuration_of(read_json(plans), run["configuration"]).get("patch_size")
    return len(patch) if isinstance(patch, list) else None
