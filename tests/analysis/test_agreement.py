from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.analysis.trajectories.similarity import (
    chance,
    mean_agreement,
    operation_histogram,
    pairwise_agreement,
)
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import OPERATIONS

FIRST = Genotype.from_codes([0, 0, 3, 3, -1, 1, 1, -1, -1, 2, 2, -1, -1, -1])
# Same edges into nodes 2 and 3, one same edge into node 4, none into node 5: 2 + 2 + 1 + 0 edges.
# Of these five, 0->2 and 0->3 carry another operation: three same choices.
SECOND = Genotype.from_codes([5, 0, 6, 3, -1, 1, -1, -1, 1, -1, -1, 2, 2, -1])
PARTS = ("choices", "edges")


def test_operations_are_counted_over_all_cells():
    histogram = operation_histogram([FIRST, SECOND])
    # FIRST: identity, max and avg pool and sep 3x3 twice each. SECOND: 5 0 6 3 1 1 2 2.
    expected = {0: 3, 1: 4, 2: 4, 3: 3, 4: 0, 5: 1, 6: 1}
    assert histogram == {OPERATIONS[o]: count for o, count in expected.items()}
    assert list(histogram) == list(OPERATIONS)


def test_no_cells_choose_no_operation():
    assert operation_histogram([]) == dict.fromkeys(OPERATIONS, 0)


def test_agreement_of_two_cells_counts_their_same_choices_and_edges():
    np.testing.assert_array_equal(pairwise_agreement([FIRST, SECOND]), [[1, 3 / 8], [3 / 8, 1]])
    np.testing.assert_array_equal(
        pairwise_agreement([FIRST, SECOND], "edges"), [[1, 5 / 8], [5 / 8, 1]]
    )


def test_agreement_of_no_cells_is_an_empty_matrix():
    for part in PARTS:
        assert pairwise_agreement([], part).shape == (0, 0)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_agreement_is_symmetric_and_cells_share_no_more_choices_than_edges(seeds):
    cells = [_random_cell(np.random.default_rng(seed)) for seed in seeds]
    choices, edges = (pairwise_agreement(cells, part) for part in PARTS)
    np.testing.assert_array_equal(choices, choices.T)
    np.testing.assert_array_equal(np.diag(choices), 1)
    assert (choices <= edges).all()
    assert (edges >= 2 / 8).all()  # Node 2 always keeps both.


def test_mean_agreement_leaves_out_each_cell_with_itself():
    assert mean_agreement([FIRST, SECOND, FIRST]) == pytest.approx((3 / 8 + 1 + 3 / 8) / 3)


@pytest.mark.parametrize("cells", [[], [FIRST]])
def test_agreement_of_fewer_than_two_cells_is_refused(cells):
    with pytest.raises(ValueError, match=f"at least two cells to compare; got {len(cells)}"):
        mean_agreement(cells)


def test_random_cells_agree_to_the_degree_computed_by_hand():
    # Shared edges per node, 4/n for n = 2, 3, 4, 5: 2 + 4/3 + 1 + 4/5 = 77/15; by 8: 77/120.
    assert chance("edges") == Fraction(77, 120)
    # One in seven operations is the same.
    assert chance("choices") == Fraction(11, 120)


@pytest.mark.parametrize("part", PARTS)
def test_simulated_random_cells_agree_as_much_as_computed(part):
    random = np.random.default_rng(0)
    pairs = [[_random_cell(random), _random_cell(random)] for _ in range(1500)]
    found = [pairwise_agreement(pair, part)[0, 1] for pair in pairs]
    error = np.std(found) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(float(chance(part)), abs=4 * error)


def _random_cell(random):
    """Return a cell drawn uniformly: two of each node's incoming edges, any operation on each."""
    codes = []
    for node in (2, 3, 4, 5):
        into = np.full(node, -1)
        into[random.choice(node, 2, replace=False)] = random.integers(0, 7, 2)
        codes += into.tolist()
    return Genotype.from_codes(codes)
