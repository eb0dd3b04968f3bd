"""Retrofits built from values, and from the plans of exported models."""

import pytest
import torch

from nnunet_iac import retrofit
from nnunet_iac.host.export import retrofit_architecture
from nnunet_iac.nn.cell import ReZero
from nnunet_iac.nn.cost import cell_parameters
from nnunet_iac.nn.discrete_cell import DiscreteCell
from nnunet_iac.nn.planned_retrofit import planned_retrofit
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.nn.skip_modules import (
    AttentionGate,
    ConvolutionBlock,
    ResidualAttention,
    equal_widths,
)
from nnunet_iac.search.settings import Settings

OLD_PLANS = {
    "channel_ratio": 0.25,
    "min_channels": 8,
    "partial_channels": 4,
    "output_nodes": 4,
    "norm": "plans",
    "residual": "none",
    "decoder_norms": "frozen",
    "edge_transform": "tanh",
    "tan_clamp": 1.5,
}
"""What exported plans hold beside `skip` or `genotype`."""
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def planned(settings):
    return planned_retrofit(
        2,
        3,
        UNET,
        settings,
        n_stages=3,
        features_per_stage=[8, 16, 24],
        conv_op=torch.nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_conv_per_stage=1,
        n_conv_per_stage_decoder=1,
        norm_op=torch.nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=torch.nn.LeakyReLU,
    )


@pytest.mark.parametrize(
    ("implant", "kind"),
    [
        ({"skip": "cell"}, SearchCell),
        ({}, SearchCell),
        ({"genotype": "conv"}, ConvolutionBlock),
        ({"skip": "attention"}, AttentionGate),
        ({"skip": "residual-attention"}, ResidualAttention),
    ],
)
def test_the_plans_of_an_exported_model_are_built(implant, kind):
    network = planned({**OLD_PLANS, **implant})
    assert {type(module) for module in network.implants} == {kind}
    assert [shape.channels for shape in network.shapes] == [8, 8]
    assert network(torch.randn(1, 2, 16, 16)).shape == (1, 3, 16, 16)


def test_nested_skips_of_an_exported_model_are_built():
    network = planned({**OLD_PLANS, "skip": "nested", "residual": "zero"})
    assert [name for name, _ in network.implants[0].named_parameters() if "gate" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"trained_backbone": "norms"},
            "'trained_backbone' must be one of none, decoder, all; got",
        ),
        ({"finetune_lr": 0.1}, "must be described by .*; got 'finetune_lr': leave it out"),
        ({"genotype": "random:1"}, "genotype in exported plans must be conv.*'random:1'"),
        ({"genotype": "conv", "skip": "nested"}, "without skip; got .* skip='nested'"),
        ({"skip": "dense"}, "implant must be one of cell, convolution, .*; got 'dense'"),
        ({"norm": "group"}, "'norm' must be one of plans, batch; got 'group'"),
        ({"channel_ratio": "0.5"}, "'channel_ratio' must be a finite number; got '0.5'"),
        ({"channel_ratio": 2}, r"'channel_ratio' must be \(0, 1\]; got 2"),
        ({"min_channels": 0}, "'min_channels' must be >= 1 and <= 4,096; got 0"),
        ({"partial_channels": 2.0}, "'partial_channels' must be an integer; got 2.0"),
        ({"output_nodes": 5}, "'output_nodes' must be 1, 2, 3 or 4; got 5"),
        ({"tan_clamp": 1.6}, r"'tan_clamp' must be \(0, pi/2\); got 1.6"),
        ({"activation_checkpointing": 1}, "must be true or false; got 1"),
    ],
)
def test_plans_that_describe_no_retrofit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        planned({**OLD_PLANS, **changes})


def test_a_genotype_gives_its_discrete_cells(tiny_unet, random_genotype):
    network = retrofit(tiny_unet(), random_genotype(1), min_channels=8)
    assert network.genotype == random_genotype(1)
    assert {type(implant) for implant in network.implants} == {ReZero}
    assert all(isinstance(cell, DiscreteCell) for cell in network.cells())


def test_a_genotype_gives_a_convolution_as_many_parameters_as_its_cell(tiny_unet, random_genotype):
    network = retrofit(tiny_unet(), random_genotype(1), implant="convolution", residual="none")
    for block, (shape, layers) in zip(network.implants, network.levels(), strict=True):
        wanted = cell_parameters(shape, layers, random_genotype(1))
        widths = ConvolutionBlock.widths_of(block.state_dict())
        assert widths == equal_widths(shape.skip_channels, wanted, layers)


def test_other_implants_have_no_genotype(tiny_unet, random_genotype):
    with pytest.raises(ValueError, match="a cell or a convolution; implant is 'attention'"):
        retrofit(tiny_unet(), random_genotype(0), implant="attention")


def test_a_misspelt_value_is_refused(tiny_unet):
    with pytest.raises(ValueError, match="got 'chanel_ratio'"):
        retrofit(tiny_unet(), chanel_ratio=0.5)


@pytest.mark.parametrize("values", [{}, {"skip": "nested"}, {"genotype": "conv"}], ids=str)
def test_the_defaults_are_those_of_the_settings(tiny_unet, values):
    arguments = Settings(**values).cell.network_arguments()
    networks = [
        retrofit(tiny_unet(), **chosen) for chosen in (arguments, {"implant": arguments["implant"]})
    ]
    states = [
        {key: tensor.shape for key, tensor in network.state_dict().items()} for network in networks
    ]
    assert states[0] == states[1]
    names = ("residual", "norm", "activation_checkpointing", "trained_backbone", "shapes")
    for name in (*names, "edge_transform", "tan_clamp"):
        first, second = (getattr(network, name, None) for network in networks)
        assert first == second


@pytest.mark.parametrize("values", [{}, {"skip": "attention"}, {"genotype": "conv"}], ids=str)
def test_what_the_export_writes_can_be_built(values):
    settings = Settings(**values)
    plans = {
        "architecture": {
            "network_class_name": UNET,
            "arch_kwargs": {},
            "_kw_requires_import": [],
        }
    }
    written = retrofit_architecture(plans, settings.cell.structure)["arch_kwargs"]["settings"]
    assert type(planned(written)) is type(planned({**OLD_PLANS, **values}))
