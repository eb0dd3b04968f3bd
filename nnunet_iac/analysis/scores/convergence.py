"""Convergence of the backbones of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_iac.analysis.scores.comparison import PairedComparison, compare_scores
from nnunet_iac.analysis.scores.method_table import run_scores
from nnunet_iac.analysis.vocabulary import REFERENCE

CONVERGED = 0.003
"""Twice the training changes the Dice of a converged backbone by less than this."""


@dataclass(frozen=True)
class Convergence:
    """The validation Dice of a backbone against that after half of its training, or less.

    `twice` is the comparison; `half` names the backbone of the shorter training.
    """

    dataset: str
    configuration: str
    backbone: str
    half: str
    twice: PairedComparison

    @property
    def has_converged(self) -> bool:
        """Whether the second half changed the mean Dice by less than `CONVERGED`, up or down."""
        return abs(self.twice.difference) < CONVERGED

    def __str__(self) -> str:
        interval, size = self.twice.interval, f"n = {self.twice.patients}"
        if interval is not None:
            size = f"95 % CI {interval.low:+.4f} to {interval.high:+.4f}, {size}"
        found = (
            f"less than {CONVERGED}, so {self.half} has converged"
            if self.has_converged
            else f"not less than {CONVERGED}, so {self.half} has not converged"
        )
        if self.has_converged and interval and max(-interval.low, interval.high) >= CONVERGED:
            found += ", though the interval reaches beyond"
        return (
            f"{self.backbone}, trained twice as long as {self.half} on {self.dataset}, "
            f"{self.configuration}, has a validation Dice of {self.twice.mean_b:.4f} instead of "
            f"{self.twice.mean_a:.4f}; the difference of {self.twice.difference:+.4f} ({size}) is "
            f"{found}"
        )


def convergences(document: Mapping[str, Any]) -> list[Convergence]:
    """Return what a study's result file shows of its backbones' convergence, by `half_of`."""
    halves: Mapping[str, str] = document.get("halves", {})
    references = {
        (run["dataset"], run["configuration"], run["fold"], run["backbone"]): run
        for run in document["runs"]
        if run["method"] == REFERENCE and halves
    }
    found = []
    for (dataset, configuration, fold, name), half in references.items():
        whole = references.get((dataset, configuration, fold, halves.get(name, "")))
        if whole is None or not all(any(run["dice"].values()) for run in (half, whole)):
            continue
        pattern = half["patient_pattern"] or ".*"
        sides = run_scores(half, "dice"), run_scores(whole, "dice")
        twice = compare_scores(*sides, patient_pattern=pattern)
        found.append(Convergence(dataset, configuration, whole["backbone"], name, twice))
    return found
