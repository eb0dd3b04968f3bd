"""Parameters and multiply-accumulates (MACs) against the papers, and against arithmetic by hand.

Networks are built and run on the meta device, which computes shapes only.
"""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_iac.nn.cell import Layers
from nnunet_iac.nn.skip_modules import AttentionGate, ResidualAttention
from nnunet_iac.nn.skip_unet import SkipUNet

FILTERS = (32, 64, 128, 256, 512)
"""Channels of U-Net and U-Net++ in Zhou et al. 2018."""
ZHOU = {
    "n_stages": 5,
    "features_per_stage": FILTERS,
    "conv_op": nn.Conv2d,
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2, 2],
    "n_conv_per_stage": 2,
    "n_conv_per_stage_decoder": 2,
    "conv_bias": True,
    "nonlin": nn.ReLU,
}
LAYERS = {d: Layers(d, getattr(nn, f"BatchNorm{d}d")) for d in (2, 3)}


@pytest.fixture(autouse=True)
def _meta():
    with torch.device("meta"):
        yield


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module, *shape, inputs=1):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*(torch.zeros(1, *shape) for _ in range(inputs)))
    return counter.get_total_flops() // 2


def in_millions(count):
    return f"{count / 1e6:.2f} M"


def two_convolutions(inputs, outputs):
    """Return the weights of two 3x3 convolutions and their biases."""
    return 9 * (inputs * outputs + outputs * outputs), 2 * outputs


def expected_counts(side, nested):
    """Return parameters and MACs of Zhou's networks by their equations.

    One input channel, one class, logits from the highest resolution only. Node (i, j) of U-Net++
    takes j tensors of its level and the upsampled one; U-Net has the nodes (i, 4 - i) only, with
    two tensors each.
    """
    inputs = (1, *FILTERS)
    count, work = FILTERS[0] + 1, side**2 * FILTERS[0]  # The logits' 1x1 convolution.
    for level, filters in enumerate(FILTERS):
        pixels = (side >> level) ** 2
        weights, biases = two_convolutions(inputs[level], filters)
        count, work = count + weights + biases, work + pixels * weights
        if level == 4:
            break
        for node in range(1, 5 - level) if nested else (1,):
            weights, biases = two_convolutions((node + 1) * filters, filters)
            up = 4 * FILTERS[level + 1] * filters  # A transposed 2x2 convolution of stride 2.
            count += weights + biases + up + filters
            work += pixels * weights + pixels // 4 * up
    return count, work


LOWER_HEADS = sum(filters + 1 for filters in FILTERS[1:4])
"""Parameters of the logits of lower resolutions, which nnU-Net always builds: 451."""


def test_unet_has_the_parameters_that_zhou_et_al_print():
    """Zhou et al. 2018 print 7.76 M. They pool by max; the counts are those of strides."""
    unet = PlainConvUNet(1, num_classes=1, **ZHOU)
    count, work = expected_counts(96, nested=False)
    assert count == 7_759_521
    assert parameters(unet) == count + LOWER_HEADS
    assert in_millions(parameters(unet)) == in_millions(count) == "7.76 M"
    assert macs(unet, 1, 96, 96) == work


def test_nested_skips_have_the_parameters_that_zhou_et_al_print():
    """Zhou et al. 2018 print 9.04 M for U-Net++, with and without deep supervision."""
    unet = f"{PlainConvUNet.__module__}.PlainConvUNet"
    net = SkipUNet(1, 1, "nested", unet, **ZHOU)
    count, work = expected_counts(96, nested=True)
    assert count == 9_041_601
    assert parameters(net) == count + LOWER_HEADS
    assert in_millions(parameters(net)) == in_millions(count) == "9.04 M"
    assert macs(net, 1, 96, 96) == work


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_gate_has_the_counts_of_the_papers_equation(dimension):
    """Oktay et al. 2018, eq. 1: W_x, W_g and b_g with F_int = C, psi and b_psi.

    The paper prints 5.88 M for its 3-D U-Net and 6.40 M with gates. This gate cannot add that
    difference: theirs are two per level on a grid of half the resolution, so that W_x is a strided
    2x2x2 convolution, W_g takes the channels of the level below, and a convolution with norm
    follows each product.
    """
    gate = AttentionGate(64, LAYERS[dimension])
    # 64 64 + 64 64 + 64 + 64 + 1
    assert parameters(gate) == 8321
    # 256 voxels of 64 64 + 64 64 + 64
    size = (16, 16) if dimension == 2 else (4, 8, 8)
    assert macs(gate, 64, *size, inputs=2) == 256 * 8256


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("channels", [8, 64])
def test_a_gate_is_monais_without_norms_and_without_the_second_bias(dimension, channels):
    """MONAI's W_x has a bias too; next to b_g it adds nothing, and eq. 1 has none."""
    attentionunet = pytest.importorskip("monai.networks.nets.attentionunet")
    block = attentionunet.AttentionBlock(dimension, f_int=channels, f_g=channels, f_l=channels)
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    others = parameters(block) - sum(parameters(norm) for norm in norms)
    gate = AttentionGate(channels, LAYERS[dimension])
    assert len(norms) == 3
    assert parameters(gate) == others - channels


def test_residual_attention_has_the_counts_of_the_papers_figure():
    """Wang et al. 2017, fig. 2, with p = 1, t = 2, r = 1 and two poolings, for 64 channels."""
    module = ResidualAttention(64, LAYERS[2])
    # A unit: 64 16 + 9 16 16 + 16 64 = 4352 weights, norms of 2 (64 + 16 + 16) = 192 parameters.
    # One before, two in the trunk, two down, one across, two up, one after: 9. Then two 1x1
    # convolutions of 64 64 with norms of 2 64.
    assert parameters(module) == 9 * (4352 + 192) + 2 * (4096 + 128)
    # Before, trunk and after on 16 16 pixels, one down, across and up on 8 8, one each on 4 4.
    units = 4352 * (4 * 256 + 3 * 64 + 2 * 16)
    assert macs(module, 64, 16, 16, inputs=2) == units + 256 * 2 * 4096


def test_attention_56_is_as_large_as_wang_et_al_print():
    """The paper prints 31.9 M parameters and 6.2 G operations for Attention-56 at 224 x 224.

    The network is one attention module in each of three stages, with 3, 2 and 1 poolings, and
    what stands around them, which is counted here by hand. The authors' norm holds mean and
    variance as parameters, so the sum includes running statistics; without them it is 31.81 M.
    The operations are 6.27 G, printed as 6.2.
    """
    count = work = 0
    for channels, side, steps in ((256, 56, 3), (512, 28, 2), (1024, 14, 1)):
        module = ResidualAttention(channels, LAYERS[2], steps)
        statistics = [b.numel() for key, b in module.named_buffers() if "running" in key]
        count += parameters(module) + sum(statistics)
        work += macs(module, channels, side, side, inputs=2)

    # The first convolution, 7x7 to 64 channels of 112 x 112, and the last layer: 2048 to 1000.
    count += 49 * 3 * 64 + 2048 * 1000 + 1000
    work += 112**2 * 49 * 3 * 64 + 2048 * 1000
    norms = 64 + 2048  # Behind the first convolution and before the last layer.
    # Residual units: (inputs, width, outputs, side before, side after); the 3x3 has the stride.
    # Those that change the channels have a 1x1 convolution beside them.
    for inputs, width, outputs, before, after in (
        (64, 64, 256, 56, 56),
        (256, 128, 512, 56, 28),
        (512, 256, 1024, 28, 14),
        (1024, 512, 2048, 14, 7),
        (2048, 512, 2048, 7, 7),
        (2048, 512, 2048, 7, 7),
    ):
        beside = inputs * outputs if inputs != outputs else 0
        rest = 9 * width * width + width * outputs + beside
        count += inputs * width + rest
        work += before**2 * inputs * width + after**2 * rest
        norms += inputs + 2 * width
    count += 4 * norms  # Scale, shift, mean and variance.
    assert f"{count / 1e6:.1f} M" == "31.9 M"
    assert f"{work / 1e9:.2f} G" == "6.27 G"
