"""Every statistic against published values or a calculation by hand."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnunet_iac.analysis.scores.statistics import (
    FEWEST_PATIENTS,
    Interval,
    NonInferiority,
    bootstrap_interval,
    fisher_combination,
    holm,
    non_inferiority,
    rank_biserial,
    wilcoxon,
)

# Hamilton depression scale before and after: Hollander & Wolfe, Nonparametric Statistical Methods,
# 1973, p. 29, as in the example of R's wilcox.test.
DEPRESSION = tuple(
    round(x - y, 3)
    for x, y in zip(
        (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30),
        (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29),
        strict=True,
    )
)
# Darwin's plants in eighths of an inch: Cureton, JASA 62 (1967), as in scipy's documentation.
PLANTS = (6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75)
# Survival of the treated mice in days: Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
# table 2.1.
MICE = (94, 197, 16, 38, 99, 141, 23)

DICE = st.floats(-1, 1).map(lambda value: round(value, 6))
SAMPLES = st.lists(DICE, min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def decided(differences: Sequence[float], *margin: float) -> NonInferiority:
    """Return what differences show by their own interval."""
    return non_inferiority(differences, bootstrap_interval(differences), *margin)


# -- bootstrap -----------------------------------------------------------------------------------


def _ideal_bca(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return BCa's ends over all n**n resamples: Efron & Tibshirani 1993, (14.9) to (14.15)."""
    n = len(values)
    means, weights = [], []
    for counts in _compositions(n, n):
        means.append(np.dot(counts, values) / n)
        weights.append(math.factorial(n) / math.prod(map(math.factorial, counts)) / n**n)
    order = np.argsort(means)
    means, weights = np.array(means)[order], np.array(weights)[order]
    centred = np.subtract(values, np.mean(values))
    tie = np.isclose(means, np.mean(values))
    below = weights[(means < np.mean(values)) & ~tie].sum() + weights[tie].sum() / 2
    z0 = stats.norm.ppf(below)
    # The jackknife values of a mean differ from their mean by -(x - mean) / (n - 1).
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    ends = []
    for level in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = z0 + stats.norm.ppf(level)
        corrected = stats.norm.cdf(z0 + z / (1 - acceleration * z))
        ends.append(means[np.searchsorted(np.cumsum(weights), corrected)])
    return ends[0], ends[1]


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    bars = itertools.combinations(range(total + parts - 1), parts - 1)
    return [
        tuple(b - a - 1 for a, b in zip((-1, *bar), (*bar, total + parts - 1), strict=True))
        for bar in bars
    ]


def test_the_enumeration_of_resamples_has_the_published_standard_error():
    # Efron & Tibshirani 1993, table 2.1: mean 86.86, standard error 25.24 with the divisor n - 1;
    # the ideal bootstrap's has n: sqrt(sum (x - mean)**2) / n = 163.55 / 7 = 23.36.
    resamples = np.array(_compositions(7, 7))
    assert len(resamples) == math.comb(13, 6) == 1716
    weights = [math.factorial(7) / math.prod(map(math.factorial, map(int, r))) for r in resamples]
    means = resamples @ MICE / 7
    assert sum(weights) == 7**7
    mean = np.average(means, weights=weights)
    assert mean == pytest.approx(86.857, abs=1e-3)
    error = math.sqrt(np.average((means - mean) ** 2, weights=weights))
    assert error == pytest.approx(25.24 * math.sqrt(6 / 7), abs=0.01)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_bca_of_all_resamples_up_to_chance(confidence):
    low, high = _ideal_bca(MICE, confidence)
    found = bootstrap_interval(MICE, confidence=confidence)
    assert found.method == "BCa"
    # Days; the percentile interval is off by 3.5 and 4.5 at the upper end.
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.5)


def test_the_interval_moves_towards_the_long_tail_where_the_percentile_one_does_not():
    skewed = (0.0, 0.0, 0.01, 0.01, 0.02, 0.02, 0.03, 0.3)
    found = bootstrap_interval(skewed)
    ends = stats.bootstrap((skewed,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert found.low > ends.confidence_interval.low
    assert found.high > ends.confidence_interval.high


def test_the_same_seed_gives_the_same_interval_and_another_another():
    assert bootstrap_interval(MICE, seed=3) == bootstrap_interval(MICE, seed=3)
    assert bootstrap_interval(MICE, seed=3) != bootstrap_interval(MICE, seed=4)


def test_fewer_than_two_values_have_no_interval():
    assert bootstrap_interval(()) is None
    assert bootstrap_interval((0.1,)) is None


def test_equal_values_are_their_own_interval():
    assert bootstrap_interval((0.1, 0.1, 0.1)) == Interval(0.1, 0.1, "constant")


def test_where_bca_is_degenerate_the_percentile_interval_replaces_it_and_is_named():
    # The values differ in their last bit, so the jackknife's are all equal: 0 / 0.
    values = (1.0, 1.0, 1.0, math.nextafter(1.0, 2.0))
    found = bootstrap_interval(values)
    assert found.method == "percentile"
    assert 1.0 <= found.low <= found.high <= values[-1]


@given(SAMPLES)
def test_an_interval_lies_within_the_values(values):
    found = bootstrap_interval(values, resamples=99)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@given(SAMPLES, DICE)
def test_an_interval_moves_with_its_values(values, shift):
    found = bootstrap_interval(values, resamples=99)
    moved = bootstrap_interval([value + shift for value in values], resamples=99)
    assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift))


def test_a_resample_with_the_mean_of_the_values_is_a_tie_however_it_is_rounded():
    # Moved by 0.386, the means of (0, 0, 0.386) and of its resamples differ in their last bits.
    values, shift = (0.0, 0.0, 0.386055), 0.3860551179400663
    found = bootstrap_interval(values)
    moved = bootstrap_interval([value + shift for value in values])
    assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift))


@pytest.mark.parametrize("statistic", [bootstrap_interval, wilcoxon, rank_biserial, decided])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(statistic, value):
    with pytest.raises(ValueError, match=f"got {value}"):
        statistic((0.1, value, 0.2))


# -- signed ranks --------------------------------------------------------------------------------


def _exact_p(differences: Sequence[float]) -> float:
    """Return Pratt's two-sided p over all signs."""
    ranks = stats.rankdata(np.abs(differences))[np.asarray(differences) != 0]
    signs = np.sign([d for d in differences if d != 0])
    sums = np.array(list(itertools.product((-1, 1), repeat=len(ranks)))) @ ranks
    return float((np.abs(sums) >= abs(signs @ ranks) - 1e-9).mean())


def test_wilcoxon_of_the_depression_data_is_the_published_one():
    # V = 40, one-sided p = 0.01953 = 10 / 512; two-sided twice that.
    assert wilcoxon(DEPRESSION) == pytest.approx(2 * 10 / 512, abs=1e-12)


def test_wilcoxon_of_darwins_plants_is_the_published_one():
    assert wilcoxon(PLANTS) == pytest.approx(0.041259765625, abs=1e-12)


def test_wilcoxon_ranks_zeros_along_and_drops_their_ranks():
    # Ranks 1, 2 are the zeros'; the others have 3 to 7, the negative ones 3 + 4 = 7. Of 32 choices
    # of signs {}, 3, 4, 5, 6, 7 and 3 + 4 sum to at most 7: p = 2 * 7 / 32. Had the zeros been
    # discarded, it would be 2 * 5 / 32.
    assert wilcoxon((0, 0, -1, -2, 3, 4, 5)) == pytest.approx(14 / 32, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8).filter(any))
def test_small_samples_are_exact_whatever_their_ties_and_zeros(differences):
    assert wilcoxon(differences) == pytest.approx(_exact_p(differences), abs=1e-9)


def test_larger_samples_with_ties_take_the_normal_distribution():
    # n = 20 with ranks: the two zeros 1.5; ten of size 1, 7.5; eight of size 2, 16.5. W+ with four
    # negative ones of size 1: 6 * 7.5 + 8 * 16.5 = 177, W- = 30. Mean 207 / 2 = 103.5. Variance
    # sum of squared ranks / 4 = (10 * 7.5**2 + 8 * 16.5**2) / 4 = 685.125, root 26.175.
    # z = (177 - 103.5 - 0.5) / 26.175 = 2.7889, p = 0.00529.
    differences = [0.0] * 2 + [1.0] * 6 + [-1.0] * 4 + [2.0] * 8
    assert wilcoxon(differences) == pytest.approx(0.00529, abs=1e-5)


@pytest.mark.parametrize("differences", [(), (0.1,), (0.0, 0.0, 0.0), (1e-15, -1e-15)])
def test_without_two_differences_or_any_that_is_not_zero_there_is_no_p(differences):
    assert wilcoxon(differences) is None


def test_equal_differences_are_ties_although_they_are_rounded_differently():
    # 0.3 - 0.2 and 0.2 - 0.1 differ by 3e-17; as ties they have the ranks 1.5.
    assert 0.3 - 0.2 != 0.2 - 0.1
    exact = _exact_p((0.1, -0.1, 0.5))
    assert wilcoxon((0.3 - 0.2, 0.1 - 0.2, 0.5)) == pytest.approx(exact, abs=1e-12)


@given(st.integers(2, 13))
def test_no_fewer_than_six_patients_can_reach_five_percent(patients):
    smallest = wilcoxon([0.01 * (i + 1) for i in range(patients)])
    assert smallest == pytest.approx(2 / 2**patients)
    assert (smallest <= 0.05) is (patients >= FEWEST_PATIENTS)


@settings(max_examples=40)
@given(st.lists(DICE, min_size=2, max_size=7).filter(any))
def test_p_and_effect_are_those_of_the_opposite_differences_turned_round(differences):
    opposite = [-difference for difference in differences]
    assert wilcoxon(opposite) == pytest.approx(wilcoxon(differences), abs=1e-9)
    assert 0 <= wilcoxon(differences) <= 1
    assert rank_biserial(opposite) == pytest.approx(-rank_biserial(differences), abs=1e-12)
    assert -1 <= rank_biserial(differences) <= 1


def test_the_effect_of_darwins_plants_is_their_rank_sums_difference():
    # W- = 24 (scipy's documentation), W+ = 15 * 16 / 2 - 24 = 96: (96 - 24) / 120.
    assert rank_biserial(PLANTS) == pytest.approx(0.6, abs=1e-12)


def test_the_effect_leaves_zeros_out_and_shares_the_ranks_of_ties():
    # Of 1, -1, 2 the ranks are 1.5, 1.5, 3: (1.5 + 3 - 1.5) / 6.
    assert rank_biserial((0, 1, -1, 2, 0)) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(("differences", "effect"), [((1, 2), 1), ((-1, -2), -1), ((0, 0), 0)])
def test_the_effect_is_whole_where_all_go_one_way_and_none_where_nothing_goes(differences, effect):
    assert rank_biserial(differences) == effect


# -- several tests -------------------------------------------------------------------------------


def test_fishers_combination_of_fishers_own_example():
    # Statistical Methods for Research Workers, section 21.1: the probabilities 0.145, 0.263, 0.087
    # have -ln p of 1.9310, 1.3356, 2.4419, so chi-square is 11.417 with 6 degrees of freedom.
    # Its tail is exp(-x) (1 + x + x**2 / 2) with x = 5.7085: 0.003318 * 23.002 = 0.0763.
    assert fisher_combination((0.145, 0.263, 0.087)) == pytest.approx(0.0763, abs=1e-4)


def test_fishers_combination_of_two_has_a_closed_form():
    # P = c (1 - ln c) with c the product: of 0.1 and 0.1, 0.01 * (1 + 4.60517).
    assert fisher_combination((0.1, 0.1)) == pytest.approx(0.0560517, abs=1e-7)


@given(st.floats(1e-6, 1))
def test_fishers_combination_of_one_is_that_one(p):
    assert fisher_combination((p,)) == pytest.approx(p, rel=1e-9)


def test_a_p_of_zero_combines_to_zero():
    assert fisher_combination((0.0, 0.5)) == 0


def test_nothing_combines_to_nothing():
    with pytest.raises(ValueError, match="got none"):
        fisher_combination(())


def test_holm_multiplies_the_smallest_by_their_number_and_stays_in_order():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06.
    assert holm((0.01, 0.04, 0.03, 0.005)) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_of_five_equally_spaced_is_that_of_r():
    # R: p.adjust(1:5 / 100, "holm"): 0.05 0.08 0.09 0.09 0.09.
    adjusted = holm((0.01, 0.02, 0.03, 0.04, 0.05))
    assert adjusted == pytest.approx((0.05, 0.08, 0.09, 0.09, 0.09))


def test_holm_of_nothing_is_nothing():
    assert holm(()) == ()


@given(P_VALUES)
def test_holm_lies_between_the_given_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1, p * len(p_values))
    by_given = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert by_given == sorted(by_given)


@pytest.mark.parametrize("statistic", [holm, fisher_combination])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_what_is_no_probability_is_refused(statistic, value):
    with pytest.raises(ValueError, match=rf"must lie in \[0, 1\]; got {value}"):
        statistic((0.5, value))


# -- non-inferiority -----------------------------------------------------------------------------


def test_six_equal_patients_are_not_inferior():
    # All differences are 0 > -0.01; of 64 choices of signs one is as extreme: p = 1 / 64.
    found = decided((0.0,) * 6, 0.01)
    assert (found.margin, found.lower, found.shown) == (0.01, 0.0, True)
    assert found.p == pytest.approx(1 / 64, abs=1e-12)


def test_five_patients_show_nothing_for_no_test_of_theirs_could():
    found = decided((0.0,) * 5, 0.01)
    assert found.p == pytest.approx(1 / 32, abs=1e-12)
    assert not found.shown


def test_the_lower_end_of_the_interval_decides():
    differences = (0.004, -0.006, 0.002, -0.004, 0.001, -0.003, 0.005, -0.002)
    lower = bootstrap_interval(differences).low
    assert lower < 0
    assert decided(differences, -lower * 1.01).shown
    assert not decided(differences, -lower * 0.99).shown
    assert decided(differences, 0.01).lower == lower


def test_the_one_sided_p_is_that_of_the_differences_plus_the_margin():
    # differences + 1 is (-1, 2, 3, 4, 5, 6): of 64 choices of signs those with W- <= 1, two.
    found = decided((-2, 1, 2, 3, 4, 5), 1)
    assert found.p == pytest.approx(2 / 64, abs=1e-12)


def test_one_patient_shows_nothing():
    found = decided((0.5,), 0.01)
    assert (found.lower, found.p, found.shown) == (None, None, False)


@pytest.mark.parametrize("margin", [0.0, -0.01, math.nan, math.inf])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(ValueError, match=f"must be a positive number; got {margin}"):
        decided((0.0,) * 6, margin)


@settings(max_examples=30)
@given(st.lists(DICE, min_size=6, max_size=7), st.floats(0.001, 0.5), st.floats(1.1, 3))
def test_what_is_shown_at_a_margin_is_shown_at_a_wider_one(differences, margin, factor):
    interval = bootstrap_interval(differences, resamples=99)
    if non_inferiority(differences, interval, margin).shown:
        assert non_inferiority(differences, interval, margin * factor).shown
