"""Every stability test against its definition, and searches that end by it."""

import math

import pytest
import torch
from scipy import stats

from nnunet_iac.search.pruning import (
    Observation,
    advance,
    begin,
    close_epoch,
    drift,
    full_mask,
    mask,
    rank,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import OPERATIONS


def histories(*distributions):
    """Return a history in which every edge saw the given distributions, padded with zeros."""
    rows = [[*values, *[0.0] * (7 - len(values))] for values in distributions]
    return torch.tensor(rows, dtype=torch.float64)[:, None].expand(-1, 14, -1).clone()


def first(count):
    """Return the mask in which every edge has its first operations left."""
    active = torch.zeros(14, 7, dtype=torch.bool)
    active[:, :count] = True
    return active


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        ([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], 0),
        ([0.5, 0.3, 0.2], [0.3, 0.5, 0.2], 1 / 3),
        ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 1),
        ([0.4, 0.3, 0.3], [0.5, 0.3, 0.2], 1 / 3),
    ],
)
def test_rank_is_the_share_of_pairs_that_changed_their_order(before, after, distance):
    found = rank(histories(before, after), first(3))
    assert found.tolist() == pytest.approx([distance] * 14)


def test_rank_without_ties_is_kendalls_tau():
    generator = torch.Generator().manual_seed(0)
    history = torch.rand(2, 14, 7, generator=generator, dtype=torch.float64)
    found = rank(history, full_mask())
    for edge in range(14):
        tau = stats.kendalltau(history[0, edge], history[1, edge]).statistic
        assert found[edge].item() == pytest.approx((1 - tau) / 2)


def test_pruned_operations_have_no_rank():
    history = histories([0.6, 0.4, 0.0, 0.0], [0.7, 0.3, 0.0, 0.0])
    assert rank(history, first(2)).tolist() == [0] * 14
    assert rank(history, first(1)).tolist() == [0] * 14


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        ([0.5, 0.3, 0.2], [0.2, 0.7, 0.1], 0),
        ([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], 2 / 3),
        ([0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.3, 0.2], 1 / 2),
    ],
)
def test_mask_is_the_hamming_distance_of_what_would_be_kept(before, after, distance):
    found = mask(histories(before, after), first(len(before)))
    assert found.tolist() == pytest.approx([distance] * 14)


def test_drift_is_twice_a_one_sided_t_test_on_what_the_least_operation_loses():
    generator = torch.Generator().manual_seed(1)
    alpha = torch.randn(6, 14, 7, generator=generator, dtype=torch.float64).cumsum(0)
    history = torch.softmax(alpha, dim=2)
    found = drift(history, full_mask())
    for edge in range(14):
        order = torch.argsort(alpha[-1, edge])
        x = alpha[:, edge, order[0]] - alpha[:, edge, order[1]]
        expected = stats.ttest_1samp(x.diff().numpy(), 0, alternative="less").pvalue
        assert found[edge].item() == pytest.approx(min(1, 2 * expected), rel=1e-6)


@pytest.mark.parametrize("left", [2, 3, 4, 7])
def test_drift_is_no_more_common_than_its_level_where_nothing_drifts(left):
    generator = torch.Generator().manual_seed(2)
    below = 0
    for _ in range(100):
        alpha = torch.randn(8, 14, 7, generator=generator, dtype=torch.float64).cumsum(0)
        alpha -= alpha[:1].clone()  # All begin alike, as in a search.
        history = torch.softmax(alpha.masked_fill(~first(left), -torch.inf), dim=2)
        below += int((drift(history, first(left)) < 0.05).sum())
    assert below / 1400 < 0.065


def test_drift_says_nothing_before_two_increments_and_is_certain_without_spread():
    falling = [torch.softmax(torch.tensor([-k * 0.1, 0.0, 1.0]), 0).tolist() for k in range(4)]
    assert drift(histories(*falling[:2]), first(3)).tolist() == [1] * 14
    assert drift(histories(*falling), first(3)).tolist() == pytest.approx([0] * 14, abs=1e-6)
    assert drift(histories(*[[0.2, 0.8]] * 4), first(2)).tolist() == [1] * 14


@pytest.mark.parametrize("test", ["rank", "mask", "drift"])
def test_an_undefined_distribution_has_no_distance(test):
    tests = {"rank": rank, "mask": mask, "drift": drift}
    history = histories([0.5, 0.5], [0.4, 0.6], [0.3, 0.7])
    history[-1, 3] = math.nan
    found = tests[test](history, first(2))
    assert found.isnan().nonzero().flatten().tolist() == [3]


def path(epochs, drift=0.1):
    """Return what is seen where every operation drifts steadily, the first one downwards most."""
    alpha = torch.arange(7, dtype=torch.float64).expand(14, 7) * drift
    return [Observation(15 + epoch, epoch * alpha, torch.zeros(14)) for epoch in range(epochs + 1)]


@pytest.mark.parametrize(
    ("test", "epochs"),
    # The order appears with the first epoch; two increments have been seen after the second.
    [("rank", 1 + 6 * 2), ("mask", 6 * 5), ("drift", 1 + 6)],
)
def test_a_steady_search_ends_as_soon_as_each_test_can(test, epochs):
    settings = Settings(stability_test=test)
    # The first operation, which is the least here, is also the one that ties would prune.
    assert settings.soonest_end == 15 + epochs + (test == "mask")
    seen = path(100)
    state = begin(seen[0], settings.stability, settings.cell)
    events = []
    for observation in seen[1:]:
        state, decision = close_epoch(
            state, observation, settings.stability, settings.cell, settings.schedule.search_epochs
        )
        events += decision.events
        if state.finished:
            break
    assert observation.epoch == 15 + epochs
    assert [e.operation for e in events if (e.source, e.target) == (0, 2)] == list(OPERATIONS[:6])


@pytest.mark.parametrize("test", ["rank", "mask"])
def test_an_edge_that_changes_its_mind_waits(test):
    settings = Settings(stability_test=test, patience=2)
    alpha = torch.arange(7, dtype=torch.float64).expand(14, 7).clone()
    state = begin(Observation(15, alpha, torch.zeros(14)), settings.stability, settings.cell)
    for epoch in range(16, 22):
        alpha[0] = alpha[0].flip(0)
        state, decision = advance(
            state, Observation(epoch, alpha, torch.zeros(14)), settings.stability, settings.cell
        )
        assert state.active[0].all()
    assert decision.threshold[0] == settings.stability.stability_threshold
    assert state.active[1:].sum(dim=1).tolist() == [4] * 13


def test_a_threshold_says_how_much_change_is_still_stable():
    settings = Settings(stability_test="rank", stability_threshold=0.2, patience=1)
    alpha = torch.arange(7, dtype=torch.float64).expand(14, 7).clone()
    state = begin(Observation(15, alpha, torch.zeros(14)), settings.stability, settings.cell)
    alpha[:, [5, 6]] = alpha[:, [6, 5]]
    state, _ = advance(
        state, Observation(16, alpha, torch.zeros(14)), settings.stability, settings.cell
    )
    assert state.active.sum(dim=1).tolist() == [6] * 14
