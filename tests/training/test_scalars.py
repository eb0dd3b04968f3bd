"""The numbers of an epoch of the search."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.runs.records import TrajectoryRow
from nnunet_iac.search.pruning import Observation, begin, close_epoch, full_mask, idle
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.recorder import search_scalars


def _row(**arrays: Any) -> TrajectoryRow:
    values = {
        "alpha": np.zeros((14, 7)),
        "beta": np.zeros(14),
        "importance": np.zeros((14, 7)),
        "divergence": np.full(14, np.nan),
        "threshold": np.full(14, np.nan),
        "active": full_mask().numpy(),
    }
    return TrajectoryRow(epoch=1, **{**values, **arrays})


def test_before_a_search_everything_is_left_and_p_is_uniform() -> None:
    numbers = search_scalars(_row(), None, CellConfig())
    # Uniform over seven operations: ln 7. Nothing was compared, so there is no divergence.
    assert numbers == {
        "operations_left": 98,
        "edges_settled": 0,
        "entropy": pytest.approx(math.log(7)),
    }


def test_entropy_and_divergence_are_means_over_edges() -> None:
    active = full_mask()
    active[0, 1:] = False  # Settled: entropy 0.
    active[1, 2:] = False  # Two left, with p = (3/4, 1/4).
    alpha = np.zeros((14, 7))
    alpha[1, 0] = math.log(3)
    divergence = np.full(14, 0.02)
    divergence[0] = np.nan
    divergence[1] = 0.15
    settings = Settings()
    state = begin(
        Observation(0, torch.from_numpy(alpha), torch.zeros(14)), settings.stability, settings.cell
    )
    row = _row(alpha=alpha, active=active.numpy(), divergence=divergence)
    numbers = search_scalars(row, state, settings.cell)
    two = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert numbers["entropy"] == pytest.approx((0 + two + 12 * math.log(7)) / 14)
    assert numbers["divergence"] == pytest.approx((0.15 + 12 * 0.02) / 13)
    assert numbers["operations_left"] == 98  # Of the state, which is the one after the prune.


def test_an_undefined_p_leaves_the_entropy_out() -> None:
    alpha = np.ones((14, 7))
    alpha[:, 0] = -1  # With beta 1 its printed quotient is -1/5 on every edge.
    row = _row(alpha=alpha, beta=np.ones(14))
    assert "entropy" not in search_scalars(row, None, CellConfig(importance="raw-strict"))


@given(seed=st.integers(0, 10_000), epochs=st.integers(1, 8))
def test_the_numbers_stay_in_their_ranges_throughout_a_search(seed: int, epochs: int) -> None:
    settings = Settings(preset="literal", warmup_epochs=0)
    generator = torch.Generator().manual_seed(seed)
    state = begin(
        Observation(0, torch.zeros(14, 7), torch.zeros(14)), settings.stability, settings.cell
    )
    for epoch in range(1, epochs + 1):
        alpha = torch.randn(14, 7, generator=generator)
        observation = Observation(epoch, alpha, torch.randn(14, generator=generator))
        before = state.active
        state, decision = close_epoch(
            state, observation, settings.stability, settings.cell, settings.schedule.search_epochs
        )
        row = _row(
            alpha=observation.alpha.numpy(),
            beta=observation.beta.numpy(),
            active=decision.active.numpy(),
            divergence=decision.divergence.numpy(),
        )
        numbers = search_scalars(row, state, settings.cell)
        most = before.sum(dim=1).double().log().mean().item()
        assert -1e-12 <= numbers["entropy"] <= most + 1e-12
        assert 14 <= numbers["operations_left"] == 14 * max(1, 7 - epoch)
        assert numbers["edges_settled"] == (14 if epoch >= 6 else 0)
        assert 0 <= numbers.get("divergence", 0.0) <= math.log(2)
        assert ("divergence" in numbers) == (epoch <= 6)


def test_a_full_search_compares_nothing() -> None:
    observation = Observation(3, torch.zeros(14, 7), torch.zeros(14))
    decision = idle(observation, Settings().cell)
    row = _row(divergence=decision.divergence.numpy(), active=decision.active.numpy())
    state = begin(observation, Settings().stability, Settings().cell)
    assert search_scalars(row, state, CellConfig()).keys() == {
        "operations_left",
        "edges_settled",
        "entropy",
    }
