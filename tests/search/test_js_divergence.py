import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from nnunet_iac.search.pruning import js_divergence


@st.composite
def distributions(draw):
    weights = np.array(
        draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1)), min_size=7, max_size=7))
    )
    weights[draw(st.integers(0, 6))] += 0.5
    return torch.from_numpy(weights / weights.sum())


@given(distributions(), distributions())
def test_js_divergence_equals_scipys(p, q):
    expected = jensenshannon(p.numpy(), q.numpy()) ** 2
    assert js_divergence(p, q).item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


@given(distributions(), distributions())
def test_js_divergence_is_symmetric(p, q):
    assert js_divergence(p, q).item() == pytest.approx(js_divergence(q, p).item(), abs=1e-15)


@given(distributions(), distributions())
def test_js_divergence_lies_between_pinskers_bound_and_ln_two(p, q):
    divergence = js_divergence(p, q).item()
    assert (p - q).abs().sum().item() ** 2 / 8 - 1e-14 <= divergence <= math.log(2) + 1e-14


@given(distributions())
def test_js_divergence_of_equal_distributions_is_exactly_zero(p):
    assert js_divergence(p, p.clone()).item() == 0


def test_js_divergence_of_disjoint_distributions_is_ln_two():
    p = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert js_divergence(p, p.flip(0)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("operations", "expected"), [(7, 0.05), (2, 0.22)])
def test_losing_one_of_n_uniform_operations_alone_costs_what_the_formula_has(operations, expected):
    before = torch.full((operations,), 1 / operations, dtype=torch.float64)
    after = torch.full((operations,), 1 / (operations - 1), dtype=torch.float64)
    after[0] = 0.0
    assert js_divergence(before, after).item() == pytest.approx(expected, abs=0.005)


def test_js_divergence_is_taken_per_row():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    q = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    assert js_divergence(p, q).tolist() == pytest.approx([math.log(2), 0])


@pytest.mark.parametrize("entry", [-0.1, math.nan])
def test_js_divergence_is_nan_where_an_entry_is_negative_or_nan(entry):
    valid = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    broken = valid.clone()
    broken[0] = torch.tensor([entry, 1.1])
    for divergence in (js_divergence(valid, broken), js_divergence(broken, valid)):
        assert torch.isnan(divergence).tolist() == [True, False]
