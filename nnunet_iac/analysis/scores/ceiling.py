"""Ceiling of any search: the spread of cells without that of seeds, and the best of many."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import integrate, stats

from nnunet_iac.analysis.scores.statistics import ALPHA, CONFIDENCE, Interval
from nnunet_iac.runs.scores import patient_means

POWER = 0.8
"""Chance of detecting a gain that is there."""


@dataclass(frozen=True)
class Ceiling:
    """A two-way analysis of mean Dice: genotypes by seeds, one run each, both at random.

    Args:
        genotypes: how many cells were trained.
        seeds: how often each of them; a seed has the same batches for all cells.
        mean: Dice of all runs.
        spread: standard deviation between cells once noise is removed, 0 where there is only noise.
        interval: its approximate 95 % interval (Williams 1962, Tukey 1951).
        noise: standard deviation of one cell trained again, without what a seed does to all cells.
        p: of the F test that cells do not differ.
    """

    genotypes: int
    seeds: int
    mean: float
    spread: float
    interval: Interval
    noise: float
    p: float

    def best_of(self, count: int) -> float:
        """Return what the best of so many random cells has more than the mean, were it known."""
        return self.spread * expected_maximum(count)

    @property
    def at_upper_end(self) -> "Ceiling":
        """The same with the spread at the upper end of its interval."""
        return replace(self, spread=self.interval.high)

    def found_of(self, count: int) -> float:
        """Return the same of the cell that had the highest Dice in one run on these very cases."""
        of_a_run = math.hypot(self.spread, self.noise)
        return self.best_of(count) * self.spread / of_a_run if of_a_run else 0.0

    def runs_to_show(self, gain: float) -> int | None:
        """Return the runs per side that show a gain over random cells; None where there is none.

        Of a two-sided test at 5 % with a power of 80 %, in the normal approximation: one side has
        one cell and several seeds, the other a new cell in every run.
        """
        if gain <= 0:
            return None
        quantiles = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)
        variance = self.spread**2 + 2 * self.noise**2
        return max(2, math.ceil(quantiles**2 * variance / gain**2))


def expected_maximum(count: int) -> float:
    """Return the expected largest of so many independent standard normal numbers."""

    def weighted(x: float) -> float:
        return float(x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1))

    return float(integrate.quad(weighted, -12, 12)[0])


def two_way(dice: Float[np.ndarray, "genotypes seeds"]) -> Ceiling:
    """Return the analysis of the mean Dice of every cell and seed.

    With the mean squares M_g of genotypes and M_e of what neither genotype nor seed explains, and s
    seeds, the variance between cells is (M_g - M_e) / s, and that of the noise M_e.

    Raises:
        ValueError: fewer than two cells or seeds, or a run without a Dice.
    """
    values = np.asarray(dice, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise ValueError(
            "a two-way analysis needs two cells and two seeds at least, and a Dice of every run; "
            f"got an array of shape {values.shape}: train the missing runs"
        )
    genotypes, seeds = values.shape
    of_cell, of_seed = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = values - of_cell - of_seed + values.mean()
    cells, errors = genotypes - 1, (genotypes - 1) * (seeds - 1)
    squares = seeds * float(((of_cell - values.mean()) ** 2).sum())
    noise = float((rest**2).sum()) / errors
    ratio = squares / cells / noise if noise else math.inf
    return Ceiling(
        genotypes=genotypes,
        seeds=seeds,
        mean=float(values.mean()),
        spread=math.sqrt(max(0.0, (squares / cells - noise) / seeds)),
        interval=_interval(squares, noise, (cells, errors), seeds),
        noise=math.sqrt(noise),
        p=float(stats.f.sf(ratio, cells, errors)) if squares else 1.0,
    )


def _interval(squares: float, noise: float, degrees: tuple[int, int], seeds: int) -> Interval:
    """Return the interval of the standard deviation between cells, by its sum of squares."""
    tail = (1 - CONFIDENCE) / 2

    def end(quantile: float) -> float:
        beyond = squares - degrees[0] * noise * float(stats.f.ppf(quantile, *degrees))
        return math.sqrt(max(0.0, beyond / float(stats.chi2.ppf(quantile, degrees[0])) / seeds))

    return Interval(end(1 - tail), end(tail), "Williams-Tukey")


def ceiling(document: Mapping[str, Any]) -> Ceiling:
    """Return the analysis of a study whose methods are cells, each trained with all its seeds.

    Raises:
        ValueError: a run is missing, or there are too few.
    """
    means = {
        (run["method"], run["seed"]): fmean(
            patient_means(run["dice"], run["patient_pattern"])[0].values()
        )
        for run in document["runs"]
        if run["method"] in document["methods"]
    }
    seeds = sorted({seed for _, seed in means})
    missing = [(m, s) for m in document["methods"] for s in seeds if (m, s) not in means]
    if missing:
        raise ValueError(
            "every cell must be trained with every seed; "
            f"{missing[0][0]} lacks seed {missing[0][1]}: let the study finish"
        )
    return two_way(np.array([[means[m, s] for s in seeds] for m in document["methods"]]))
