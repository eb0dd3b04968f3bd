"""Convergence of the backbones of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_iac.analysis.scores.comparison import PairedComparison, compare_scores
from nnunet_iac.analysis.scores.method_table import run_scores
from nnunet_iac.analysis.scores.statistics import FEWEST_PATIENTS
from nnunet_iac.analysis.vocabulary import REFERENCE

CONVERGED = 0.003
"""Twice the training, or more, changes the Dice of a converged backbone by less than this."""


@dataclass(frozen=True)
class Convergence:
    """The validation Dice of a backbone against that after half of its training, or less.

    `longer` is the comparison; `half` names the backbone of the shorter training, and `epochs` has
    the length of it and of the other.
    """

    dataset: str
    configuration: str
    backbone: str
    half: str
    longer: PairedComparison
    epochs: tuple[int, int]

    @property
    def decides(self) -> bool:
        """Whether there are enough patients, and one training is twice as long as the other."""
        half, whole = self.epochs
        return self.longer.patients >= FEWEST_PATIENTS and 0 < 2 * half <= whole

    @property
    def has_converged(self) -> bool:
        """Whether the rest of the training changed the mean Dice by less than `CONVERGED`."""
        return self.decides and abs(self.longer.difference) < CONVERGED

    def __str__(self) -> str:
        interval, size = self.longer.interval, f"n = {self.longer.patients}"
        if interval is not None:
            size = f"95 % CI {interval.low:+.4f} to {interval.high:+.4f}, {size}"
        found = (
            f"less than {CONVERGED}, so {self.half} has converged"
            if self.has_converged
            else f"not less than {CONVERGED}, so {self.half} has not converged"
        )
        if not self.decides:
            found = "of too few patients, or of a training not twice as long, to show convergence"
        if self.has_converged and interval and max(-interval.low, interval.high) >= CONVERGED:
            found += ", though the interval reaches beyond"
        return (
            f"{self.backbone}, trained for {self.epochs[1]} epochs, has a validation Dice of "
            f"{self.longer.mean_b:.4f} on {self.dataset}, {self.configuration}, and {self.half}, "
            f"trained for {self.epochs[0]} epochs, one of {self.longer.mean_a:.4f}; the difference "
            f"of {self.longer.difference:+.4f} ({size}) is {found}"
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
        longer = compare_scores(*sides, patient_pattern=pattern)
        epochs = len(half["curve"]), len(whole["curve"])
        found.append(Convergence(dataset, configuration, whole["backbone"], name, longer, epochs))
    return found
