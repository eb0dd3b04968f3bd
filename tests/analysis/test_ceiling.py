"""The ceiling of any search: known variances come back, and noise alone is no spread."""

import numpy as np
import pytest

from nnunet_iac.analysis.scores.ceiling import Ceiling, ceiling, expected_maximum, two_way
from nnunet_iac.analysis.scores.statistics import Interval


def test_the_analysis_is_that_of_a_worked_example() -> None:
    # By hand: cell means 2, 4, 9, seed means 4, 6; residuals 0, 0, 1, -1, -1, 1.
    dice = np.array([[1.0, 3.0], [4.0, 4.0], [7.0, 11.0]])
    found = two_way(dice)
    # Sums of squares: cells 2 * (9 + 1 + 16) = 52, seeds 3 * 2 = 6, rest 4; degrees 2, 1 and 2.
    assert found.mean == pytest.approx(5)
    assert found.noise**2 == pytest.approx(2)
    assert found.spread**2 == pytest.approx((26 - 2) / 2)
    assert found.p == pytest.approx(1 / (1 + 26 / 2))  # P(F(2, 2) > f) = 1 / (1 + f).
    assert found.interval.low < found.spread < found.interval.high


def test_what_a_seed_does_to_all_cells_is_neither_spread_nor_noise() -> None:
    rng = np.random.default_rng(0)
    dice = rng.normal(0.87, 0.002, (8, 3))
    shifted = two_way(dice + np.array([0.0, 0.01, -0.02]))
    assert shifted.spread == pytest.approx(two_way(dice).spread)
    assert shifted.noise == pytest.approx(two_way(dice).noise)


def test_known_variances_come_back_and_are_in_the_interval_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    found = [
        two_way(rng.normal(0, 0.002, (8, 1)) + rng.normal(0, 0.001, (8, 2))) for _ in range(400)
    ]
    assert np.mean([each.spread**2 for each in found]) ** 0.5 == pytest.approx(0.002, rel=0.05)
    assert np.mean([each.noise**2 for each in found]) ** 0.5 == pytest.approx(0.001, rel=0.05)
    inside = [each.interval.low <= 0.002 <= each.interval.high for each in found]
    assert 0.92 <= np.mean(inside) <= 1.0


def test_cells_that_do_not_differ_have_no_spread_and_nothing_to_gain() -> None:
    same = two_way(np.full((4, 2), 0.9))
    assert (same.spread, same.noise, same.p) == (0, 0, 1)
    assert same.best_of(16) == same.found_of(16) == 0
    assert same.runs_to_show(same.best_of(16)) is None


def test_the_expected_maximum_is_that_of_tables_of_order_statistics() -> None:
    # Harter 1961: of 2, 1 / sqrt(pi); of 10, 1.53875.
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(np.pi**-0.5)
    assert expected_maximum(10) == pytest.approx(1.53875, abs=1e-5)


def test_runs_that_show_a_gain_grow_with_the_noise_and_with_the_square_of_its_inverse() -> None:
    found = Ceiling(8, 2, 0.87, 0.001, Interval(0, 0.002), 0.002, 0.5)
    # (1.96 + 0.84)^2 * (1 + 2 * 4) / 1 = 70.6
    assert found.runs_to_show(0.001) == 71
    assert found.runs_to_show(0.002) == 18
    assert found.at_upper_end.best_of(16) == pytest.approx(2 * found.best_of(16))
    # (1.96 + 0.84)^2 * (4 + 2 * 4) / 1 = 94.2
    assert found.at_upper_end.runs_to_show(0.001) == 95
    assert found.found_of(16) == pytest.approx(found.best_of(16) / 5**0.5)


def test_a_study_is_analysed_by_patient_and_a_missing_run_is_refused() -> None:
    def run(method: str, seed: int, a: float) -> dict:
        dice = {"p1_a": a, "p1_b": a, "p2_a": 0.8}
        return {"method": method, "seed": seed, "dice": dice, "patient_pattern": r"p\d"}

    runs = [run("x", 0, 0.9), run("x", 1, 0.9), run("y", 0, 0.7), run("y", 1, 0.7)]
    document = {"methods": ["x", "y"], "runs": [*runs, {**runs[0], "method": "reference"}]}
    assert ceiling(document).mean == pytest.approx(0.8)
    assert ceiling(document).noise == 0
    with pytest.raises(ValueError, match="y lacks seed 1"):
        ceiling({**document, "runs": runs[:3]})
    with pytest.raises(ValueError, match="two cells and two seeds"):
        ceiling({**document, "methods": ["x"]})
