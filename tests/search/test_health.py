import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import (
    DEAD_WEIGHT,
    WINDOW,
    HealthEvent,
    HealthState,
    examine,
    loss_trend,
    parameter_free_share,
)
from nnunet_iac.search.pruning import Observation, full_mask
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, PARAMETER_FREE, Edge

SETTINGS = Settings(warmup_epochs=2)
seeds = st.integers(0, 2**31)
few = hypothesis_settings(max_examples=25)


def moved(epoch, leader=3, still=(), beta=None):
    """Return an observation whose alpha differs from that of any other epoch but on some edges."""
    alpha = torch.zeros(14, 7)
    alpha[:, leader] = float(epoch)
    alpha[list(still), leader] = 1.0
    return Observation(epoch, alpha, torch.zeros(14) if beta is None else beta)


def watched(observations, losses=None, settings=SETTINGS, active=None):
    """Return all events of a search in which the loss falls, unless it is given."""
    state, events = HealthState(), []
    active = full_mask() if active is None else active
    for number, seen in enumerate(observations):
        loss = -float(number) if losses is None else losses[number]
        state, new = examine(
            state, seen, active, loss, settings.schedule.warmup_epochs, settings.cell
        )
        events += new
    return events


def found(events):
    return [(event.epoch, event.kind, event.edge) for event in events]


def random_search(seed, epochs=12):
    """Return observations in which some edges stand still now and then, masks and losses."""
    generator = torch.Generator().manual_seed(seed)
    alpha, active = torch.zeros(14, 7, dtype=torch.float64), full_mask()
    steps = []
    for epoch in range(1, epochs + 1):
        moves = torch.rand(14, 1, generator=generator) < 0.7
        alpha = alpha + moves * torch.randn(14, 7, generator=generator)
        beta = torch.randn(14, generator=generator)
        steps.append((Observation(epoch, alpha, beta), active))
        removed = torch.randint(1, 7, (14,), generator=generator)
        active = active.clone()
        active[torch.arange(14), removed] = False
    losses = torch.randn(epochs, generator=generator).tolist()
    return [(*step, loss) for step, loss in zip(steps, losses, strict=True)]


def run(state, steps, settings=SETTINGS):
    events = []
    for step in steps:
        state, new = examine(state, *step, settings.schedule.warmup_epochs, settings.cell)
        events += new
    return state, events


def test_a_search_that_moves_and_learns_has_nothing_to_report():
    assert watched(moved(epoch) for epoch in range(1, 41)) == []


def test_an_edge_is_dead_once_when_its_alpha_stands_still_and_again_after_it_moved():
    path = [moved(e, still=[4] if e in (4, 5, 6, 8, 9) else []) for e in range(1, 12)]
    # It jumps to its resting value in epochs 4 and 8, and rests there in 5, 6 and 9.
    events = watched(path)
    assert found(events) == [(5, "dead edge", Edge(2, 3)), (9, "dead edge", Edge(2, 3))]
    assert str(events[0]) == "epoch 5, edge 2->3: dead edge, no gradient moved its alpha"


def test_every_dead_edge_is_an_event_of_its_own():
    path = [moved(e, still=[0, 13] if e > 3 else []) for e in range(1, 8)]
    assert found(watched(path)) == [
        (5, "dead edge", Edge(0, 2)),
        (5, "dead edge", Edge(4, 5)),
    ]


def test_a_search_that_never_leaves_its_start_is_dead_on_every_edge_in_its_first_epoch():
    path = [Observation(epoch, torch.zeros(14, 7), torch.zeros(14)) for epoch in (1, 2, 3, 4)]
    assert found(watched(path)) == [(3, "dead edge", edge) for edge in EDGES]


def test_a_decided_edge_is_never_dead_and_only_active_operations_count():
    active = full_mask()
    active[0, 1:] = False
    active[1, 3] = False
    # Only operation 3 moves: edge 0->2 has one operation left, edge 1->2 has pruned the one.
    path = [moved(epoch) for epoch in range(1, 6)]
    assert found(watched(path, active=active)) == [(3, "dead edge", Edge(1, 2))]


def test_an_edge_that_hardly_weighs_anything_is_dead():
    settings = Settings(warmup_epochs=2, edge_transform="tan")
    beta = torch.full((14,), 0.0)
    beta[9] = -1.49
    beta[10] = -1.45
    weights = edge_weights(beta, "tan", 1.5)
    assert (weights < DEAD_WEIGHT).nonzero().flatten().tolist() == [9, 10]
    events = watched([moved(epoch, beta=beta) for epoch in range(1, 6)], settings=settings)
    assert found(events) == [(3, "dead edge", Edge(0, 5)), (3, "dead edge", Edge(1, 5))]
    assert events[0].message == f"its weight Psi is {weights[9].item():.1g}"


def leaders(epoch, free):
    """Return an observation in which so many edges have settled on an average pooling."""
    seen = moved(epoch)
    alpha = seen.alpha.clone()
    alpha[:free, 2] = 50.0 + epoch
    return dataclasses.replace(seen, alpha=alpha)


def test_a_cell_collapses_when_more_than_half_of_its_weight_has_no_parameters():
    counts = [14, 14, 5, 8, 9, 5, 14]
    events = watched([leaders(epoch, free) for epoch, free in enumerate(counts, start=1)])
    assert found(events) == [(4, "collapse", None), (7, "collapse", None)]
    assert [event.message for event in events] == [
        # 8 edges, and on each of the other 6 three operations at alpha 0 against one at 4.
        f"{(8 + 6 * 3 / (6 + math.exp(4))) / 14:.0%} of phi lies on operations without parameters",
        "100% of phi lies on operations without parameters",
    ]


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ([-0.01 * n for n in range(15)], None),
        ([0.5 - 0.1 * n for n in range(15)], None),  # through zero
        ([0.3] * 15, "plateau"),
        ([-0.8, -0.7] * 7 + [-0.8], "plateau"),
        ([0.01 * n for n in range(15)], "divergence"),
        ([-0.9 + 0.01 * n for n in range(15)], "divergence"),
        # One outlier neither makes nor hides a trend.
        ([-0.01 * n for n in range(14)] + [50.0], None),
        ([0.01 * n for n in range(14)] + [-50.0], "divergence"),
        ([0.3] * 14, None),
        ([0.3, math.nan], "divergence"),
        ([math.inf], "divergence"),
    ],
)
def test_the_trend_of_the_loss(losses, kind):
    trend = loss_trend(losses)
    assert (trend and trend[0]) == kind


def test_the_trend_shows_slope_and_interval():
    assert loss_trend([0.25 * n for n in range(15)]) == (
        "divergence",
        "the training loss rises: +0.25 an epoch over 15 epochs (95 % interval 0.25 to 0.25)",
    )


def test_a_plateau_is_judged_over_the_search_alone_and_reported_when_it_begins():
    falling = [-float(n) for n in range(20)]
    losses = [5.0] * 2 + falling + [-30.0] * 20 + [-31.0 - n for n in range(20)] + [-99.0] * 20
    events = watched((moved(epoch) for epoch in range(1, len(losses) + 1)), losses)
    assert [event.kind for event in events] == ["plateau", "plateau"]
    assert 2 + 20 < events[0].epoch < 2 + 20 + WINDOW
    assert 2 + 60 < events[1].epoch < 2 + 60 + WINDOW
    first = watched((moved(epoch) for epoch in range(1, 31)), [1.0] * 30)
    assert found(first) == [(2 + WINDOW, "plateau", None)]


@given(seeds, st.integers(0, 12))
@few
def test_a_watch_restored_from_its_plain_state_resumes_as_the_unbroken_one(seed, interrupted):
    steps = random_search(seed)
    whole = run(HealthState(), steps)
    state, events = run(HealthState(), steps[:interrupted])
    restored = HealthState(**dataclasses.asdict(state))
    assert restored == state
    json.dumps(dataclasses.asdict(state), allow_nan=False)
    state, later = run(restored, steps[interrupted:])
    assert (state, events + later) == whole


@given(seeds)
@few
def test_an_event_is_reported_exactly_when_its_condition_begins(seed):
    state, before, seen = HealthState(), set(), []
    for step in random_search(seed):
        state, events = examine(state, *step, SETTINGS.schedule.warmup_epochs, SETTINGS.cell)
        now = set(state.present)
        reported = {(e.kind, None if e.edge is None else EDGES.index(e.edge)) for e in events}
        assert reported == now - before
        before = now
        seen += events
    assert all(event.epoch > SETTINGS.schedule.warmup_epochs for event in seen)


@given(seeds)
@few
def test_the_conditions_are_those_of_the_definition(seed):
    state, previous = HealthState(), torch.zeros(14, 7, dtype=torch.float64)
    for seen, active, loss in random_search(seed):
        state, _ = examine(
            state, seen, active, loss, SETTINGS.schedule.warmup_epochs, SETTINGS.cell
        )
        if seen.epoch > SETTINGS.schedule.warmup_epochs:
            dead = {
                edge
                for edge in range(14)
                if active[edge].sum() > 1
                and torch.equal(seen.alpha[edge][active[edge]], previous[edge][active[edge]])
            }
            assert {index for kind, index in state.present if kind == "dead edge"} == dead
            free = operation_weights(seen.alpha, active)[:, : len(PARAMETER_FREE)].sum()
            assert (("collapse", None) in state.present) == bool(free > 7)
        previous = seen.alpha


@given(seeds)
@few
def test_the_watch_changes_nothing_it_looks_at(seed):
    (seen, active, loss), *_ = random_search(seed)
    alpha, beta, mask, state = seen.alpha.clone(), seen.beta.clone(), active.clone(), HealthState()
    examine(
        state,
        seen,
        active,
        loss,
        Settings(warmup_epochs=0).schedule.warmup_epochs,
        Settings(warmup_epochs=0).cell,
    )
    assert torch.equal(seen.alpha, alpha)
    assert torch.equal(seen.beta, beta)
    assert torch.equal(active, mask)
    assert state == HealthState()


def test_a_genotypes_share_of_parameter_free_operations():
    codes = [0, 1, 2, 3, -1, 4, 5, -1, -1, 6, 0, -1, -1, -1]
    assert parameter_free_share(Genotype.from_codes(codes)) == 4 / 8


def test_an_event_of_the_whole_cell_names_no_edge():
    assert str(HealthEvent(21, "plateau", None, "flat")) == "epoch 21: plateau, flat"
