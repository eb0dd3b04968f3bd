"""Contract of everything that maps (skip, up) to a skip, 2-D and 3-D, and what each computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nnunet_iac.nn.cell import CellShape, Layers, ReZero
from nnunet_iac.nn.cost import cell_parameters, mean_parameters
from nnunet_iac.nn.discrete_cell import DiscreteCell
from nnunet_iac.nn.skip_modules import (
    SKIP_MODULES,
    AttentionGate,
    ConvolutionBlock,
    ResidualAttention,
    block_parameters,
    build_skip_module,
    equal_widths,
    require_skip_module,
)
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES, OPERATIONS, Edge

CHANNELS = 8
SHAPE = CellShape(CHANNELS, channels=8, partial_channels=4, output_nodes=4)
SIZES = {2: [(8, 8), (7, 5), (1, 9), (2, 1)], 3: [(4, 4, 8), (3, 5, 7), (1, 6, 1)]}

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def make_layers(dimension, norm="Instance"):
    return Layers(dimension, getattr(nn, f"{norm}Norm{dimension}d"), {"eps": 1e-5})


def uniform_genotype(operation):
    return Genotype(
        tuple(
            Choice(Edge(source, node), operation)
            for node in INTERMEDIATE_NODES
            for source in (node - 2, node - 1)
        )
    )


MODULES = {
    "discrete cell": lambda layers: DiscreteCell(SHAPE, layers, uniform_genotype("sep_conv_3x3")),
    "convolution block": lambda layers: ConvolutionBlock(CHANNELS, (5, 6), layers),
    "attention": lambda layers: build_skip_module("attention", CHANNELS, layers),
    "residual-attention": lambda layers: build_skip_module("residual-attention", CHANNELS, layers),
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=[False, True], ids=["plain", "gated"])
def build(request):
    """Return a builder of modules in float64 with every parameter drawn anew, gates included."""

    def make(name, dimension, norm="Instance"):
        module = MODULES[name](make_layers(dimension, norm))
        module = (ReZero(module) if request.param else module).double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
        return module

    return make


modules = pytest.mark.parametrize("name", MODULES)
sizes = pytest.mark.parametrize("size", SIZES[2] + SIZES[3], ids=str)


def images(size, channels=CHANNELS):
    return [torch.randn(2, channels, *size, dtype=torch.float64) for _ in range(2)]


@modules
@sizes
def test_a_module_keeps_the_shape_and_leaves_its_inputs_alone(build, name, size):
    skip, up = images(size)
    before = skip.clone(), up.clone()
    assert build(name, len(size))(skip, up).shape == skip.shape
    assert torch.equal(skip, before[0])
    assert torch.equal(up, before[1])


@modules
@sizes
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_a_gradient_reaches_every_parameter_and_the_skip(build, name, size, norm):
    module = build(name, len(size), norm)
    skip, up = images(size)
    skip.requires_grad_()
    (module(skip, up) * torch.randn_like(skip)).sum().backward()
    for key, tensor in (*module.named_parameters(), ("skip", skip)):
        assert tensor.grad is not None, key
        assert torch.isfinite(tensor.grad).all(), key
        assert tensor.grad.abs().max() > 0, key


@modules
@dimensions
def test_evaluation_is_deterministic(build, name, dimension):
    module, inputs = build(name, dimension, "Batch").eval(), images(SIZES[dimension][1])
    assert torch.equal(module(*inputs), module(*inputs))


@modules
@dimensions
def test_a_state_dict_carries_the_whole_module(build, name, dimension):
    module, other = (build(name, dimension, "Batch") for _ in range(2))
    inputs = images(SIZES[dimension][1])
    module(*inputs)  # Moves the running statistics.
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(*inputs), module.eval()(*inputs))


@modules
@dimensions
def test_behind_a_closed_gate_a_module_changes_nothing(name, dimension):
    skip, up = images(SIZES[dimension][0])
    gated = ReZero(MODULES[name](make_layers(dimension))).double()
    assert torch.equal(gated(skip, up), skip)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "residual-attention"])
def test_a_module_uses_the_upsampled_tensor(build, name):
    (skip, up), module = images((8, 8)), build(name, 2)
    assert not torch.equal(module(skip, up), module(skip, -up))


def test_residual_attention_does_not_use_the_upsampled_tensor(build):
    (skip, up), module = images((8, 8)), build("residual-attention", 2)
    assert torch.equal(module(skip, up), module(skip, torch.zeros_like(up)))


def test_every_module_but_the_nested_one_is_built_by_name():
    assert SKIP_MODULES == ("attention", "nested", "residual-attention")
    built = [type(MODULES[name](make_layers(2))) for name in SKIP_MODULES if name != "nested"]
    assert built == [AttentionGate, ResidualAttention]
    for name in SKIP_MODULES:
        require_skip_module(name)


def test_an_unknown_skip_module_is_refused_by_name():
    known = "attention, nested, residual-attention"
    with pytest.raises(ValueError, match=f"^skip must be one of {known}; got 'dense'$"):
        require_skip_module("dense")


@dimensions
def test_a_gate_without_weights_halves_the_skip(dimension):
    gate = AttentionGate(CHANNELS, make_layers(dimension)).double()
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    skip, up = images(SIZES[dimension][1])
    assert torch.equal(gate(skip, up), 0.5 * skip)  # sigmoid(0) = 1/2


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        # ReLU(.5 * 2 + 1 * 3 - 1) = 3; sigmoid(2 * 3 - 6) = 1/2; 2 * 1/2
        (2.0, 1.0),
        # ReLU(.5 * -10 + 1 * 3 - 1) = 0; sigmoid(-6) = .0024726; -10 * .0024726
        (-10.0, -0.024726231566),
    ],
)
def test_a_gate_of_one_channel_computes_the_papers_equation(skip, expected):
    gate = AttentionGate(1, make_layers(2)).double()
    values = {
        "of_skip.weight": 0.5,
        "of_gate.weight": 1.0,
        "of_gate.bias": -1.0,
        "psi.weight": 2.0,
        "psi.bias": -6.0,
    }
    assert dict(gate.named_parameters()).keys() == values.keys()
    for key, parameter in gate.named_parameters():
        nn.init.constant_(parameter, values[key])
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert gate(skip * one, 3 * one).item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), dimension=st.sampled_from([2, 3]))
def test_a_gate_scales_all_channels_of_a_voxel_by_one_factor_between_zero_and_one(seed, dimension):
    torch.manual_seed(seed)
    gate = AttentionGate(3, make_layers(dimension)).double()
    skip, up = images((3, 2, 4)[:dimension], channels=3)
    factor = gate(skip, up) / skip
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert factor.min() > 0
    assert factor.max() < 1


@dimensions
def test_residual_attention_without_convolutions_gives_three_halves_of_the_skip(dimension):
    module = ResidualAttention(CHANNELS, make_layers(dimension)).double()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.zeros_(parameter)
    skip, up = images(SIZES[dimension][1])
    # Every residual unit is the identity, so T = skip, and M = sigmoid(0): (1 + 1/2) * skip.
    assert torch.equal(module(skip, up), 1.5 * skip)


@pytest.mark.parametrize(("logit", "factor"), [(-1e3, 1), (1e3, 2)])
@dimensions
def test_a_shut_mask_leaves_the_trunk_and_an_open_one_doubles_it(dimension, logit, factor):
    module = ResidualAttention(CHANNELS, make_layers(dimension)).double()
    norm, _, convolution, _ = module.mask.output[3:]
    nn.init.zeros_(norm.weight)
    nn.init.ones_(norm.bias)  # Ones go into the last convolution, so it gives 8 x the logit.
    nn.init.constant_(convolution.weight, logit)
    skip, up = images(SIZES[dimension][1])
    expected = module.after(factor * module.trunk(module.before(skip)))
    torch.testing.assert_close(module(skip, up), expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_mask_goes_down_and_up_through_rounded_up_halves(steps):
    mask = ResidualAttention(CHANNELS, make_layers(3), steps).mask.double()
    seen = []
    for unit in (*mask.down, *reversed(mask.up)):
        unit.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    x, _ = images((9, 2, 1))
    assert mask(x).shape == x.shape
    down = [(5, 2, 1), (3, 2, 1), (2, 2, 1)][:steps]
    assert seen == down + down[::-1]


@dimensions
def test_the_convolution_block_equals_its_definition(build, dimension):
    block = ConvolutionBlock(CHANNELS, (5, 6), make_layers(dimension)).double()
    skip, up = images(SIZES[dimension][1])
    state = {key.removeprefix("convolutions."): value for key, value in block.state_dict().items()}
    convolution = functional.conv2d if dimension == 2 else functional.conv3d
    x = convolution(torch.cat((skip, up), dim=1), state["0.weight"])
    x = functional.relu(functional.instance_norm(x, None, None, state["1.weight"], state["1.bias"]))
    x = convolution(x, state["3.weight"], padding=1)
    x = functional.relu(functional.instance_norm(x, None, None, state["4.weight"], state["4.bias"]))
    x = convolution(x, state["6.weight"], state["6.bias"])
    torch.testing.assert_close(block(skip, up), x)


@dimensions
def test_a_blocks_widths_are_read_from_its_weights(dimension):
    block = ConvolutionBlock(CHANNELS, (5, 6), make_layers(dimension))
    assert ConvolutionBlock.widths_of(block.state_dict()) == (5, 6)
    state = {f"implants.0.{key}": value for key, value in block.state_dict().items()}
    assert ConvolutionBlock.widths_of(state, "implants.0.") == (5, 6)


widths = st.integers(1, 40)


@given(channels=st.integers(1, 64), first=widths, second=widths, dimension=st.sampled_from([2, 3]))
def test_a_blocks_parameters_are_counted_without_building_it(channels, first, second, dimension):
    layers = make_layers(dimension)
    with torch.device("meta"):
        block = ConvolutionBlock(channels, (first, second), layers)
    counted = block_parameters(channels, (first, second), layers)
    assert counted == sum(parameter.numel() for parameter in block.parameters())


@dimensions
@pytest.mark.parametrize("channels", [16, 32, 64, 128, 256, 320, 512])
@pytest.mark.parametrize("cell", ["mean", *OPERATIONS])
def test_a_block_has_as_many_parameters_as_a_cell_within_one_percent(dimension, channels, cell):
    layers = make_layers(dimension)
    shape = CellShape.of_level(channels)
    if cell == "mean":
        wanted = mean_parameters(shape, layers)
    else:
        wanted = cell_parameters(shape, layers, uniform_genotype(cell))
    found = equal_widths(channels, wanted, layers)
    assert block_parameters(channels, found, layers) == pytest.approx(wanted, rel=0.01)
    assert max(found) <= 2 * min(found)


@given(channels=st.integers(1, 64), width=st.integers(1, 64), dimension=st.sampled_from([2, 3]))
def test_a_balanced_block_of_exactly_that_number_is_found(channels, width, dimension):
    layers = make_layers(dimension)
    wanted = block_parameters(channels, (width, width), layers)
    assert equal_widths(channels, wanted, layers) == (width, width)


@given(channels=st.integers(1, 8), surplus=st.integers(0, 300), dimension=st.sampled_from([2, 3]))
def test_no_block_is_closer_unless_balance_was_worth_one_percent(channels, surplus, dimension):
    layers = make_layers(dimension)
    wanted = block_parameters(channels, (1, 1), layers) + surplus
    miss = abs(block_parameters(channels, equal_widths(channels, wanted, layers), layers) - wanted)
    # The surplus is below 300 and a channel more costs at least 12 parameters.
    possible = ((first, second) for first in range(1, 30) for second in range(1, 30))
    least = min(abs(block_parameters(channels, pair, layers) - wanted) for pair in possible)
    assert miss <= max(least, 0.01 * wanted)


def test_a_number_below_the_smallest_blocks_is_refused():
    # 8 channels, 2-D, widths (1, 1): 16 + 2 + 9 + 2 + 8 + 8 = 45
    assert equal_widths(8, 45, make_layers(2)) == (1, 1)
    with pytest.raises(ValueError, match=r"for 8 skip channels must have at least 45 .*; got 44:"):
        equal_widths(8, 44, make_layers(2))


def test_the_mean_cell_has_the_parameters_computed_by_hand():
    # Projections: 2 (6 8 + 16) = 128; output: 32 6 + 6 = 198. Of an edge: no parameters three
    # times, sep 3x3: 2 (72 + 64 + 16) = 304, sep 5x5: 2 (200 + 64 + 16) = 560, dil 3x3: 152, dil
    # 5x5: 280; on average 1296 / 7. In all 326 + 8 1296 / 7 = 1807.14.
    shape, layers = CellShape(6, 8, 4, 4), make_layers(2)
    assert cell_parameters(shape, layers, uniform_genotype("identity")) == 326
    assert cell_parameters(shape, layers, uniform_genotype("dil_conv_5x5")) == 326 + 8 * 280
    assert mean_parameters(shape, layers) == 1807


@dimensions
def test_a_cells_parameters_are_those_of_the_built_cell(dimension, random_genotype):
    layers = make_layers(dimension, "Batch")
    for seed in range(5):
        cell = DiscreteCell(SHAPE, layers, random_genotype(seed))
        counted = cell_parameters(SHAPE, layers, cell.genotype)
        assert counted == sum(parameter.numel() for parameter in cell.parameters())


def test_counting_parameters_draws_no_random_numbers():
    before = torch.get_rng_state()
    mean_parameters(SHAPE, make_layers(2))
    assert torch.equal(torch.get_rng_state(), before)
