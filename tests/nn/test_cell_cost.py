import pytest
import torch
from torch import nn

from nnunet_iac.nn.cost import cell_costs, multiply_accumulates, network_cost
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.search.cost import Cost

dimensions = pytest.mark.parametrize("dimension", [2, 3])
PATCH = (16, 8, 8)


def measured(network, dimension):
    """Return what a real forward pass of a network costs; alpha and beta are no part of cells."""
    cost = network_cost(network, 2, PATCH[:dimension], torch.device("cpu"))
    searched = {"alpha", "beta"} & dict(network.named_parameters()).keys()
    return Cost(cost.parameters - (98 + 14 if searched else 0), cost.macs)


@dimensions
@pytest.mark.parametrize(("norm", "deep_supervision"), [("Instance", True), ("Batch", False)])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"residual": "zero"},
        {"norm": "batch", "output_nodes": 2},
        {"channel_ratio": 0.8, "partial_channels": 2},
    ],
    ids=str,
)
def test_the_parts_add_up_to_the_measured_cost_of_the_whole_network(
    tiny_unet, random_genotype, dimension, norm, deep_supervision, values
):
    unet = tiny_unet(dimension, norm=norm, deep_supervision=deep_supervision)
    network = IACUNet(unet, **{"min_channels": 8, **values})
    costs = cell_costs(network, 2, PATCH[:dimension])
    assert costs.backbone == measured(unet, dimension)
    for seed in range(6):
        network.discretise(random_genotype(seed))
        assert costs.backbone + costs.of(random_genotype(seed)) == measured(network, dimension)


def test_tuned_norms_are_none_of_the_backbones_costs(tiny_unet):
    unet = tiny_unet(2)
    alone = measured(unet, 2)
    network = IACUNet(unet, min_channels=8, decoder_norms="tuned")
    assert cell_costs(network, 2, PATCH[:2]).backbone.macs == alone.macs


@dimensions
def test_other_strides_on_every_axis_are_those_of_the_network(
    tiny_unet, random_genotype, dimension
):
    unet = tiny_unet(dimension, features=(8, 16, 24, 24))
    anisotropic = [(1, 1, 1), (2, 1, 2), (1, 2, 1), (2, 2, 2)]
    unet = type(unet)(
        2,
        4,
        (8, 16, 24, 24),
        unet.encoder.conv_op,
        3,
        [stride[:dimension] for stride in anisotropic],
        1,
        3,
        1,
        norm_op=unet.encoder.norm_op,
        nonlin=nn.LeakyReLU,
    )
    network = IACUNet(unet, min_channels=8)
    costs = cell_costs(network, 2, PATCH[:dimension])
    network.discretise(random_genotype(0))
    assert costs.backbone + costs.of(random_genotype(0)) == measured(network, dimension)


def test_the_parts_of_a_small_cell_counted_by_hand(tiny_unet):
    # Skips of 8 channels at 16x8 = 128 pixels and of 16 channels at 8x4 = 32; C = 8 at both.
    costs = cell_costs(IACUNet(tiny_unet(), min_channels=8, residual="none"), 2, (16, 8))
    # Two projections to C without bias, each with scale and shift, and the output from 4C with
    # bias: 2 (8*8 + 16) + 4*8*8 + 8 = 424; 2 (16*8 + 16) + 4*8*16 + 16 = 816.
    # MACs: 128 (2*8*8 + 4*8*8) + 32 (2*16*8 + 4*8*16) = 128*384 + 32*768.
    assert costs.fixed == Cost(424 + 816, 128 * 384 + 32 * 768)
    # Depthwise 9C or 25C, pointwise C*C, scale and shift 2C; separable ones have two rounds.
    # MACs of one round: (9C + C*C) or (25C + C*C) per pixel, 160 pixels in both levels.
    assert costs.operations == {
        "identity": Cost(0, 0),
        "max_pool_3x3": Cost(0, 0),
        # A convolution by ones: nine products per channel, and nine to count the neighbours.
        "avg_pool_3x3": Cost(0, 160 * (9 * 8 + 9)),
        "sep_conv_3x3": Cost(2 * 2 * (72 + 64 + 16), 2 * 160 * (72 + 64)),
        "sep_conv_5x5": Cost(2 * 2 * (200 + 64 + 16), 2 * 160 * (200 + 64)),
        "dil_conv_3x3": Cost(2 * (72 + 64 + 16), 160 * (72 + 64)),
        "dil_conv_5x5": Cost(2 * (200 + 64 + 16), 160 * (200 + 64)),
    }


def test_implants_are_left_out_of_account_and_nothing_is_changed(tiny_unet, random_genotype):
    network = IACUNet(tiny_unet(norm="Batch"), min_channels=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = cell_costs(network, 2, (16, 8))
    network.discretise(random_genotype(0))
    assert cell_costs(network, 2, (16, 8)) == expected
    for key, value in network.backbone_state().items():
        assert torch.equal(value, before[key])
    assert network.training
    assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())


def test_a_patch_too_large_for_any_memory_is_counted(tiny_unet):
    # One float32 tensor of 8 channels would take 2 TiB.
    costs = cell_costs(IACUNet(tiny_unet(3), min_channels=8), 2, (4096, 4096, 4096))
    # Per voxel: the parts by hand with 27 neighbours; 1 + 1/8 of the voxels in both levels.
    assert costs.operations["dil_conv_3x3"].macs == 4096**3 * 9 // 8 * (27 * 8 + 8 * 8)


def test_counting_leaves_the_mode_of_a_module_as_it_was():
    norm = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    # 2 output channels x 9 weights at 2x2 positions.
    assert multiply_accumulates(norm.train(), torch.zeros(1, 1, 4, 4)) == 72
    assert norm.training
    assert norm[1].num_batches_tracked == 0


def test_an_encoder_whose_norm_no_cell_can_have_is_refused(tiny_unet):
    unet = tiny_unet()
    unet.encoder.norm_op = None
    with pytest.raises(ValueError, match=r"norm_op = None: use plans"):
        IACUNet(unet)
