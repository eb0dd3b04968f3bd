import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.relaxation import (
    capped_softmax,
    edge_weights,
    operation_weights,
    transformed,
)
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, edges_into

SHAPE = (len(EDGES), len(OPERATIONS))
alphas = hnp.arrays(np.float64, SHAPE, elements=st.floats(-20, 20)).map(torch.from_numpy)
betas = hnp.arrays(np.float64, SHAPE[0], elements=st.floats(-4, 4)).map(torch.from_numpy)
transforms = st.sampled_from(["tanh", "tan"])


@st.composite
def masks(draw):
    active = torch.from_numpy(draw(hnp.arrays(bool, SHAPE)))
    kept = draw(st.lists(st.integers(0, 6), min_size=14, max_size=14))
    active[torch.arange(14), kept] = True
    return active


@st.composite
def distributions(draw, least=2):
    logits = draw(st.lists(st.floats(-8, 8), min_size=least, max_size=5))
    return torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=0)


@given(alphas, masks())
def test_phi_sums_to_one_over_the_active_operations_and_is_zero_elsewhere(alpha, active):
    phi = operation_weights(alpha, active)
    torch.testing.assert_close(phi.sum(dim=1), torch.ones(14, dtype=torch.float64))
    assert (phi[~active] == 0).all()
    assert (phi[active] > 0).all()


def test_phi_is_the_softmax_of_the_active_alphas():
    alpha = torch.full(SHAPE, 9.0, dtype=torch.float64)
    active = torch.zeros(SHAPE, dtype=torch.bool)
    alpha[:, 1:4] = torch.tensor([1.0, 2.0, 5.0]).log()
    active[:, 1:4] = True
    expected = torch.tensor([0, 1 / 8, 2 / 8, 5 / 8, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(operation_weights(alpha, active), expected.expand(SHAPE))


def test_the_only_active_operation_weighs_exactly_one():
    active = torch.zeros(SHAPE, dtype=torch.bool)
    active[:, 4] = True
    alpha = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operation_weights(alpha, active), active.float())


@given(betas, transforms)
def test_psi_sums_to_one_into_each_node_and_never_exceeds_one_half(beta, transform):
    psi = edge_weights(beta, transform)
    for node in INTERMEDIATE_NODES:
        into = psi[list(edges_into(node))]
        assert into.sum().item() == pytest.approx(1)
        assert into.max() <= 0.5
        assert into.min() > 0


def test_uncapped_psi_is_the_softmax_of_tanh_beta_per_node():
    beta = torch.linspace(-2, 2, 14, dtype=torch.float64)
    psi = edge_weights(beta, capped=False)
    for node in INTERMEDIATE_NODES:
        powers = [math.exp(math.tanh(beta[edge])) for edge in edges_into(node)]
        expected = [power / sum(powers) for power in powers]
        assert psi[list(edges_into(node))].tolist() == pytest.approx(expected)


def test_psi_starts_uniform():
    psi = edge_weights(torch.zeros(14))
    expected = [1 / 2] * 2 + [1 / 3] * 3 + [1 / 4] * 4 + [1 / 5] * 5
    assert psi.tolist() == pytest.approx(expected)


def cap(weights):
    """Return what the capped softmax makes of these weights, which sum to one."""
    return capped_softmax(weights.log())


def test_cap_halves_the_largest_and_scales_the_others():
    # 0.5 / (0.3 + 0.1) = 1.25
    capped = cap(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64))
    assert capped.tolist() == pytest.approx([0.5, 0.375, 0.125])
    assert capped[0] == 0.5


def test_cap_leaves_weights_below_one_half_alone():
    weights = torch.tensor([0.2, 0.45, 0.35], dtype=torch.float64)
    torch.testing.assert_close(cap(weights), weights)


@pytest.mark.parametrize("excess", [1e-3, 1e-6, -1e-6, -1e-3])
def test_cap_is_continuous_at_one_half(excess):
    at_half = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    near = at_half + excess * torch.tensor([1, -0.5, -0.5], dtype=torch.float64)
    assert (cap(near) - cap(at_half)).abs().max() <= 1.001 * abs(excess)


@given(distributions())
def test_cap_keeps_the_order(weights):
    capped = cap(weights)
    by_weight = capped[torch.argsort(weights)]
    assert (by_weight.diff() >= -1e-15).all()


@given(distributions(least=3))
def test_cap_scales_all_but_the_largest_alike(weights):
    largest = int(weights.argmax())
    others = torch.arange(len(weights)) != largest
    ratios = cap(weights)[others] / weights[others]
    torch.testing.assert_close(ratios, ratios[:1].expand(len(ratios)), rtol=1e-9, atol=0)


@given(betas, transforms)
def test_node_two_always_takes_half_of_each_input_and_gives_beta_no_gradient(beta, transform):
    beta = beta.clone().requires_grad_()
    psi = edge_weights(beta, transform)
    assert psi[:2].tolist() == [0.5, 0.5]
    factors = torch.linspace(1, 3, 14, dtype=torch.float64)
    (psi * factors).sum().backward()
    assert beta.grad[:2].tolist() == [0, 0]


@pytest.mark.parametrize("transform", ["tanh", "tan"])
def test_every_other_beta_gets_a_gradient(transform):
    beta = torch.zeros(14, dtype=torch.float64, requires_grad=True)
    factors = torch.linspace(1, 3, 14, dtype=torch.float64) ** 2
    (edge_weights(beta, transform) * factors).sum().backward()
    assert (beta.grad[2:] != 0).all()


def test_an_edge_at_the_cap_holds_its_beta_still():
    beta = torch.zeros(14, dtype=torch.float64)
    beta[9] = 3.0
    beta.requires_grad_()
    edge_weights(beta, "tan")[9:].square().sum().backward()
    assert edge_weights(beta, "tan")[9] == 0.5
    assert beta.grad[9] == 0


@pytest.mark.parametrize("transform", ["tanh", "tan"])
@pytest.mark.parametrize("scale", [0.2, 1.2])
def test_the_gradient_of_psi_equals_finite_differences(transform, scale):
    generator = torch.Generator().manual_seed(1)
    beta = scale * torch.randn(14, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda values: edge_weights(values, transform), beta.clamp(-1.4, 1.4).requires_grad_()
    )


def test_tan_is_clamped_before_its_pole():
    beta = torch.tensor([0.0] * 10 + [-1.6, -1.0, 1.0, 1.6], dtype=torch.float64)
    expected = [0.0] * 10 + [-math.tan(1.5), -math.tan(1.0), math.tan(1.0), math.tan(1.5)]
    assert transformed(beta, "tan", 1.5).tolist() == pytest.approx(expected)


def test_psi_is_defined_however_close_to_the_pole_tan_is_clamped():
    beta = torch.full((14,), -4.0)
    beta[[2, 5, 9]] = 4.0
    psi = edge_weights(beta.requires_grad_(), "tan", tan_clamp=1.5707)
    psi.square().sum().backward()
    assert psi[9:].tolist() == [0.5, 0.125, 0.125, 0.125, 0.125]
    assert torch.isfinite(beta.grad).all()
