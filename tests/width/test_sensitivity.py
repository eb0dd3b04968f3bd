import math

import pytest
import torch
from torch import nn

from nnunet_iac.width.sensitivity import prepared, sensitivities


class SeveralOutputs(nn.Module):
    """Logits as a list, like a trainer that does not switch deep supervision off."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return [self.network(x), 100 * x[..., ::2]]


def _pointwise(weights):
    """Return a 1x1 convolution with rows of weights per class."""
    classes, channels = len(weights), len(weights[0])
    network = nn.Conv2d(channels, classes, 1)
    nn.init.zeros_(network.bias)
    network.weight.data = torch.tensor(weights).reshape(classes, channels, 1, 1)
    return prepared(network, "cpu")


def _image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_score_of_a_linear_network_is_computed_by_hand():
    # Every one of 4 x 5 pixels has the gradient (1 + 3, 2 - 5): sqrt(20 * (16 + 9)) = 10 sqrt 5.
    network = _pointwise([[1.0, 2.0], [3.0, -5.0]])
    assert sensitivities(network, [_image(1, 2, 4, 5)]) == [pytest.approx(10 * math.sqrt(5))]


def test_of_several_outputs_the_first_counts():
    network = prepared(SeveralOutputs(_pointwise([[1.0, 2.0], [3.0, -5.0]])), "cpu")
    assert sensitivities(network, [_image(1, 2, 4, 6)]) == [pytest.approx(math.sqrt(24 * 25))]


def test_with_one_logit_per_pixel_every_probe_gives_the_frobenius_norm():
    # J is diagonal: (3, 4) at every one of 6 pixels, whatever the signs. 5 sqrt 6.
    network = _pointwise([[3.0, 4.0]])
    found = sensitivities(network, [_image(1, 2, 2, 3)], "frobenius")
    assert found == [pytest.approx(5 * math.sqrt(6))]


def test_hutchinsons_estimate_approaches_the_frobenius_norm_where_the_sum_cancels():
    # Rows (1, 2) and (-1, -2): the sum of the logits is zero, ||J||_F^2 = 10 per pixel.
    network = _pointwise([[1.0, 2.0], [-1.0, -2.0]])
    image = _image(1, 2, 64, 64)
    assert sensitivities(network, [image]) == [0.0]
    expected = math.sqrt(10 * 64 * 64)
    assert sensitivities(network, [image], "frobenius") == [pytest.approx(expected, rel=0.05)]


def test_frobenius_of_a_small_network_is_near_that_of_its_whole_jacobian(tiny_unet):
    network = prepared(tiny_unet().double(), "cpu")
    image = _image(1, 2, 8, 8).double()
    jacobian = torch.autograd.functional.jacobian(network, image)
    (found,) = sensitivities(network, [image], "frobenius")
    assert found == pytest.approx(float(jacobian.norm()), rel=0.2)


@pytest.mark.parametrize("score", ["sum", "frobenius"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_scores_repeat_and_are_taken_image_by_image(tiny_unet, dimension, score):
    network = prepared(tiny_unet(dimension), "cpu")
    images = [_image(1, 2, *(8,) * dimension, seed=seed) for seed in range(2)]
    found = sensitivities(network, images, score)
    assert found == sensitivities(network, images, score)
    assert found[:1] == sensitivities(network, images[:1], score)
    assert found[0] != found[1]
    assert min(found) > 0


def test_measuring_leaves_images_parameters_and_random_numbers_alone(tiny_unet):
    network, image = prepared(tiny_unet(), "cpu"), _image(1, 2, 8, 8)
    before, random = image.clone(), torch.get_rng_state()
    sensitivities(network, [image], "frobenius")
    assert torch.equal(image, before)
    assert not image.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_batch_norms_take_the_statistics_of_the_image(tiny_unet):
    network = prepared(tiny_unet(norm="Batch"), "cpu")
    image = _image(1, 2, 8, 8)
    # Behind norms of its own statistics an image of twice the contrast has half the gradient.
    once, twice = sensitivities(network, [image, 2 * image])
    assert twice == pytest.approx(once / 2, rel=1e-3)


def test_dropout_is_off():
    network = prepared(nn.Sequential(nn.Dropout(0.5), nn.Conv2d(2, 1, 1)), "cpu")
    image = _image(1, 2, 8, 8)
    assert sensitivities(network, [image]) == sensitivities(network, [image])


def test_blocks_that_start_at_zero_take_part(source):
    network = source("residual").network(8, 0)
    blocks = [m for m in network.modules() if type(m).__name__ == "BasicBlockD"]
    assert blocks
    assert all(not block.conv2.norm.weight.any() for block in blocks)
    prepared(network, "cpu")
    assert all((block.conv2.norm.weight == 1).all() for block in blocks)


def test_bottlenecks_that_start_at_zero_take_part(source):
    given = source("residual")
    kwargs = given.architecture["arch_kwargs"]
    kwargs["block"] = "dynamic_network_architectures.building_blocks.residual.BottleneckD"
    kwargs["bottleneck_channels"] = [4, 4, 4]
    given.architecture["_kw_requires_import"] += ["block"]
    network = given.network(8, 0)
    blocks = [m for m in network.modules() if type(m).__name__ == "BottleneckD"]
    assert blocks
    assert all(not block.conv3.norm.weight.any() for block in blocks)
    prepared(network, "cpu")
    assert all((block.conv3.norm.weight == 1).all() for block in blocks)


def test_batch_norms_on_a_single_voxel_are_refused_with_the_patch():
    network = prepared(nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.BatchNorm2d(2)), "cpu")
    with pytest.raises(ValueError, match="a patch of 4 x 4 it has one"):
        sensitivities(network, [_image(1, 1, 4, 4)])


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="one of sum, frobenius; got 'max'"):
        sensitivities(_pointwise([[1.0]]), [], "max")
