import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nnunet_iac.search.pruning import (
    Observation,
    advance,
    begin,
    best_operations,
    close_epoch,
    force,
    full_mask,
    idle,
)
from nnunet_iac.search.relaxation import importance
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS

WARMUP = 15
seeds = st.integers(0, 2**31)
scales = st.floats(0, 50)
modes = st.sampled_from(["softmax", "raw", "raw-strict"])
few = hypothesis_settings(max_examples=25)


def observation(epoch, alpha=None, beta=None):
    alpha = torch.zeros(14, 7) if alpha is None else alpha
    return Observation(epoch, alpha, torch.zeros(14) if beta is None else beta)


def random_path(seed, scale, epochs, beta=None):
    """Return the observations from the end of the warm-up on, each epoch drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    return [
        observation(
            WARMUP + epoch,
            scale * torch.randn(14, 7, generator=generator),
            torch.randn(14, generator=generator) if beta is None else beta,
        )
        for epoch in range(epochs + 1)
    ]


def search(path, settings):
    """Return the states and decisions of a search along a path, up to its end."""
    states, decisions = [begin(path[0], settings.stability, settings.cell)], []
    for seen in path[1:]:
        state, decision = advance(states[-1], seen, settings.stability, settings.cell)
        states.append(state)
        decisions.append(decision)
        if state.finished:
            break
    return states, decisions


def row(values, others=0.0):
    """Return an alpha whose edge 0->2 has `values`."""
    alpha = torch.full((14, 7), others, dtype=torch.float64)
    alpha[0] = torch.tensor(values, dtype=torch.float64)
    return alpha


@given(seeds, scales)
@few
def test_literal_ends_at_epoch_21_along_any_path(seed, scale):
    states, decisions = search(random_path(seed, scale, 7), Settings(preset="literal"))
    assert WARMUP + len(decisions) == 21
    assert [int(state.active.sum()) for state in states] == [14 * n for n in (7, 6, 5, 4, 3, 2, 1)]


@given(seeds, scales)
@few
def test_paper_ends_at_epoch_51_along_any_path(seed, scale):
    settings = Settings(preset="paper")
    states, decisions = search(random_path(seed, scale, 37), settings)
    assert states[-1].finished
    assert WARMUP + len(decisions) == 51
    assert [len(decision.events) for decision in decisions] == ([0] * 5 + [14]) * 6


@given(seeds, scales, st.integers(1, 8))
@few
def test_a_threshold_of_one_prunes_every_so_many_checks_along_any_path(seed, scale, checks):
    settings = Settings(stability_threshold=1.0, patience=checks)
    states, decisions = search(random_path(seed, scale, 6 * checks + 1), settings)
    assert states[-1].finished
    assert len(decisions) == 6 * checks


@given(seeds, scales)
@few
def test_the_sign_of_beta_changes_no_prune_of_the_softmax_importance(seed, scale):
    settings = Settings(preset="adaptive", stability_threshold=0.1)
    path = random_path(seed, scale, 12)
    mirrored = [replace(seen, beta=-seen.beta) for seen in path]
    for state, other in zip(search(path, settings)[0], search(mirrored, settings)[0], strict=True):
        assert torch.equal(state.active, other.active)


@given(seeds, scales, modes, st.floats(1e-6, 1), st.booleans())
@few
def test_an_edge_loses_at_most_one_operation_a_time_and_never_its_last(
    seed, scale, mode, theta, reset
):
    settings = Settings(
        importance=mode, stability_threshold=theta, patience=1, reset_threshold=reset
    )
    states, decisions = search(random_path(seed, scale, 12), settings)
    for before, after, decision in zip(states, states[1:], decisions, strict=False):
        removed = before.active & ~after.active
        assert not (after.active & ~before.active).any()
        assert removed.sum(dim=1).max() <= 1
        assert after.active.any(dim=1).all()
        logged = [((e.source, e.target), e.operation) for e in decision.events]
        expected = [(EDGES[i], OPERATIONS[o]) for i, o in removed.nonzero().tolist()]
        assert logged == expected


@given(seeds, st.floats(0, 5))
@few
def test_our_own_prunes_are_no_drift(seed, scale):
    still = random_path(seed, scale, 0)[0]
    path = [replace(still, epoch=WARMUP + epoch) for epoch in range(7)]
    states, decisions = search(path, Settings(preset="literal"))
    assert states[-1].finished
    for decision in decisions:
        assert (decision.divergence < 1e-14).all()


def test_drift_is_measured_against_the_previous_epoch_over_the_survivors():
    settings = Settings(preset="literal")
    half = row([0.0, math.log(3), 0.0, 0.0, 0.0, 0.0, 0.0])
    quarter = row([0.0, 0.0, math.log(3), 0.0, 0.0, 0.0, 0.0])
    state = begin(observation(15), settings.stability, settings.cell)
    for epoch in range(16, 20):
        state, _ = advance(
            state,
            observation(epoch, row([1, 3, 2, 0, 0, 0, 0.0])),
            settings.stability,
            settings.cell,
        )
    assert state.active[0].tolist() == [True, True, True] + [False] * 4
    state, _ = advance(state, observation(20, half), settings.stability, settings.cell)
    assert state.active[0].tolist() == [False, True, True] + [False] * 4
    # Among the two survivors p_prev = (3/4, 1/4) meets p = (1/4, 3/4).
    _, decision = advance(state, observation(21, quarter), settings.stability, settings.cell)
    expected = 0.75 * math.log(0.75) + 0.25 * math.log(0.25) + math.log(2)
    assert decision.divergence[0].item() == pytest.approx(expected)


def test_an_unstable_check_multiplies_the_threshold_and_restarts_the_count():
    settings = Settings(stability_threshold=1e-4, threshold_growth=3.0, patience=3)
    jump = row([2.0, 0, 0, 0, 0, 0, 0])
    state = begin(observation(15), settings.stability, settings.cell)
    thresholds, counts, left = [], [], []
    for epoch, alpha in enumerate([None, None, jump, jump, jump, jump], start=16):
        state, decision = advance(
            state, observation(epoch, alpha), settings.stability, settings.cell
        )
        thresholds.append(state.threshold[0].item())
        counts.append(int(state.stable_checks[0]))
        left.append(int(state.active[0].sum()))
    assert thresholds == pytest.approx([1e-4, 1e-4, 3e-4, 3e-4, 3e-4, 3e-4])
    assert counts == [1, 2, 0, 1, 2, 0]
    assert left == [7, 7, 7, 7, 7, 6]
    assert (decision.threshold[1:] == 1e-4).all()


@pytest.mark.parametrize(("reset", "expected"), [(True, 1e-4), (False, 2e-4)])
def test_reset_puts_the_threshold_back_at_a_prune(reset, expected):
    settings = Settings(stability_threshold=1e-4, patience=1, reset_threshold=reset)
    jump = row([2.0, 0, 0, 0, 0, 0, 0])
    state = begin(observation(15), settings.stability, settings.cell)
    state, _ = advance(state, observation(16, jump), settings.stability, settings.cell)
    assert state.threshold[0].item() == pytest.approx(2e-4)
    state, decision = advance(state, observation(17, jump), settings.stability, settings.cell)
    assert decision.events[0].threshold == pytest.approx(2e-4)
    assert state.threshold[0].item() == pytest.approx(expected)


def test_adaptive_prunes_at_every_check_while_alpha_drifts_little():
    settings = Settings(preset="adaptive")
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(14, 7, generator=generator)
    path = [
        observation(WARMUP + epoch, alpha + 1e-3 * epoch * torch.linspace(-1, 1, 7))
        for epoch in range(10)
    ]
    assert len(search(path, settings)[1]) == 6


def test_adaptive_waits_while_alpha_is_noisy():
    settings = Settings(preset="adaptive")
    states, decisions = search(random_path(0, 0.5, 150), settings)
    assert not decisions[0].events
    assert states[-1].finished
    # JS of about 0.1 is 2^12 to 2^13 times theta, so that each of six prunes waits about 12 checks.
    assert 50 < len(decisions) < 90


@given(seeds, st.integers(0, 13), modes)
@few
def test_edges_decide_independently_from_one_snapshot(seed, edge, mode):
    settings = Settings(importance=mode, stability_threshold=0.05, patience=1)
    path = random_path(seed, 0.3, 8)
    disturbed = []
    for seen, noise in zip(path, random_path(seed + 1, 3.0, 8), strict=True):
        alpha, beta = noise.alpha.clone(), noise.beta.clone()
        alpha[edge], beta[edge] = seen.alpha[edge], seen.beta[edge]
        disturbed.append(replace(seen, alpha=alpha, beta=beta))
    pairs = zip(search(path, settings)[0], search(disturbed, settings)[0], strict=False)
    for state, other in pairs:
        assert torch.equal(state.active[edge], other.active[edge])
        assert state.threshold[edge] == other.threshold[edge]


def test_ties_remove_the_operations_in_their_fixed_order():
    path = [observation(WARMUP + epoch) for epoch in range(7)]
    _, decisions = search(path, Settings(preset="literal"))
    removed = [{event.operation for event in decision.events} for decision in decisions]
    assert removed == [{operation} for operation in OPERATIONS[:-1]]


def test_softmax_removes_the_worst_operation_whatever_the_sign_of_beta():
    settings = Settings(preset="literal")
    seen = observation(16, row([3, 2, 0.5, 1, 9, 2, 2]), -torch.ones(14))
    _, decision = advance(
        begin(seen, settings.stability, settings.cell), seen, settings.stability, settings.cell
    )
    assert decision.events[0].operation == OPERATIONS[2]


@pytest.mark.parametrize("mode", ["raw", "raw-strict"])
def test_the_raw_importances_remove_the_best_operation_where_beta_is_negative(mode):
    settings = Settings(preset="literal", importance=mode)
    alpha = row([3, 2, 0.5, 1, 9, 2, 2], others=1.0)
    for sign, expected in ((1, OPERATIONS[2]), (-1, OPERATIONS[4])):
        seen = observation(16, alpha, sign * torch.ones(14))
        _, decision = advance(
            begin(seen, settings.stability, settings.cell), seen, settings.stability, settings.cell
        )
        assert decision.events[0].operation == expected


def test_an_undefined_distribution_counts_as_unstable_with_raw_strict():
    settings = Settings(preset="literal", importance="raw-strict")
    seen = observation(16, row([-1, 1, 1, 1, 1, 1, 1], others=1.0), torch.ones(14))
    state, decision = advance(
        begin(seen, settings.stability, settings.cell), seen, settings.stability, settings.cell
    )
    assert math.isnan(decision.divergence[0])
    assert state.active[0].all()
    assert state.threshold.tolist() == [2.0] + [1.0] * 13
    assert len(decision.events) == 13


def test_a_threshold_that_grows_throughout_a_search_stays_finite():
    settings = Settings(importance="raw-strict", threshold_growth=100.0)
    seen = observation(16, row([-1, 1, 1, 1, 1, 1, 1], others=1.0), torch.ones(14))
    state = begin(seen, settings.stability, settings.cell)
    for _ in range(200):
        state, _ = advance(state, seen, settings.stability, settings.cell)
    assert state.threshold.isfinite().all()


@pytest.mark.parametrize("mode", ["softmax", "raw"])
def test_an_undefined_divergence_is_an_error_otherwise(mode):
    settings = Settings(importance=mode)
    state = begin(observation(15), settings.stability, settings.cell)
    state.previous[4] = math.nan
    with pytest.raises(RuntimeError, match="edge 2->3 must be a number; after epoch 16 it is nan"):
        advance(state, observation(16), settings.stability, settings.cell)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_alpha_that_is_not_finite_is_an_error_naming_edge_and_epoch(value):
    alpha = torch.zeros(14, 7)
    alpha[3, 6] = value
    with pytest.raises(RuntimeError, match=f"alpha .* after epoch 17 it is {value} on edge 1->3"):
        observation(17, alpha)


def test_a_beta_that_is_not_finite_is_an_error_naming_edge_and_epoch():
    beta = torch.zeros(14)
    beta[13] = -math.inf
    with pytest.raises(RuntimeError, match=r"beta .* after epoch 3 it is -inf on edge 4->5"):
        observation(3, beta=beta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_observation_is_a_copy_in_float64(dtype):
    alpha = torch.nn.Parameter(torch.zeros(14, 7, dtype=dtype))
    seen = observation(1, alpha)
    with torch.no_grad():
        alpha.fill_(1.0)
    assert seen.alpha.dtype == seen.beta.dtype == torch.float64
    assert not seen.alpha.requires_grad
    assert (seen.alpha == 0).all()


@given(
    st.lists(st.floats(0, 2), min_size=7, max_size=7),
    st.dictionaries(st.integers(0, 6), st.floats(-40, 0), max_size=2),
    st.integers(0, 5),
)
@example([1.0] * 7, {3: -40.0}, 0)
@example([1.0] * 7, {3: -40.0, 5: -40.0}, 0)
@example([0.0] * 7, {}, 0)
def test_two_sigma_holds_for_one_operation_at_most_and_that_is_the_least(values, low, pruned):
    settings = Settings(preset="literal")
    for index, value in low.items():
        values[index] = value
    seen = observation(16, row(values))
    state = begin(seen, settings.stability, settings.cell)
    state.active[0, :pruned] = False
    phi = np.exp(values[pruned:]) / np.exp(values[pruned:]).sum()
    below = np.flatnonzero(phi < phi.mean() - 2 * phi.std() - 1e-12) + pruned
    _, decision = advance(state, seen, settings.stability, settings.cell)
    event = decision.events[0]
    assert len(below) <= 1
    assert event.rule == ("two-sigma" if len(below) else "smallest")
    if len(below):
        assert event.operation == OPERATIONS[below[0]]


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        # One below six equal ones lies sqrt(6) = 2.45 standard deviations below the mean.
        ([0, 0, 0, 0, 0, 0, -9.0], "two-sigma"),
        ([0, 0, 0, 0, 0, 0, -0.1], "two-sigma"),
        # 2.09 population standard deviations below, which are 1.93 of a sample's.
        ([0.4, 0.3, 0.2, 0.2, 0.1, 0, -0.6], "two-sigma"),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0], "smallest"),
    ],
)
def test_the_event_names_the_rule_that_chose_the_operation(values, rule):
    settings = Settings(preset="literal")
    seen = observation(16, row(values))
    _, decision = advance(
        begin(seen, settings.stability, settings.cell), seen, settings.stability, settings.cell
    )
    assert (decision.events[0].operation, decision.events[0].rule) == (OPERATIONS[6], rule)


def test_an_event_records_what_decided_it():
    settings = Settings(preset="literal")
    before, now = row([0.0] * 7), row([math.log(2), 0, 0, 0, 0, 0, 0])
    state, decision = advance(
        begin(observation(15, before), settings.stability, settings.cell),
        observation(16, now),
        settings.stability,
        settings.cell,
    )
    event = decision.events[0]
    assert (event.epoch, event.source, event.target) == (16, 0, 2)
    assert (event.operation, event.threshold) == ("max_pool_3x3", 1.0)
    assert event.importance == pytest.approx(1 / 8 / 2)
    p, q = 1 / 7, np.array([2 / 8] + [1 / 8] * 6)
    mean = (p + q) / 2
    expected = (p * np.log(p / mean) + q * np.log(q / mean)).sum() / 2
    assert event.divergence == pytest.approx(expected)
    assert decision.divergence[0].item() == event.divergence
    assert torch.equal(decision.active, full_mask())
    assert not state.active[0, 1]
    torch.testing.assert_close(
        decision.importance, importance(now, torch.zeros(14).double(), full_mask(), settings.cell)
    )


def test_a_decided_edge_has_no_divergence_and_no_further_events():
    settings = Settings(preset="literal")
    state = begin(observation(15), settings.stability, settings.cell)
    state.active[0, 1:] = False
    after, decision = advance(state, observation(16), settings.stability, settings.cell)
    assert math.isnan(decision.divergence[0])
    assert torch.equal(after.active[0], state.active[0])
    assert after.stable_checks[0] == 0
    assert len(decision.events) == 13


@pytest.mark.parametrize("step", [advance, force])
def test_a_step_leaves_state_and_observation_as_they_were(step):
    settings = Settings(preset="literal")
    first, second = random_path(0, 1.0, 1)
    state = begin(first, settings.stability, settings.cell)
    tensors = [*vars(state).values(), second.alpha, second.beta]
    copies = copy.deepcopy(tensors)
    after, _ = step(state, second)
    assert not torch.equal(after.active, state.active)
    assert all(torch.equal(tensor, copied) for tensor, copied in zip(tensors, copies, strict=True))


def test_force_leaves_the_best_active_operation_and_logs_everything_it_removes():
    settings = Settings()
    seen = random_path(3, 1.0, 0, beta=torch.linspace(-1, 1, 14))[0]
    state = begin(seen, settings.stability, settings.cell)
    state.active[0] = torch.tensor([True, True, False, False, True, False, False])
    after, events = force(state, seen, settings.cell)
    assert after.finished
    expected = seen.alpha.masked_fill(~state.active, -math.inf).argmax(dim=1)
    assert torch.equal(after.active.int().argmax(dim=1), expected)
    assert torch.equal(
        best_operations(seen.alpha, seen.beta, state.active, settings.cell), expected
    )
    assert len(events) == 2 + 13 * 6
    assert {event.rule for event in events} == {"forced"}
    assert {(event.epoch, event.divergence, event.threshold) for event in events} == {
        (WARMUP, None, None)
    }
    theta = importance(seen.alpha, seen.beta, state.active, settings.cell)
    removed = (state.active & ~after.active).nonzero().tolist()
    for event, (edge, operation) in zip(events, removed, strict=True):
        assert (event.source, event.target) == EDGES[edge]
        assert event.operation == OPERATIONS[operation]
        assert event.importance == pytest.approx(theta[edge, operation].item())


def test_ties_keep_the_last_active_operation():
    active = full_mask()
    active[2, 5:] = False
    best = best_operations(torch.zeros(14, 7), torch.zeros(14), active, Settings().cell)
    assert best.tolist() == [6, 6, 4] + [6] * 11


@given(seeds, modes)
@few
def test_closing_an_epoch_before_the_limit_is_one_advance(seed, mode):
    settings = Settings(preset="adaptive", importance=mode, search_epochs=24)
    path = random_path(seed, 0.1, 8)
    state = begin(path[0], settings.stability, settings.cell)
    for seen in path[1:]:
        advanced, expected = advance(state, seen, settings.stability, settings.cell)
        state, decision = close_epoch(
            state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
        )
        assert torch.equal(state.active, advanced.active)
        assert decision.events == expected.events


@given(seeds, modes, st.integers(16, 23))
@few
def test_closing_the_last_epoch_finishes_any_search_and_logs_every_operation_that_left(
    seed, mode, limit
):
    settings = Settings(preset="adaptive", importance=mode, search_epochs=limit)
    path = random_path(seed, 0.1, limit - WARMUP)
    state, events = begin(path[0], settings.stability, settings.cell), []
    for seen in path[1:]:
        state, decision = close_epoch(
            state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
        )
        events += decision.events
    assert state.finished
    assert len(events) == len({(e.source, e.target, e.operation) for e in events}) == 14 * 6
    assert all(e.epoch == limit for e in events if e.rule == "forced")


def test_a_search_that_finishes_at_its_limit_by_itself_is_not_forced():
    settings = Settings(preset="literal", search_epochs=21)
    path = random_path(0, 1.0, 6)
    state = begin(path[0], settings.stability, settings.cell)
    for seen in path[1:]:
        state, decision = close_epoch(
            state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
        )
    assert state.finished
    assert {event.rule for event in decision.events} <= {"smallest", "two-sigma"}


@pytest.mark.parametrize("mode", ["softmax", "raw", "raw-strict"])
def test_an_idle_epoch_measures_the_importance_of_the_full_cell_and_nothing_else(mode):
    settings = Settings(importance=mode)
    seen = random_path(0, 1.0, 0)[0]
    decision = idle(seen, settings.cell)
    assert decision.active.all()
    assert torch.equal(
        decision.importance, importance(seen.alpha, seen.beta, full_mask(), settings.cell)
    )
    assert decision.divergence.isnan().all()
    assert decision.threshold.isnan().all()
    assert decision.events == ()
