import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_iac.width.consensus import consensus
from nnunet_iac.width.selection import (
    RULES,
    WidthDecision,
    boundary_warnings,
    choices,
    curve,
    dispersion,
    slope,
)

CAPS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)

# Published figures: |S~(cap) - S~(cap/2)| for cap 2, 4, ..., 512, then the picks of both rules.
PUBLISHED = {
    "BUS-BRA": ((0.468, 1.000, 0.252, 0.375, 0.097, 0.298, 0.303, 0.123, 0.241), 8, 8),
    "EchoNet": ((0.286, 1.000, 0.000, 0.343, 0.234, 0.149, 0.034, 0.366, 0.131), 8, 8),
    "ISIC": ((0.671, 0.149, 0.116, 0.022, 0.019, 0.056, 0.067, 0.019, 0.026), 8, 8),
    "FIVES": ((0.603, 0.291, 0.038, 0.034, 0.003, 0.034, 0.038, 0.041, 0.058), 8, 16),
    "BraTS": ((0.177, 0.670, 0.727, 0.267, 0.029, 0.111, 0.103, 0.008, 0.053), 16, 16),
    "ACDC": ((1.000, 0.678, 0.235, 0.240, 0.071, 0.142, 0.142, 0.044, 0.093), 8, 16),
}
ISIC_PARAMETERS = (33472396, 11574156, 3686924, 1110412, 314220, 79548, 20388, 5352, 1470, 438)
PARAMETERS = {
    "BUS-BRA": (33471820, 11573580, 3686348, 1109836, 313644, 79260, 20244, 5280, 1434, 420),
    "EchoNet": (7766344, 5143368, 2076872, 706504, 212328, 53688, 13728, 3588, 978, 288),
    "ISIC": ISIC_PARAMETERS,
    "FIVES": ISIC_PARAMETERS,
    "BraTS": (20620943, 8360079, 2882959, 909327, 264015, 66991, 17247, 4567, 1275, 391),
    "ACDC": (20621076, 8359956, 2882580, 908756, 263316, 66644, 17076, 4484, 1236, 374),
}

STEEP = np.array([100, 101, 102, 103, 104, 105, 106, 96, 60, 10.0])
"""Flat but for its narrow end: `curve` picks 8."""

EARLY = np.array([100, 101, 102, 60, 20, 10, 9, 8, 7, 6.0])
"""Falling from the first: `curve` picks 256."""

LESS_STEEP = np.array([100, 101, 102, 103, 104, 105, 106, 40, 20, 10.0])
"""`curve` picks 16."""

scores_of_ten = arrays(float, 10, elements=st.floats(0.125, 8, width=32), unique=True)


def _scores(steps):
    """Return scores, wide to narrow, that fall by the given steps from cap 1 upwards."""
    return 1 + np.concatenate([[0], np.cumsum(steps)])[::-1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_curve_picks_what_was_published(name):
    steps, pick, _ = PUBLISHED[name]
    assert curve(CAPS, _scores(steps)).pick == pick


@pytest.mark.parametrize("name", PUBLISHED)
def test_slope_picks_what_was_published(name):
    steps, _, pick = PUBLISHED[name]
    assert slope(CAPS, _scores(steps), PARAMETERS[name]).pick == pick


def test_curve_of_five_candidates_is_computed_by_hand():
    # Scores 9 8 5 1 0 wide to narrow: d = 1/9 3/9 4/9 1/9. Hinges k = 1..4, picking 16 8 4 2:
    # k=1: (1+3+4+1)/36 - 1/9 = 5/36      k=2: (3+4+1)/27 - (1+3)/18 = 2/27
    # k=3: (4+1)/18 - (1+3+4)/27 = -1/54  k=4: 1/9 - (1+3+4+1)/36 = -5/36
    # The published range is k = 2 alone.
    scores = np.array([9, 8, 5, 1, 1e-12])
    published = curve((16, 8, 4, 2, 1), scores)
    assert (published.pick, published.runner_up, published.range) == (8, None, (8, 8))
    wider = curve((16, 8, 4, 2, 1), scores, within=(16, 1))
    assert (wider.pick, wider.runner_up, wider.range) == (16, 8, (16, 2))
    assert (
        "by 0.250 of its range from one candidate to the next, above it by 0.111"
        in (wider.reasons[0])
    )
    assert "cap 8 is 0.065 weaker" in wider.reasons[1]  # 5/36 - 2/27 = 7/108


def test_slope_of_seven_candidates_is_computed_by_hand():
    # Narrow to wide S = 1 2 4 5 5 6 8 over log10(parameters) 0..6: y = 1 2 1 0 1 2 at 1..6,
    # slopes 1 -1 -1 1 1, r = 2 0 2 0. k=2: 2 - 2/3 = 4/3; k=3: (2+0)/2 - (2+0)/2 = 0;
    # k=4: (2+0+2)/3 - 0 = 4/3. Points 2..4 are the caps 8 16 32; the first of equals wins.
    caps, scores = (64, 32, 16, 8, 4, 2, 1), np.array([8, 6, 5, 5, 4, 2, 1.0])
    parameters = [10**power for power in range(6, -1, -1)]
    published = slope(caps, scores, parameters)
    assert (published.pick, published.runner_up, published.range) == (8, 16, (16, 8))
    wider = slope(caps, scores, parameters, within=(64, 1))
    assert (wider.pick, wider.runner_up, wider.range) == (8, 32, (32, 8))


def test_dispersion_takes_the_smallest_cap_before_the_spread_first_exceeds_tau():
    # ln S alternates between plus and minus a: its standard deviation is a * sqrt(16/15).
    # Spread .10 .31 .10 .41 .52: cap 4 is behind a wider one that is not steady.
    spreads = np.array([0.1, 0.3, 0.1, 0.4, 0.5])
    signs = np.where(np.arange(16) % 2, 1, -1)[:, None]
    scores = np.exp(signs * spreads)
    decision = dispersion((16, 8, 4, 2, 1), scores)
    assert (decision.pick, decision.runner_up) == (16, 8)
    assert "at cap 16 ln S spreads by 0.103" in decision.reasons[0]
    assert "at cap 8 it spreads by 0.310" in decision.reasons[1]


def warnings_of(decision: WidthDecision) -> tuple[str, ...]:
    return boundary_warnings(decision.rule, decision.pick, decision.range)


def test_a_pick_on_the_boundary_is_a_warning_that_names_the_range():
    (warning,) = warnings_of(curve(CAPS, STEEP))
    assert "the pick 8 is the smallest cap" in warning
    assert "(256 to 8)" in warning
    (warning,) = warnings_of(curve(CAPS, EARLY))
    assert "the pick 256 is the largest cap" in warning
    assert warnings_of(curve(CAPS, LESS_STEEP)) == ()


@given(scores_of_ten, st.floats(0.01, 100))
def test_a_rules_pick_does_not_depend_on_the_unit_of_the_scores(scores, unit):
    assert curve(CAPS, scores).range == curve(CAPS, unit * scores).range == (256, 8)
    assert slope(CAPS, scores, ISIC_PARAMETERS).range == (128, 8)
    # Powers of two scale without rounding.
    assert curve(CAPS, scores).pick == curve(CAPS, 4 * scores).pick
    assert (
        slope(CAPS, scores, ISIC_PARAMETERS).pick == slope(CAPS, 4 * scores, ISIC_PARAMETERS).pick
    )


@given(scores_of_ten)
def test_a_pick_and_its_runner_up_lie_in_the_range_and_differ(scores):
    for decision in (curve(CAPS, scores), slope(CAPS, scores, ISIC_PARAMETERS)):
        largest, smallest = decision.range
        assert smallest <= decision.pick <= largest
        assert smallest <= decision.runner_up <= largest
        assert decision.pick != decision.runner_up


def test_the_pick_is_the_most_frequent_of_the_single_seeds():
    found = consensus("curve", CAPS, ISIC_PARAMETERS, np.stack([STEEP, STEEP, STEEP, LESS_STEEP]))
    assert found.picks == (8, 8, 8, 16)
    assert (found.pick, found.modal, found.agreement, found.runner_up) == (8, 8, 0.75, 16)
    assert "single seeds pick 8 (3), 16 (1)" in found.reasons


def test_all_seeds_together_are_their_geometric_mean_and_a_second_opinion():
    # EARLY, EARLY and STEEP**3 / EARLY**2 have the geometric mean STEEP, but vote otherwise.
    seeds = np.stack([EARLY, EARLY, STEEP**3 / EARLY**2])
    found = consensus("curve", CAPS, ISIC_PARAMETERS, seeds)
    assert found.together.pick == 8
    assert found.pick == found.modal == 256
    assert "single seeds pick mostly 256, all seeds together 8: compare both" in found.warnings
    assert curve(CAPS, seeds.mean(axis=0)).pick != 8


def test_of_equally_frequent_picks_the_widest_is_modal_and_the_tie_a_warning():
    found = consensus("curve", CAPS, ISIC_PARAMETERS, np.stack([STEEP, EARLY]))
    assert (found.pick, found.agreement, found.runner_up) == (256, 0.5, 8)
    assert any("of the 2 seeds share the pick 256" in warning for warning in found.warnings)
    assert any(
        "single seeds pick 256 (1), 8 (1); use more" in warning for warning in found.warnings
    )


@pytest.mark.parametrize(("eights", "warned"), [(3, True), (4, False)])
def test_fewer_than_four_fifths_of_the_seeds_behind_the_pick_are_a_warning(eights, warned):
    seeds = np.stack([STEEP] * eights + [LESS_STEEP])
    warnings = consensus("curve", CAPS, ISIC_PARAMETERS, seeds).warnings
    wanted = (
        f"fewer than 80% of the {eights + 1} seeds share the pick 8: single seeds pick 8 "
        f"({eights}), 16 (1); use more --seeds"
    )
    assert (wanted in warnings) is warned


def test_the_reasons_of_all_seeds_together_name_all_seeds():
    found = consensus("curve", CAPS, ISIC_PARAMETERS, np.stack([STEEP, STEEP]))
    assert found.reasons[0] == "single seeds pick 8 (2)"
    assert found.reasons[1:] == tuple(
        f"all seeds together: {reason}" for reason in found.together.reasons
    )


def test_seeds_that_agree_leave_the_rules_own_runner_up_and_the_boundarys_warning():
    found = consensus("curve", CAPS, ISIC_PARAMETERS, np.stack([STEEP, 2 * STEEP]))
    assert (found.modal, found.agreement) == (8, 1.0)
    assert found.runner_up == curve(CAPS, STEEP).runner_up
    assert found.warnings == warnings_of(curve(CAPS, STEEP))


def test_one_seed_is_the_published_procedure_and_a_warning():
    found = consensus("slope", CAPS, PARAMETERS["ACDC"], _scores(PUBLISHED["ACDC"][0])[None])
    assert (found.pick, found.picks, found.together.pick) == (16, (16,), 16)
    assert "--seeds 8" in found.warnings[-1]


def test_dispersion_decides_on_all_seeds_and_leaves_each_out_once():
    # Without its one wild seed the narrow caps are steady.
    scores = np.ones((17, 5)) * np.exp(0.01 * np.arange(17)[:, None])
    scores[3, 2:] *= 20
    found = consensus("dispersion", (16, 8, 4, 2, 1), (5, 4, 3, 2, 1), scores)
    assert (found.pick, found.runner_up) == (8, 1)
    assert found.picks == tuple(1 if seed == 3 else 8 for seed in range(17))
    assert found.agreement == pytest.approx(16 / 17)
    assert found.reasons[0] == "with one seed left out, the picks are 8 (16), 1 (1)"


def test_dispersion_survives_a_seed_without_which_nothing_is_steady():
    # ln S of cap 16 is +-a sixteen times and once 0: its standard deviation is a = .249, below tau
    # = .25. Without the 0 it is a sqrt(16/15) = .257; without one of the others a sqrt(239/240).
    signs = np.array([1, -1] * 8 + [0])[:, None]
    scores = np.exp(signs * np.array([0.249, 0.5, 0.5, 0.5, 0.5]))
    found = consensus("dispersion", (16, 8, 4, 2, 1), (5, 4, 3, 2, 1), scores)
    assert found.picks == (16,) * 16 + (None,)
    assert (found.pick, found.modal, found.runner_up) == (16, 16, 8)
    assert found.agreement == pytest.approx(16 / 17)
    assert found.reasons[0] == "with one seed left out, the picks are 16 (16), none (1)"


def test_dispersion_counts_subsets_without_a_pick_as_disagreement():
    # Sixteen seeds at 0 but two at +-a: the standard deviation is a sqrt(2/15), and without a 0
    # a sqrt(2/14); a = .67 puts tau = .25 between them.
    scores = np.exp(np.array([0.67, -0.67] + [0.0] * 14)[:, None] * np.ones(5))
    found = consensus("dispersion", (16, 8, 4, 2, 1), (5, 4, 3, 2, 1), scores)
    assert found.picks == (1, 1) + (None,) * 14
    assert (found.pick, found.agreement) == (1, 2 / 16)
    assert any("share the pick 1: with one seed left out" in w for w in found.warnings)
    assert any("the picks are none (14), 1 (2); use more" in w for w in found.warnings)


def test_dispersion_picks_within_a_range():
    spreads = np.array([0.1, 0.1, 0.1, 0.1, 0.5])
    scores = np.exp(np.where(np.arange(16) % 2, 1, -1)[:, None] * spreads)
    caps = (16, 8, 4, 2, 1)
    assert dispersion(caps, scores).pick == 2
    found = consensus("dispersion", caps, (5, 4, 3, 2, 1), scores, within=(8, 4))
    assert (found.pick, found.runner_up, found.together.range) == (4, 8, (8, 4))
    assert set(found.picks) == {4}
    with pytest.raises(ValueError, match=r"at cap 1 it is 0\.516: .* a larger cap to begin"):
        dispersion(caps, scores, within=(1, 1))


def test_the_picks_of_single_seeds_and_of_all_are_within_the_range():
    seeds = np.stack([STEEP, EARLY])
    found = consensus("curve", CAPS, ISIC_PARAMETERS, seeds, within=(128, 2))
    assert found.together.range == (128, 2)
    assert found.picks == tuple(curve(CAPS, seed, within=(128, 2)).pick for seed in seeds)
    # STEEP falls by 10, 36 and 50 of 96 at the end: at cap 2 by .521 against (96 + 6) / 96 / 9 =
    # .118 above, at cap 4 by .448 against .068. Of these two differences the first is larger.
    assert found.picks == (2, 128)
    found = consensus("slope", CAPS, ISIC_PARAMETERS, seeds, within=(256, 64))
    assert found.together.range == (256, 64)


@pytest.mark.parametrize(
    ("rule", "published", "possible"),
    [
        ("curve", (256, 128, 64, 32, 16, 8), (512, 256, 128, 64, 32, 16, 8, 4, 2)),
        ("slope", (128, 64, 32, 16, 8), (256, 128, 64, 32, 16, 8)),
        ("dispersion", CAPS, CAPS),
    ],
)
def test_the_choices_of_a_rule_are_published_or_within_a_range(rule, published, possible):
    assert choices(rule, CAPS) == published
    assert choices(rule, CAPS, (600, 1)) == possible


@pytest.mark.parametrize(("rule", "fewest"), [("curve", 5), ("slope", 6)])
def test_a_single_cap_to_pick_is_a_warning_that_there_was_no_choice(rule, fewest):
    caps = CAPS[-fewest:]
    scores = np.array([9, 8, 7, 5, 3, 1.0])[-fewest:]
    found = consensus(rule, caps, PARAMETERS["ISIC"][-fewest:], np.stack([scores, scores]))
    (warning,) = found.warnings
    assert f"8 is the only cap that the rule {rule} can pick" in warning
    assert "there was no choice" in warning


NEEDED = {"curve": 5, "slope": 6, "dispersion": 5}


@pytest.mark.parametrize("rule", RULES)
def test_too_few_candidates_are_refused_by_number(rule):
    fewest = NEEDED[rule]
    caps = CAPS[-(fewest - 1) :]
    scores = np.ones((16, len(caps))) * np.arange(1, len(caps) + 1)
    with pytest.raises(ValueError, match=f"at least {fewest} candidates.* got {fewest - 1} caps"):
        consensus(rule, caps, range(len(caps), 0, -1), scores)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("wrong", "name"), [(np.nan, "nan"), (np.inf, "inf"), (0.0, "0.0")])
def test_scores_that_are_not_finite_and_positive_are_refused_with_their_cap(rule, wrong, name):
    scores = np.tile(STEEP, (16, 1))
    scores[5, 4] = wrong
    with pytest.raises(ValueError, match=f"at cap 32 one is {name}"):
        consensus(rule, CAPS, ISIC_PARAMETERS, scores)


@pytest.mark.parametrize("rule", ["curve", "slope"])
def test_a_flat_curve_is_refused_with_its_value(rule):
    with pytest.raises(ValueError, match=r"all 10 are 2\.5"):
        consensus(rule, CAPS, ISIC_PARAMETERS, np.full((2, 10), 2.5))


def test_caps_in_another_order_are_refused():
    with pytest.raises(ValueError, match="wide to narrow; got 1, 2, 4"):
        curve(CAPS[::-1], STEEP)


def test_parameters_that_do_not_fall_are_refused():
    with pytest.raises(ValueError, match=r"fall with the caps .*; got 7, 7"):
        slope(CAPS, STEEP, [7] * 10)


def test_a_range_with_nothing_in_it_is_refused():
    with pytest.raises(ValueError, match=r"of its 512, 256, .* none is within 3 to 3"):
        curve(CAPS, STEEP, within=(3, 3))


def test_dispersion_needs_sixteen_seeds():
    with pytest.raises(ValueError, match="at least 16 seeds; got 15"):
        dispersion(CAPS, np.tile(STEEP, (15, 1)))


def test_a_spread_that_is_large_everywhere_is_refused_with_its_value():
    scores = np.exp(np.where(np.arange(16) % 2, 0.5, -0.5))[:, None] * np.ones(5)
    with pytest.raises(ValueError, match=r"at cap 16 it is 0\.516"):  # .5 * sqrt(16/15)
        dispersion((16, 8, 4, 2, 1), scores)


@pytest.mark.parametrize(
    ("rule", "seeds", "message"),
    [("knee", 2, "one of curve, slope, dispersion; got 'knee'"), ("curve", 0, "seed; got 0")],
)
def test_an_unknown_rule_and_no_seeds_are_refused(rule, seeds, message):
    with pytest.raises(ValueError, match=message):
        consensus(rule, CAPS, ISIC_PARAMETERS, np.ones((seeds, 10)))
