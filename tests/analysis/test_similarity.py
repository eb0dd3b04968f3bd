import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_iac.analysis.trajectories.similarity import (
    REPORTED_EPOCHS,
    continuous_vectors,
    convergence,
    cosine_similarity,
    genotype_mask,
    genotype_masks,
    hamming_similarity,
    reported_epochs,
    top_masks,
)
from nnunet_iac.runs.records import Trajectory, TrajectoryRow
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.pruning import best_operations
from nnunet_iac.search.relaxation import importance
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS

SETTINGS = Settings()


def trajectory(alphas, betas=None, actives=None, settings=SETTINGS):
    """Return one epoch per alpha; beta is zero and everything active unless given."""
    rows = []
    for number, alpha in enumerate(alphas):
        beta = np.zeros(14) if betas is None else betas[number]
        active = np.ones((14, 7), np.bool_) if actives is None else actives[number]
        theta = importance(*map(torch.from_numpy, (alpha, beta, active)), settings.cell).numpy()
        nothing = np.full(14, np.nan)
        rows.append(TrajectoryRow(number + 1, alpha, beta, theta, nothing, nothing, active))
    return Trajectory.of_rows(rows)


def random_trajectory(seed, epochs=4, settings=SETTINGS):
    """Return a trajectory with ties among alphas and any non-empty masks."""
    random = np.random.default_rng(seed)
    alphas = random.integers(-2, 3, (epochs, 14, 7)).astype(np.float64)
    actives = random.random((epochs, 14, 7)) < 0.6
    actives[:, :, 3] |= ~actives.any(axis=2)
    return trajectory(alphas, random.integers(-2, 3, (epochs, 14)) / 2.0, actives, settings)


def of_length(epochs):
    return trajectory(np.zeros((epochs, 14, 7)))


def test_a_full_search_is_reported_at_the_papers_epochs():
    assert reported_epochs(of_length(200), SETTINGS.schedule) == REPORTED_EPOCHS


def test_the_last_epoch_of_a_shorter_search_is_reported():
    assert reported_epochs(of_length(51), SETTINGS.schedule) == (15, 16, 20, 40, 51)


@pytest.mark.parametrize(
    ("warmup", "reported"),
    [(0, (1, 20, 40, 45)), (3, (3, 4, 20, 40, 45)), (19, (19, 20, 40, 45)), (30, (30, 31, 40, 45))],
)
def test_the_end_of_another_warm_up_is_reported_and_nothing_inside_it(warmup, reported):
    assert reported_epochs(of_length(45), Settings(warmup_epochs=warmup).schedule) == reported


def test_a_search_under_way_in_its_warm_up_is_reported_at_its_last_epoch():
    assert reported_epochs(of_length(7), SETTINGS.schedule) == (7,)


def test_a_trajectory_without_epochs_gives_empty_results():
    empty = Trajectory.of_rows([])
    assert reported_epochs(empty, SETTINGS.schedule) == ()
    assert continuous_vectors(empty).shape == (0, 98)
    assert cosine_similarity(continuous_vectors(empty)).shape == (0, 0)
    assert convergence(continuous_vectors(empty)).shape == (0,)
    assert top_masks(empty, 1, SETTINGS.cell).shape == (0, 14, 7)
    assert genotype_masks(empty, SETTINGS.cell).shape == (0, 14, 7)
    assert hamming_similarity(top_masks(empty, 1, SETTINGS.cell)).shape == (0, 0)


def test_a_continuous_vector_lists_edge_after_edge():
    path = random_trajectory(0)
    vectors = continuous_vectors(path)
    assert vectors.shape == (4, 98)
    assert vectors[2, 7 * 5 + 3] == path.importance[2, 5, 3]


def test_cosine_of_three_vectors_is_that_of_their_angles():
    # (3, 4).(4, 3) = 24, both of length 5: 24/25. (4, 3).(-4, -3) = -25: -1.
    similarity = cosine_similarity(np.array([[3.0, 4.0], [4.0, 3.0], [-4.0, -3.0]]))
    expected = [[1, 0.96, -0.96], [0.96, 1, -1], [-0.96, -1, 1]]
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-15)


def test_cosine_of_a_zero_vector_is_undefined():
    similarity = cosine_similarity(np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(similarity[0]).all()
    assert np.isnan(similarity[:, 0]).all()
    np.testing.assert_allclose(similarity[1, 1], 1)


def test_cosine_neither_overflows_nor_vanishes():
    similarity = cosine_similarity(np.array([[1e300, 1e300], [1e-300, 0.0]]))
    np.testing.assert_allclose(similarity[0, 1], math.sqrt(0.5))


VECTORS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
    elements=st.floats(-1e3, 1e3, allow_subnormal=False),
)


@given(VECTORS)
def test_cosine_of_a_vector_with_itself_is_one_and_all_are_symmetric(vectors):
    similarity = cosine_similarity(vectors)
    defined = (vectors != 0).any(axis=1)
    np.testing.assert_array_equal(np.isnan(similarity), ~(defined[:, None] & defined))
    np.testing.assert_allclose(np.diag(similarity)[defined], 1)
    np.testing.assert_array_equal(similarity, similarity.T)
    assert (np.abs(similarity[np.ix_(defined, defined)]) <= 1).all()


@given(VECTORS, st.floats(1e-6, 1e6))
def test_cosine_does_not_change_with_the_length_of_a_vector(vectors, factor):
    scaled = np.concatenate([vectors[:1] * factor, vectors[1:]])
    np.testing.assert_allclose(cosine_similarity(scaled), cosine_similarity(vectors), atol=1e-9)


def test_convergence_is_the_cosine_to_the_last_vector():
    # (1, 0) to (1, 1): 1/sqrt 2.
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    np.testing.assert_allclose(convergence(vectors), [math.sqrt(0.5), math.sqrt(0.5), 1])


def test_importance_of_the_warm_up_has_a_direction_only_in_softmax_mode():
    for mode, defined in (("softmax", True), ("raw", False)):
        path = trajectory(np.zeros((2, 14, 7)), settings=Settings(importance=mode))
        assert np.isfinite(convergence(continuous_vectors(path))).all() == defined


def test_top_masks_take_the_most_important_active_operations():
    alpha, active = np.zeros((14, 7)), np.ones((14, 7), np.bool_)
    alpha[4] = [0.1, 0.7, 0.3, 0.9, 0.2, 0.5, 0.4]
    active[4, 3] = False  # The largest has been pruned: 1, 5, 6 remain in this order.
    path = trajectory([alpha], actives=[active])
    for k, expected in ((1, [1]), (2, [1, 5]), (3, [1, 5, 6])):
        assert np.flatnonzero(top_masks(path, k, SETTINGS.cell)[0, 4]).tolist() == expected


def test_ties_go_to_the_last_operation():
    masks = top_masks(of_length(1), 2, SETTINGS.cell)
    np.testing.assert_array_equal(masks[0], [[False] * 5 + [True] * 2] * 14)


def test_an_edge_with_fewer_operations_left_has_all_of_them_in_its_top():
    active = np.zeros((14, 7), np.bool_)
    active[:, [2, 5]] = True
    path = trajectory([np.zeros((14, 7))], actives=[active])
    np.testing.assert_array_equal(top_masks(path, 3, SETTINGS.cell)[0], active)


def test_raw_importance_ranks_by_its_sign():
    alpha = np.tile(np.arange(7.0), (14, 1))
    settings = Settings(importance="raw")
    path = trajectory([alpha], [np.full(14, -1.0)], settings=settings)
    assert np.flatnonzero(top_masks(path, 1, settings.cell)[0, 0]).tolist() == [0]


@pytest.mark.parametrize("mode", ["softmax", "raw", "raw-strict"])
@pytest.mark.parametrize("seed", range(5))
def test_top_one_is_what_the_search_would_take_and_tops_are_nested(mode, seed):
    settings = Settings(importance=mode)
    path = random_trajectory(seed, settings=settings)
    tops = [top_masks(path, k, settings.cell) for k in (1, 2, 3)]
    for epoch in range(4):
        row = (torch.from_numpy(a[epoch]) for a in (path.alpha, path.beta, path.active))
        np.testing.assert_array_equal(
            tops[0][epoch].argmax(axis=1), best_operations(*row, settings.cell)
        )
    left = path.active.sum(axis=2)
    for k, mask in enumerate(tops, start=1):
        np.testing.assert_array_equal(mask.sum(axis=2), np.minimum(left, k))
        assert not (mask & ~path.active).any()
    assert (tops[0] <= tops[1]).all()
    assert (tops[1] <= tops[2]).all()


def test_a_genotypes_mask_marks_its_eight_choices(random_genotype):
    genotype = random_genotype(0)
    mask = genotype_mask(genotype)
    assert mask.sum() == 8
    for edge, operation in genotype.operations.items():
        assert mask[EDGES.index(edge), OPERATIONS.index(operation)]


def test_genotype_masks_are_what_every_epoch_would_have_become():
    cell = Settings().cell
    path = random_trajectory(3)
    masks = genotype_masks(path, cell)
    for epoch in range(4):
        row = (torch.from_numpy(a[epoch]) for a in (path.alpha, path.beta, path.active))
        np.testing.assert_array_equal(masks[epoch], genotype_mask(discretise(*row, cell)))


def test_hamming_similarity_counts_equal_entries():
    first = np.zeros((14, 7), np.bool_)
    first[:, 0] = True
    second = np.roll(first, 1, axis=1)  # Each of 14 edges differs in two of seven: 1 - 2/7.
    third = first.copy()
    third[0, 1] = True  # One entry of 98.
    similarity = hamming_similarity(np.array([first, second, third]))
    # Second to third: 28 entries as from the first, but one of them is equal now.
    expected = [[1, 5 / 7, 97 / 98], [5 / 7, 1, 71 / 98], [97 / 98, 71 / 98, 1]]
    np.testing.assert_allclose(similarity, expected)


@given(arrays.arrays(np.bool_, (4, 14, 7)))
def test_hamming_similarity_falls_by_one_98th_with_each_entry_that_is_flipped(masks):
    similarity = hamming_similarity(masks)
    np.testing.assert_array_equal(similarity, similarity.T)
    np.testing.assert_array_equal(np.diag(similarity), 1)
    different = (masks[0] != masks[1]).sum()
    assert similarity[0, 1] == pytest.approx(1 - different / 98)
