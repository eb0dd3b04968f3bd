import dataclasses
import math
from dataclasses import dataclass
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.analysis.trajectories.emergence import (
    TOPS,
    EdgeEmergence,
    Emergence,
    NodeEmergence,
    edge_difficulty,
    edge_emergence,
    edges_decided,
    entropy,
    final_genotype,
    final_operations,
    node_emergence,
    operations_left,
    remaining,
    shares,
)
from nnunet_iac.runs.records import Trajectory, TrajectoryRow
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.pruning import Observation, PruningEvent, begin, close_epoch, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge

SETTINGS = Settings(preset="literal", warmup_epochs=2, search_epochs=12)


@dataclass(frozen=True)
class Search:
    """A search as a run records it."""

    trajectory: Trajectory
    settings: Settings = SETTINGS
    events: tuple[PruningEvent, ...] = ()
    genotype: Genotype | None = None


def recorded(alphas, betas=None, settings=SETTINGS, prunes=False):
    """Return the record of a search along a path of alpha and beta, as a run leaves it."""
    state = begin(
        Observation(0, torch.zeros(14, 7), torch.zeros(14)), settings.stability, settings.cell
    )
    rows, events, genotype = [], [], None
    for number, alpha in enumerate(alphas):
        beta = np.zeros(14) if betas is None else betas[number]
        seen = Observation(number + 1, torch.from_numpy(alpha), torch.from_numpy(beta))
        decision = idle(seen, settings.cell)
        if prunes and seen.epoch > settings.schedule.warmup_epochs:
            state, decision = close_epoch(
                state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
            )
        values = (seen.alpha, seen.beta, decision.importance, decision.divergence)
        values += (decision.threshold, decision.active)
        rows.append(TrajectoryRow(seen.epoch, *(value.numpy() for value in values)))
        events += decision.events
        if state.finished or seen.epoch == settings.schedule.search_epochs:
            genotype = discretise(seen.alpha, seen.beta, state.active, settings.cell)
            break
    return Search(Trajectory.of_rows(rows), settings, tuple(events), genotype)


def walked(seed, epochs=12, prunes=True, settings=SETTINGS):
    """Return the record of a search along a random path."""
    random = np.random.default_rng(seed)
    after = np.arange(1, epochs + 1) > settings.schedule.warmup_epochs
    alphas = (random.normal(size=(epochs, 14, 7)) * after[:, None, None]).cumsum(axis=0)
    betas = (random.normal(size=(epochs, 14)) * after[:, None]).cumsum(axis=0)
    return recorded(alphas, betas, settings, prunes)


def test_something_emerges_when_it_is_first_there_and_stays_since_it_was_last_away():
    present = np.array([False, True, False, True, True])
    assert Emergence.of(present, np.arange(4, 9)) == Emergence(first=5, since=7)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ([], Emergence(None, None)),
        ([False, False], Emergence(None, None)),
        ([True, True], Emergence(3, 3)),
        ([True, False], Emergence(3, None)),
    ],
)
def test_what_never_came_or_did_not_stay_has_no_epoch(present, expected):
    epochs = np.arange(3, 3 + len(present))
    assert Emergence.of(np.array(present, np.bool_), epochs) == expected


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 20))
def test_emergence_agrees_with_its_definition(present, start):
    epochs = np.arange(start, start + len(present))
    found = Emergence.of(np.array(present, np.bool_), epochs)
    there = [start + i for i, here in enumerate(present) if here]
    stayed = [start + i for i in range(len(present)) if all(present[i:])]
    assert found == Emergence(min(there, default=None), min(stayed, default=None))


def test_the_epoch_of_what_never_emerged_is_infinite():
    assert Emergence(3, None).epoch("first") == 3
    assert Emergence(3, None).epoch("since") == math.inf


def test_an_edges_final_operation_rises_through_the_ranks():
    alphas = np.zeros((7, 14, 7))
    identity = OPERATIONS.index("identity")
    # The final operation's rank on edge 1->3, epoch by epoch after the warm-up: 4, 3, 1, 2, 1.
    ahead = [[1, 2, 3], [1, 2], [], [1], []]
    for epoch, operations in enumerate(ahead, start=2):
        alphas[epoch, 3, operations] = 2.0
        alphas[epoch, 3, identity] = 1.0
    found = edge_emergence(recorded(alphas))[3]
    assert found == EdgeEmergence(
        edge=Edge(1, 3),
        operation="identity",
        top={3: Emergence(4, 4), 2: Emergence(5, 5), 1: Emergence(5, 7)},
    )


def test_nothing_emerges_in_the_warm_up():
    for epochs in (1, 2):
        search = recorded(np.zeros((epochs, 14, 7)))
        for found in edge_emergence(search):
            assert set(found.top.values()) == {Emergence(None, None)}
        assert {node.pair for node in node_emergence(search)} == {Emergence(None, None)}
        assert final_genotype(search).choices[0].operation == OPERATIONS[-1]


def test_the_final_operation_of_a_pruned_edge_is_its_only_one():
    search = walked(0)
    left = remaining(search.trajectory, search.events)[-1]
    np.testing.assert_array_equal(left.sum(axis=1), 1)
    np.testing.assert_array_equal(final_operations(search), left.argmax(axis=1))


def test_the_final_operation_of_a_kept_edge_is_the_found_cells_even_if_it_was_pruned():
    alphas = np.zeros((8, 14, 7))
    alphas[2:, :, 0], alphas[2:, :, 4] = 2.0, 1.0
    alphas[7, :, 4] = 0.5
    search = recorded(alphas, prunes=True)
    # A budget can take a pruned operation.
    kept = dict.fromkeys(search.genotype.operations, "sep_conv_5x5")
    found = Genotype(tuple(Choice(*choice) for choice in kept.items()))
    search = dataclasses.replace(search, genotype=found)
    for edge in edge_emergence(search):
        assert edge.operation == kept.get(edge.edge, "identity")
        assert edge.top[1] == (Emergence(None, None) if edge.edge in kept else Emergence(3, 3))


def test_the_final_operation_under_way_is_the_best_so_far():
    search = walked(1, epochs=5)
    assert search.genotype is None
    alpha = search.trajectory.alpha[-1].copy()
    alpha[~remaining(search.trajectory, search.events)[-1]] = -np.inf
    np.testing.assert_array_equal(final_operations(search), alpha.argmax(axis=1))


def test_a_nodes_pair_emerges_when_no_other_edge_is_heavier():
    betas = np.zeros((6, 14))
    # Into node 4 lead 0, 1, 2, 3 (edges 5 to 8). Heaviest after the warm-up: 2 and 3, then 1 and
    # 3, again 2 and 3, and 1 and 3 in the end.
    for epoch, heavy in enumerate([(7, 8), (6, 8), (7, 8), (6, 8)], start=2):
        betas[epoch, list(heavy)] = 1.0
    found = node_emergence(recorded(np.zeros((6, 14, 7)), betas))
    assert found[2] == NodeEmergence(4, (Edge(1, 4), Edge(3, 4)), Emergence(4, 6))


def test_equal_edges_are_ranked_as_a_found_cell_ranks_them():
    found = node_emergence(recorded(np.zeros((3, 14, 7))))
    assert [node.edges for node in found] == [(Edge(0, n), Edge(1, n)) for n in (2, 3, 4, 5)]
    assert {node.pair for node in found} == {Emergence(3, 3)}


@pytest.mark.parametrize("prunes", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_final_is_there_in_the_last_epoch_and_rises_in_order(seed, prunes):
    search = walked(seed, prunes=prunes)
    for found in edge_emergence(search):
        for moment in ("first", "since"):
            epochs = [found.top[k].epoch(moment) for k in TOPS]
            assert epochs == sorted(epochs)
            assert SETTINGS.schedule.warmup_epochs < epochs[-1] <= search.trajectory.epoch[-1]
    nodes = node_emergence(search)
    assert {edge for node in nodes for edge in node.edges} == set(search.genotype.operations)
    assert nodes[0].pair == Emergence(3, 3)
    for node in nodes:
        assert node.pair.first <= node.pair.since <= search.trajectory.epoch[-1]


def test_a_given_cell_decides_what_is_final():
    alphas = np.zeros((4, 14, 7))
    cell = final_genotype(recorded(alphas))
    other = Genotype(tuple(Choice(choice.edge, "max_pool_3x3") for choice in cell.choices))
    search = Search(recorded(alphas).trajectory, genotype=other)
    assert final_genotype(search) is other
    found = {each.edge: each.operation for each in edge_emergence(search)}
    assert all(found[edge] == "max_pool_3x3" for edge in other.operations)


@pytest.mark.parametrize("function", [edge_emergence, node_emergence, final_operations])
def test_a_search_without_epochs_is_refused(function):
    with pytest.raises(ValueError, match=r"must have completed an epoch .* 0 epochs: wait"):
        function(Search(Trajectory.of_rows([])))


def event(epoch, edge, operation):
    return PruningEvent(epoch, *EDGES[edge], OPERATIONS[operation], 0.1, None, None, "smallest")


def test_operations_left_are_counted_after_every_prune():
    trajectory = recorded(np.zeros((4, 14, 7))).trajectory
    events = [event(3, 0, 2), event(3, 5, 6), *(event(4, 5, operation) for operation in range(5))]
    left = operations_left(trajectory, events)
    np.testing.assert_array_equal(left[:, 0], [7, 7, 6, 6])
    np.testing.assert_array_equal(left[:, 5], [7, 7, 6, 1])
    assert left.sum() == 4 * 14 * 7 - (1 + 1) - (1 + 6)
    np.testing.assert_array_equal(edges_decided(left), [0, 0, 0, 1])


def test_a_prune_later_than_the_trajectory_changes_nothing():
    trajectory = recorded(np.zeros((4, 14, 7))).trajectory
    assert remaining(trajectory, [event(5, 0, 0)]).all()


def test_a_prune_shows_in_the_trajectory_one_epoch_later():
    search = walked(2)
    left = remaining(search.trajectory, search.events)
    np.testing.assert_array_equal(left[:-1], search.trajectory.active[1:])
    np.testing.assert_array_equal(edges_decided(left.sum(axis=2)), [0] * 7 + [14])


def test_a_full_search_decides_no_edge():
    search = walked(0, prunes=False)
    assert (operations_left(search.trajectory, search.events) == 7).all()


def test_entropy_is_that_of_three_known_distributions():
    p = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0]])
    # 0; ln 4; 1/2 ln 2 + 2 * 1/4 ln 4 = 1.5 ln 2.
    np.testing.assert_allclose(entropy(p), [0, math.log(4), 1.5 * math.log(2)])


def test_shares_of_an_edge_sum_to_one_and_pruned_operations_have_none():
    trajectory = walked(2).trajectory
    values = shares(trajectory)
    np.testing.assert_allclose(values.sum(axis=-1), 1)
    assert (values[~trajectory.active] == 0).all()
    phi = np.exp(trajectory.alpha[1, 0])
    np.testing.assert_allclose(values[1, 0], phi / phi.sum())


def test_shares_are_equal_where_no_importance_is_positive():
    trajectory = walked(2).trajectory
    trajectory.importance[0, 0] = -1.0
    trajectory.importance[0, 1, 0] = -1.0
    values = shares(trajectory)
    np.testing.assert_allclose(values[0, 0], 1 / 7)
    assert values[0, 1, 0] == 0


def test_entropy_of_a_search_falls_from_ln_7_to_that_of_two_operations_at_most():
    search = walked(3)
    values = entropy(shares(search.trajectory))
    np.testing.assert_allclose(values[:2], math.log(7))
    assert (values[-1] <= math.log(2) + 1e-12).all()


def emergences(*epochs):
    """Return edges' emergences of which only the top one's first epoch matters."""
    nothing = Emergence(None, None)
    tops = ({3: nothing, 2: nothing, 1: Emergence(epoch, None)} for epoch in epochs)
    return tuple(EdgeEmergence(EDGES[i], "identity", top) for i, top in enumerate(tops))


def test_edges_are_ranked_by_median_then_latest_epoch_then_their_order():
    searches = [
        emergences(16, 16, 20, 16, 30),
        emergences(17, 17, 20, 17, None),
        emergences(18, 19, 20, 18, None),
    ]
    ranked = edge_difficulty(searches)
    assert [EDGES.index(edge) for edge in ranked] == [4, 2, 1, 0, 3]
    assert [median(epochs) for epochs in ranked.values()] == [math.inf, 20, 17, 17, 17]
    assert next(iter(ranked.values())) == (30, math.inf, math.inf)


def test_difficulty_of_no_searches_is_refused():
    with pytest.raises(ValueError, match="needs at least one search; got none"):
        edge_difficulty([])
