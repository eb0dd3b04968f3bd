"""Paired statistics on differences, one per patient."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05
"""Largest adjusted p of a difference that counts as detected."""
RESAMPLES = 9999
MARGIN = 0.01
"""Loss of Dice up to which a method counts as not inferior, where nothing else is stated."""
FEWEST_PATIENTS = 6
"""Below it nothing is decided: n differences of one sign have p = 2 / 2**n, 0.0625 for five."""
LARGEST_BATCH = 10**7
"""Values that are resampled at once: 80 MB."""
MOST_FLIPPED = 13
"""Differences with ties or zeros whose signs are all flipped; the normal distribution for more."""
DECIMALS = 12
"""Differences that agree up to here are equal: what lies behind is rounding, not Dice."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made: `BCa`, `percentile`, or `constant` values."""

    low: float
    high: float
    method: str = "BCa"


@dataclass(frozen=True)
class NonInferiority:
    """Whether B is worse than A by less than a positive margin.

    `lower` is the lower end of the two-sided 95 % bootstrap interval of the mean difference, so a
    one-sided 97.5 % bound; `p` is of the one-sided signed-rank test that the differences lie above
    -margin: it is reported and does not decide. Either is None where there are too few.
    """

    margin: float
    lower: float | None
    p: float | None
    shown: bool


def bootstrap_interval(
    values: Sequence[float],
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    Equal values v give (v, v), fewer than two None. Where BCa is degenerate (all resamples on one
    side of the mean, or values that differ by rounding alone) the interval is the percentile one,
    as its `method` shows. The same seed and values, one per patient, give the same interval.
    """
    sample = _finite(values)
    if sample.size < 2:
        return None
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]), "constant")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # Of a degenerate distribution scipy warns, and its ends are NaN, which is checked.
            warnings.simplefilter("ignore")
            ends = stats.bootstrap(
                (sample,),
                _rounded_mean,
                confidence_level=confidence,
                n_resamples=resamples,
                method=method,
                batch=max(1, LARGEST_BATCH // sample.size),
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([ends.low, ends.high]).all():
            break
    return Interval(float(ends.low), float(ends.high), method)


def wilcoxon(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the Wilcoxon signed-rank test (Wilcoxon 1945).

    Zeros are ranked along and their ranks dropped (Pratt 1959), so that many equal patients count
    for equality. The distribution is exact for up to 50 differences without zeros and ties, and
    for up to 13 with them; else normal, with Cureton's variance and a continuity correction.
    Differences are compared up to `DECIMALS` decimals; None where all are zero, or below two.
    """
    return _signed_rank_p(_finite(differences), "two-sided")


def sign_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the exact sign test, McNemar's for counts of 0 and 1 (1947).

    Zeros are left out, and differences up to `DECIMALS` decimals are zero; None where all are.
    """
    rounded = np.round(_finite(differences), DECIMALS)
    rising, count = int((rounded > 0).sum()), int(np.count_nonzero(rounded))
    return float(stats.binomtest(rising, count).pvalue) if count else None


def fisher_combination(p_values: Sequence[float]) -> float:
    """Return Fisher's combined p: -2 sum ln p is chi-square with 2K degrees of freedom.

    For independent tests only. Of two-sided p values it shows that there is some difference, not
    which way. Source: Fisher, Statistical Methods for Research Workers, 1932, section 21.1.
    """
    checked = _probabilities(p_values)
    if not checked.size:
        raise ValueError("Fisher's combination needs at least one p value; got none")
    if not checked.all():  # -ln 0 is infinite.
        return 0.0
    return float(stats.combine_pvalues(checked, method="fisher").pvalue)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p values adjusted for their number, in the order given (Holm 1979).

    The k-th smallest of m becomes the largest of (m - j + 1) p_j over j <= k, at most 1: an
    adjusted p of at most 0.05 keeps the chance of any false finding among them at 5 %.
    """
    checked = _probabilities(p_values)
    order = np.argsort(checked, kind="stable")
    factors = checked.size - np.arange(checked.size)
    adjusted = np.empty(checked.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(checked[order] * factors), 1.0)
    return tuple(adjusted.tolist())


def rank_biserial(differences: Sequence[float]) -> float:
    """Return the matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-) (Kerby 2014).

    W+ and W- are the sums of the ranks of the positive and negative differences by size, up to
    `DECIMALS` decimals; zeros are left out before ranking, ties share their mean rank. From -1 (all
    negative) to 1 (all positive); 0 where all are zero.
    """
    rounded = np.round(_finite(differences), DECIMALS)
    nonzero = rounded[rounded != 0]
    if not nonzero.size:
        return 0.0
    ranks = stats.rankdata(np.abs(nonzero))
    return float(np.sum(np.sign(nonzero) * ranks) / np.sum(ranks))


def non_inferiority(
    differences: Sequence[float], interval: Interval | None, margin: float = MARGIN
) -> NonInferiority:
    """Return whether the mean of B - A (more is better) lies above -margin, at one-sided 2.5 %.

    Decided by the lower end of their 95 % `bootstrap_interval`; beside it stands the p of the
    one-sided signed-rank test on differences + margin, which must be fixed before they are seen.
    """
    require_margin(margin)
    sample = _finite(differences)
    lower = None if interval is None else interval.low
    shown = lower is not None and lower > -margin and sample.size >= FEWEST_PATIENTS
    return NonInferiority(margin, lower, _signed_rank_p(sample + margin, "greater"), shown)


def require_margin(margin: float) -> None:
    """Check that a margin of non-inferiority is a positive number."""
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(
            f"the margin of non-inferiority must be a positive number; got {margin}: name the loss "
            f"that would not matter, such as {MARGIN}"
        )


def _rounded_mean(
    samples: Float[np.ndarray, "*resamples patients"], axis: int
) -> Float[np.ndarray, "*resamples"]:
    """Return means whose ties are ties: BCa counts how many are below that of the values."""
    return np.asarray(np.round(np.mean(samples, axis=axis), DECIMALS))


def _signed_rank_p(sample: Float[np.ndarray, " patients"], alternative: str) -> float | None:
    rounded = np.round(sample, DECIMALS)
    if rounded.size < 2 or not rounded.any():
        return None
    ranks = stats.rankdata(np.abs(rounded))  # Pratt: zeros are ranked, and count for neither sign.
    if rounded.size <= MOST_FLIPPED and not (rounded.all() and np.unique(ranks).size == ranks.size):
        # scipy's own choice, whose statistic it would compute anew for each of the 2**n signs.
        tested: Any = stats.permutation_test(
            (rounded,),
            lambda flipped, axis: np.sum((flipped > 0) * ranks, axis=axis),
            permutation_type="samples",
            vectorized=True,
            alternative=alternative,
        )
    else:
        tested = stats.wilcoxon(
            rounded, zero_method="pratt", correction=True, alternative=alternative
        )
    return float(tested.pvalue)


def _finite(values: Sequence[float]) -> Float[np.ndarray, " patients"]:
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise ValueError(
            f"statistics need finite values; got {sample[~np.isfinite(sample)][0]}: leave out what "
            "has no score"
        )
    return sample


def _probabilities(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
    checked = np.asarray(p_values, dtype=np.float64)
    wrong = checked[~((checked >= 0) & (checked <= 1))]
    if wrong.size:
        raise ValueError(f"a p value must lie in [0, 1]; got {wrong[0]}: pass the tests' own p")
    return checked
