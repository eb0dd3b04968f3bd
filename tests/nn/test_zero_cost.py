"""Genotypes from initial weights, scored by removal of operations and edges."""

import pytest
import torch
from torch import nn

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.nn.zero_cost import _codes, naswot, zero_cost_genotype

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def image(dimension=2, count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, *(16, 8, 8)[:dimension], generator=generator)


@pytest.fixture
def supernet(tiny_unet):
    """Return a builder of supernets at the weights of a ticket."""

    def build(dimension=2, residual="none"):
        network = IACUNet(tiny_unet(dimension), min_channels=8, residual=residual)
        load_ticket(network, draw_ticket(network, 0))
        return network

    return build


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("residual", ["none", "zero"])
def test_a_genotype_comes_from_initial_weights_and_leaves_them_as_they_were(
    supernet, dimension, residual
):
    network = supernet(dimension, residual)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    genotype = zero_cost_genotype(network, [image(dimension)], seed=3)
    if dimension == 2:
        assert genotype == zero_cost_genotype(network, [image(dimension)], seed=3)
    assert len(genotype.choices) == 8
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network.discretise(genotype)


def test_a_gate_at_zero_does_not_hide_the_cells_and_a_score_is_the_mean_over_batches(supernet):
    gated = supernet(residual="zero")
    one = zero_cost_genotype(gated, [image()], 0)
    assert zero_cost_genotype(gated, [image(), image()], 0) == one
    assert zero_cost_genotype(gated, [-image()], 0) != one


def test_one_image_cannot_be_compared(supernet):
    with pytest.raises(ValueError, match="at least 2; the plans' batch_size is 1"):
        zero_cost_genotype(supernet(), [image(count=1)], 0)


def test_images_that_look_alike_to_the_decoder_cannot_be_compared(supernet):
    with pytest.raises(ValueError, match=r"each of a batch differently; .* is -inf"):
        zero_cost_genotype(supernet(), [image()[[0, 0]]], 0)


def test_naswot_is_the_log_determinant_of_agreements():
    codes = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    # Both agree with themselves in 4 places, with each other in 2: 16 - 4.
    assert naswot([codes]) == pytest.approx(torch.tensor(12.0).log().item())
    assert naswot([codes[:, :2], codes[:, 2:]]) == pytest.approx(naswot([codes]))
    assert naswot([codes[[0, 0]]]) == float("-inf")


def test_only_the_decoders_stages_are_scored(supernet):
    network = supernet()
    with _codes(network) as codes:
        network(image())
    stages = [m for m in network.decoder.stages.modules() if isinstance(m, nn.LeakyReLU)]
    assert len(codes) == len(stages)
