"""Convergence of the backbones of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.runs.scores import mean_of_present

CONVERGED = 0.003
"""Twice the training changes the Dice of a converged backbone by less than this."""


@dataclass(frozen=True)
class Convergence:
    """The mean validation Dice of a backbone, and after half of its training, on the same cases.

    `half` is the name of the backbone that was trained for half as long, or less.
    """

    dataset: str
    configuration: str
    backbone: str
    half: str
    after_half: float
    after_all: float

    @property
    def difference(self) -> float:
        """Change of the Dice by the second half of the training."""
        return self.after_all - self.after_half

    @property
    def has_converged(self) -> bool:
        """Whether that is less than `CONVERGED`, up or down."""
        return abs(self.difference) < CONVERGED

    def __str__(self) -> str:
        found = (
            f"less than {CONVERGED}, so {self.half} has converged"
            if self.has_converged
            else f"not less than {CONVERGED}, so {self.half} has not converged"
        )
        return (
            f"{self.backbone}, trained twice as long as {self.half} on {self.dataset}, "
            f"{self.configuration}, has a validation Dice of {self.after_all:.4f} instead of "
            f"{self.after_half:.4f}; the difference of {self.difference:+.4f} is {found}"
        )


def convergences(document: Mapping[str, Any]) -> list[Convergence]:
    """Return what a study's result file shows of its backbones' convergence, by `half_of`."""
    halves: Mapping[str, str] = document.get("halves", {})
    references = {
        (run["dataset"], run["configuration"], run["fold"], run["backbone"]): run["dice"]
        for run in document["runs"]
        if run["method"] == REFERENCE and halves
    }
    found = []
    for (dataset, configuration, fold, name), half in references.items():
        whole = halves.get(name, "")
        if (key := (dataset, configuration, fold, whole)) not in references:
            continue
        means = [mean_of_present(dice.values()) for dice in (half, references[key])]
        after_half, after_all = (mean for mean in means)
        if after_half is not None and after_all is not None:
            found.append(Convergence(dataset, configuration, whole, name, after_half, after_all))
    return found
