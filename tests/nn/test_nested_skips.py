import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from torch import nn
from torch.nn import functional

from nnunet_iac.nn.skip_modules import NestedSkips, widen_for_nested_skips
from nnunet_iac.nn.skip_unet import SkipUNet

FEATURES = (4, 6, 8, 10)
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"

dimensions = pytest.mark.parametrize("dimension", [2, 3])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def encoder_outputs(dimension):
    """Return tensors as an encoder of four stages gives them for an image of 16 and 8 pixels."""
    sizes = ((16, 8, 8), (8, 4, 4), (4, 2, 2), (2, 1, 1))
    return [
        torch.randn(2, channels, *size[:dimension], dtype=torch.float64)
        for channels, size in zip(FEATURES, sizes, strict=True)
    ]


def reference_node(state, skips, level, node):
    """X^{level,node} by the paper's recursion, computed anew for every use."""
    if node == 0:
        return skips[level]
    dimension = skips[0].ndim - 2
    convolution = getattr(functional, f"conv{dimension}d")
    transposed = getattr(functional, f"conv_transpose{dimension}d")
    below = reference_node(state, skips, level + 1, node - 1)
    weights = (state[f"ups.{level}_{node}.{key}"] for key in ("weight", "bias"))
    up = transposed(below, *weights, stride=2)
    x = torch.cat([reference_node(state, skips, level, k) for k in range(node)] + [up], dim=1)
    for round_ in range(2):
        prefix = f"nodes.{level}_{node}.convs.{round_}"
        weight, bias = (state[f"{prefix}.conv.{key}"] for key in ("weight", "bias"))
        x = convolution(x, weight, bias, padding=1)
        weight, bias = (state[f"{prefix}.norm.{key}"] for key in ("weight", "bias"))
        x = functional.leaky_relu(functional.instance_norm(x, None, None, weight, bias))
    return x


@dimensions
def test_every_node_equals_the_papers_equation(tiny_unet, dimension):
    nested = NestedSkips(tiny_unet(dimension, FEATURES).encoder).double()
    for parameter in nested.parameters():
        nn.init.normal_(parameter, std=0.5)
    skips = encoder_outputs(dimension)
    for level, nodes in enumerate(nested(skips)):
        for node, x in enumerate(nodes):
            expected = reference_node(nested.state_dict(), skips, level, node)
            torch.testing.assert_close(x, expected)


@dimensions
def test_the_nodes_form_a_triangle_and_have_their_levels_shape(tiny_unet, dimension):
    skips = encoder_outputs(dimension)
    nodes = NestedSkips(tiny_unet(dimension, FEATURES).encoder).double()(skips)
    assert [len(level) for level in nodes] == [3, 2, 1]
    for skip, level in zip(skips[:-1], nodes, strict=True):
        assert level[0] is skip
        assert all(node.shape == skip.shape for node in level)


def test_kernels_and_strides_are_those_of_the_encoder():
    encoder = PlainConvEncoder(
        *(1, 3, (4, 6, 8), nn.Conv3d, [[1, 3, 3], [3, 3, 3], [3, 3, 3]]),
        *([[1, 1, 1], [1, 2, 2], [2, 2, 2]], 1),
        nonlin=nn.ReLU,
        return_skips=True,
    )
    skips = encoder(torch.randn(1, 1, 4, 8, 8))
    nested = NestedSkips(encoder, n_conv_per_stage=1)
    assert [len(level) for level in nested(skips)] == [2, 1]
    assert {key: tuple(p.shape) for key, p in nested.named_parameters() if "all" not in key} == {
        "ups.0_1.weight": (6, 4, 1, 2, 2),
        "nodes.0_1.convs.0.conv.weight": (4, 8, 1, 3, 3),
    }


def test_a_frozen_decoder_takes_the_last_nodes_in_place_of_the_skips(tiny_unet):
    unet = tiny_unet(2, FEATURES).double()
    skips = unet.encoder(torch.randn(1, 2, 16, 16, dtype=torch.float64))
    nodes = NestedSkips(unet.encoder).double()(skips)
    logits = unet.decoder([*(level[-1] for level in nodes), skips[-1]])
    assert logits.shape == (1, 3, 16, 16)


def test_widened_stages_take_all_nodes_and_are_otherwise_as_they_were(tiny_unet):
    decoder, stock = (tiny_unet(2, FEATURES).decoder for _ in range(2))
    widen_for_nested_skips(decoder)
    # [up, X^{2,0}] of 8 channels, [up, X^{1,0}, X^{1,1}] of 6, [up, X^{0,0}, ..., X^{0,2}] of 4
    first = [stage.convs[0].conv for stage in decoder.stages]
    assert [convolution.in_channels for convolution in first] == [16, 18, 16]
    assert [stage.convs[0].input_channels for stage in decoder.stages] == [16, 18, 16]
    wide, narrow = decoder.state_dict(), stock.state_dict()
    assert wide.keys() == narrow.keys()
    changed = {key for key in wide if wide[key].shape != narrow[key].shape}
    assert changed == {
        f"stages.{stage}.convs.0.{name}.weight"
        for stage in (1, 2)
        for name in ("conv", "all_modules.0")
    }


def test_a_gradient_reaches_every_node_under_deep_supervision():
    net = SkipUNet(
        *(1, 2, "nested", UNET),
        deep_supervision=True,
        n_stages=4,
        features_per_stage=FEATURES,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2, 2],
        n_conv_per_stage=1,
        n_conv_per_stage_decoder=1,
        norm_op=nn.InstanceNorm2d,
        nonlin=nn.ReLU,
    )
    outputs = {}
    for name, node in net.implants[0].nodes.items():
        node.register_forward_hook(lambda _, __, x, name=name: outputs.__setitem__(name, x))
    logits = net(torch.randn(1, 1, 16, 16))
    for output in outputs.values():
        output.retain_grad()
    sum(x.square().sum() for x in logits).backward()
    assert outputs.keys() == {"0_1", "0_2", "1_1"}
    assert all(output.grad.abs().max() > 0 for output in outputs.values())
