import pytest
import torch

from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import (
    distribution,
    edge_weights,
    importance,
    operation_weights,
    pruning_score,
)
from nnunet_iac.search.settings import Settings

SOFTMAX = Settings()
RAW = Settings(importance="raw")
RAW_STRICT = Settings(importance="raw-strict")


@pytest.fixture
def alpha():
    return torch.randn(14, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def beta():
    return torch.randn(14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def active():
    mask = full_mask()
    mask[:, 2] = False
    mask[4, 3:] = False
    return mask


@pytest.mark.parametrize("transform", ["tanh", "tan"])
def test_softmax_importance_is_phi_times_psi(alpha, beta, active, transform):
    theta = importance(alpha, beta, active, Settings(edge_transform=transform).cell)
    phi, psi = operation_weights(alpha, active), edge_weights(beta, transform)
    torch.testing.assert_close(theta, phi * psi[:, None])
    torch.testing.assert_close(theta.sum(dim=1), psi)


@pytest.mark.parametrize("settings", [RAW, RAW_STRICT], ids=["raw", "raw-strict"])
def test_raw_importance_is_alpha_times_beta_and_zero_where_pruned(alpha, beta, active, settings):
    theta = importance(alpha, beta, active, settings.cell)
    assert theta[0, 5] == alpha[0, 5] * beta[0]
    assert (theta[~active] == 0).all()


def test_softmax_distribution_is_phi_whatever_beta(alpha, beta, active):
    p = distribution(alpha, beta, active, SOFTMAX.cell)
    theta = importance(alpha, beta, active, SOFTMAX.cell)
    torch.testing.assert_close(p, theta / theta.sum(dim=1, keepdim=True))
    assert torch.equal(p, distribution(alpha, -5 * beta, active, SOFTMAX.cell))


def test_raw_distribution_shares_out_the_positive_importances():
    alpha = torch.tensor([-1.0, 1.0, 3.0, -2.0, 0.0, 4.0, 0.0], dtype=torch.float64).expand(14, 7)
    p = distribution(alpha, torch.full((14,), 0.2, dtype=torch.float64), full_mask(), RAW.cell)
    assert p[0].tolist() == pytest.approx([0, 1 / 8, 3 / 8, 0, 0, 4 / 8, 0], abs=1e-10)


def test_raw_distribution_is_uniform_over_the_active_where_nothing_is_positive(alpha, active):
    p = distribution(alpha.abs(), torch.full((14,), -1.0, dtype=torch.float64), active, RAW.cell)
    assert p[0].tolist() == pytest.approx([1 / 6, 1 / 6, 0, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert p[4].tolist() == pytest.approx([1 / 2, 1 / 2, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("sign", [1, -1])
def test_raw_strict_distribution_is_importance_over_its_sum_from_which_beta_cancels(active, sign):
    alpha = torch.arange(1.0, 8.0, dtype=torch.float64).expand(14, 7)
    beta = torch.full((14,), 0.3 * sign, dtype=torch.float64)
    p = distribution(alpha, beta, active, RAW_STRICT.cell)
    assert p[0].tolist() == pytest.approx([1 / 25, 2 / 25, 0, 4 / 25, 5 / 25, 6 / 25, 7 / 25])


@pytest.mark.parametrize("row", [[1, 1, 1, 1, 1, 1, -1], [0] * 7, [1, -1, 0, 0, 0, 0, 0]])
def test_raw_strict_distribution_is_undefined_where_importance_has_both_signs_or_none(row):
    alpha = torch.ones(14, 7, dtype=torch.float64)
    alpha[5] = torch.tensor(row)
    p = distribution(alpha, torch.ones(14, dtype=torch.float64), full_mask(), RAW_STRICT.cell)
    assert torch.isnan(p[5]).all()
    assert torch.isfinite(p[[0, 4, 6, 13]]).all()


@pytest.mark.parametrize("settings", [SOFTMAX, RAW, RAW_STRICT], ids=lambda s: s.cell.importance)
def test_a_pruned_operation_cannot_be_the_least(alpha, beta, active, settings):
    score = pruning_score(alpha, beta, active, settings.cell)
    assert (score[~active] == torch.inf).all()
    assert torch.isfinite(score[active]).all()


def test_the_score_orders_operations_by_alpha_or_by_signed_importance(alpha):
    beta = -torch.ones(14, dtype=torch.float64)
    by_alpha = torch.argsort(alpha, dim=1)
    softmax = torch.argsort(pruning_score(alpha, beta, full_mask(), SOFTMAX.cell), dim=1)
    raw = torch.argsort(pruning_score(alpha, beta, full_mask(), RAW.cell), dim=1)
    assert torch.equal(softmax, by_alpha)
    assert torch.equal(raw, by_alpha.flip(1))
