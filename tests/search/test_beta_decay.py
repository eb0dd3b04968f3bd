import pytest
import torch

from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import beta_decay, beta_decay_weight, operation_weights


def test_the_gradient_is_phi_over_the_edges():
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(14, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    active = full_mask()
    active[2, :4] = False
    beta_decay(alpha, active).backward()
    assert torch.allclose(alpha.grad * 14, operation_weights(alpha.detach(), active))


def test_it_pulls_the_favourite_back_and_leaves_a_uniform_edge_uniform():
    alpha = torch.zeros(14, 7, requires_grad=True)
    alpha.data[0, 3] = 2.0
    beta_decay(alpha, full_mask()).backward()
    assert alpha.grad[0].argmax() == 3
    assert alpha.grad[1].tolist() == pytest.approx([1 / 98] * 7)


@pytest.mark.parametrize(("epoch", "weight"), [(15, 0.0), (20, 25.0), (25, 50.0)])
def test_its_weight_rises_from_the_end_of_the_warmup_to_that_of_the_search(epoch, weight):
    assert beta_decay_weight(epoch, 15, 25, 50.0) == weight
