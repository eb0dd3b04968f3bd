import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_iac.search.annealing import cosine_power, polynomial

epochs = st.integers(1, 300)
powers = st.floats(1.001, 10)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        # With p = 2 the share (2^(c+1) - 2)/(4 - 2) is 2^c - 1, c = (1 + cos(pi t/200))/2.
        (0, 0.01),  # c = 1
        (50, 1e-4 + 0.0099 * 0.806946),  # c = 0.853553
        (100, 1e-4 + 0.0099 * 0.414214),  # c = 1/2: sqrt 2 - 1
        (150, 1e-4 + 0.0099 * 0.106840),  # c = 0.146447
        (200, 1e-4),  # c = 0
    ],
)
def test_cosine_power_equals_the_written_out_curve(epoch, expected):
    assert cosine_power(epoch, 200, 0.01, 1e-4) == pytest.approx(expected, rel=1e-5)


def test_cosine_power_with_another_power_equals_the_written_out_curve():
    # p = 3, c = 1/2: (3 sqrt 3 - 3) / 6
    assert cosine_power(5, 10, 1.0, power=3.0) == pytest.approx((3 * math.sqrt(3) - 3) / 6)


@given(epochs, powers)
def test_cosine_power_runs_from_maximum_to_minimum(total, power):
    assert cosine_power(0, total, 0.3, 0.01, power) == pytest.approx(0.3)
    assert cosine_power(total, total, 0.3, 0.01, power) == pytest.approx(0.01)


@given(st.integers(2, 300), powers)
def test_cosine_power_falls_with_every_epoch(total, power):
    rates = [cosine_power(epoch, total, 0.01, 1e-4, power) for epoch in range(total + 1)]
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("epoch", [0, 3, 10, 17, 20])
def test_cosine_power_with_power_one_is_plain_cosine(epoch):
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * epoch / 20)) / 2
    assert cosine_power(epoch, 20, 1.0, 0.1, power=1.0) == pytest.approx(expected)


@given(st.integers(0, 20))
def test_cosine_power_is_continuous_where_the_power_is_one(epoch):
    plain = cosine_power(epoch, 20, 1.0, power=1.0)
    assert cosine_power(epoch, 20, 1.0, power=1 + 1e-6) == pytest.approx(plain, abs=1e-6)


def test_polynomial_equals_nnunets_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    schedule = PolyLRScheduler(optimizer, 0.02, 50)
    for epoch in range(50):
        schedule.step(epoch)
        assert polynomial(epoch, 50, 0.02) == pytest.approx(optimizer.param_groups[0]["lr"])
