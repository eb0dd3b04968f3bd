"""Contract of both cells: every operation, 2-D and 3-D, instance and batch norm.

The reference implementations below use torch.nn.functional and nothing of the package but names.
"""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional

from nnunet_iac.nn.cell import (
    AveragePool,
    Cell,
    CellShape,
    Layers,
    ReZero,
    build_operation,
)
from nnunet_iac.nn.cost import cell_costs
from nnunet_iac.nn.discrete_cell import DiscreteCell
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge

ALL_OPERATIONS = Genotype(
    (
        Choice(Edge(0, 2), "identity"),
        Choice(Edge(1, 2), "max_pool_3x3"),
        Choice(Edge(1, 3), "avg_pool_3x3"),
        Choice(Edge(2, 3), "sep_conv_3x3"),
        Choice(Edge(0, 4), "sep_conv_5x5"),
        Choice(Edge(2, 4), "dil_conv_3x3"),
        Choice(Edge(3, 5), "dil_conv_5x5"),
        Choice(Edge(4, 5), "sep_conv_3x3"),
    )
)
SHAPE = CellShape(skip_channels=6, channels=8, partial_channels=4, output_nodes=4)
SPATIAL = {2: (7, 6), 3: (5, 4, 6)}

dimensions = pytest.mark.parametrize("dimension", [2, 3])
norms = pytest.mark.parametrize("norm", ["Instance", "Batch"])
operations = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_layers(dimension, norm="Instance"):
    return Layers(dimension, getattr(nn, f"{norm}Norm{dimension}d"), {"eps": 1e-3})


def image(dimension, channels=SHAPE.skip_channels):
    return torch.randn(2, channels, *SPATIAL[dimension], dtype=torch.float64)


def randomised(module):
    """Return the module in float64 with every parameter drawn anew, norms' included."""
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def reference_norm(x, weight=None, bias=None):
    """Instance norm written out."""
    axes = tuple(range(2, x.ndim))
    x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-3).sqrt()
    if weight is None:
        return x
    column = (-1,) + (1,) * len(axes)
    return x * weight.view(column) + bias.view(column)


def reference_conv(x, weight, bias=None, dilation=1, groups=1):
    convolution = functional.conv2d if x.ndim == 4 else functional.conv3d
    padding = dilation * (weight.shape[-1] // 2)
    return convolution(x, weight, bias, padding=padding, dilation=dilation, groups=groups)


def reference_avg_pool(x):
    """The sum of the neighbours divided by their number, which is smaller at the border."""
    kernel = torch.ones(x.shape[1], 1, *[3] * (x.ndim - 2), dtype=x.dtype)
    total = reference_conv(x, kernel, groups=x.shape[1])
    return total / reference_conv(torch.ones_like(x), kernel, groups=x.shape[1])


def reference_separable_conv(x, state, prefix, dilation):
    x = reference_conv(functional.relu(x), state[f"{prefix}1.weight"], None, dilation, x.shape[1])
    x = reference_conv(x, state[f"{prefix}2.weight"])
    return reference_norm(x, state.get(f"{prefix}3.weight"), state.get(f"{prefix}3.bias"))


def reference_operation(name, x, state, prefix, pool_norm):
    if name == "identity":
        return x
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        max_pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
        x = max_pool(x, 3, 1, 1) if name == "max_pool_3x3" else reference_avg_pool(x)
        return reference_norm(x) if pool_norm else x
    if name in ("sep_conv_3x3", "sep_conv_5x5"):
        x = reference_separable_conv(x, state, f"{prefix}0.", dilation=1)
        return reference_separable_conv(x, state, f"{prefix}1.", dilation=1)
    return reference_separable_conv(x, state, prefix, dilation=2)


def reference_cell(cell, skip, up, edge_output):
    """The graph of a cell; `edge_output(edge, x)` is what the edge adds, or None."""
    state = cell.state_dict()
    nodes = []
    for index, x in enumerate((skip, up)):
        x = reference_conv(functional.relu(x), state[f"projections.{index}.1.weight"])
        weight, bias = (state.get(f"projections.{index}.2.{name}") for name in ("weight", "bias"))
        nodes.append(reference_norm(x, weight, bias))
    for node in INTERMEDIATE_NODES:
        terms = [edge_output(e, nodes[e.source]) for e in EDGES if e.target == node]
        nodes.append(torch.stack([term for term in terms if term is not None]).sum(0))
    joined = torch.cat(nodes[-cell.shape.output_nodes :], dim=1)
    return reference_conv(joined, state["output.weight"], state["output.bias"])


def reference_search_cell(cell, skip, up, phi, psi):
    state, groups = cell.state_dict(), cell.shape.partial_channels
    width = cell.shape.channels // groups

    def edge_output(edge, x):
        index = EDGES.index(edge)
        mixed = torch.zeros_like(x[:, :width])
        for o, name in enumerate(OPERATIONS):
            if phi[index, o] > 0:
                prefix = f"edges.{edge.name}.{name}."
                mixed += phi[index, o] * reference_operation(
                    name, x[:, :width], state, prefix, True
                )
        joined = torch.cat((mixed, x[:, width:]), dim=1)
        order = [group * width + place for place in range(width) for group in range(groups)]
        return psi[index] * joined[:, order]

    return reference_cell(cell, skip, up, edge_output)


def mixing(active=None):
    """Return random (phi, Psi)."""
    active = torch.ones(14, 7, dtype=torch.bool) if active is None else active
    alpha, beta = torch.randn(14, 7, dtype=torch.float64), torch.randn(14, dtype=torch.float64)
    return operation_weights(alpha, active), edge_weights(beta)


@dimensions
@norms
@operations
@pytest.mark.parametrize("final", [False, True], ids=["searching", "final"])
def test_an_operation_keeps_the_shape(dimension, norm, operation, final):
    module = build_operation(operation, 8, make_layers(dimension, norm), searching=not final)
    x = image(dimension, 8).float()
    before = x.clone()
    assert module(x).shape == x.shape
    assert torch.equal(x, before)


@dimensions
@operations
@pytest.mark.parametrize("final", [False, True], ids=["searching", "final"])
def test_an_operation_equals_its_definition(dimension, operation, final):
    layers = make_layers(dimension)
    module = randomised(build_operation(operation, 8, layers, searching=not final))
    x = image(dimension, 8)
    expected = reference_operation(operation, x, module.state_dict(), "", pool_norm=not final)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


@dimensions
def test_average_pooling_does_not_count_the_border(dimension):
    ones = torch.ones(1, 3, *SPATIAL[dimension])
    assert torch.equal(make_layers(dimension).avg_pool()(ones), ones)


@dimensions
@norms
@operations
def test_norms_learn_scale_and_shift_in_the_final_cell_only(dimension, norm, operation):
    layers = make_layers(dimension, norm)
    searching = build_operation(operation, 8, layers, searching=True)
    final = build_operation(operation, 8, layers, searching=False)
    rounds = {"sep": 2, "dil": 1}.get(operation[:3], 0)
    assert [p.ndim for p in searching.parameters()] == [dimension + 2] * 2 * rounds
    assert [p.ndim for p in final.parameters()] == [dimension + 2, dimension + 2, 1, 1] * rounds


def test_the_parameters_of_an_operation_have_frozen_names():
    layers = make_layers(2)
    separable = build_operation("sep_conv_3x3", 8, layers, searching=False)
    dilated = build_operation("dil_conv_5x5", 8, layers, searching=True)
    assert {name: tuple(p.shape) for name, p in separable.named_parameters()} == {
        "0.1.weight": (8, 1, 3, 3),
        "0.2.weight": (8, 8, 1, 1),
        "0.3.weight": (8,),
        "0.3.bias": (8,),
        "1.1.weight": (8, 1, 3, 3),
        "1.2.weight": (8, 8, 1, 1),
        "1.3.weight": (8,),
        "1.3.bias": (8,),
    }
    assert {name: tuple(p.shape) for name, p in dilated.named_parameters()} == {
        "1.weight": (8, 1, 5, 5),
        "2.weight": (8, 8, 1, 1),
    }


@dimensions
@norms
def test_both_cells_keep_the_shape_and_leave_their_inputs_alone(dimension, norm):
    skip, up = image(dimension), image(dimension)
    before = skip.clone(), up.clone()
    layers = make_layers(dimension, norm)
    assert SearchCell(SHAPE, layers).double()(skip, up, *mixing()).shape == skip.shape
    assert DiscreteCell(SHAPE, layers, ALL_OPERATIONS).double()(skip, up).shape == skip.shape
    assert torch.equal(skip, before[0])
    assert torch.equal(up, before[1])


@dimensions
@pytest.mark.parametrize("output_nodes", [1, 3, 4])
def test_the_search_cell_equals_its_definition(dimension, output_nodes):
    shape = CellShape(6, 8, 4, output_nodes)
    cell = randomised(SearchCell(shape, make_layers(dimension)))
    skip, up, (phi, psi) = image(dimension), image(dimension), mixing()
    expected = reference_search_cell(cell, skip, up, phi, psi)
    torch.testing.assert_close(cell(skip, up, phi, psi), expected, rtol=1e-10, atol=1e-10)


@dimensions
@pytest.mark.parametrize("output_nodes", [1, 4])
def test_the_discrete_cell_equals_its_definition(dimension, output_nodes):
    shape = CellShape(6, 8, 4, output_nodes)
    cell = randomised(DiscreteCell(shape, make_layers(dimension), ALL_OPERATIONS))
    skip, up, kept = image(dimension), image(dimension), ALL_OPERATIONS.operations

    def edge_output(edge, x):
        if edge not in kept:
            return None
        prefix = f"edges.{edge.name}.{kept[edge]}."
        return reference_operation(kept[edge], x, cell.state_dict(), prefix, pool_norm=False)

    expected = reference_cell(cell, skip, up, edge_output)
    torch.testing.assert_close(cell(skip, up), expected, rtol=1e-10, atol=1e-10)


@dimensions
@operations
def test_a_one_hot_relaxation_equals_the_chosen_operation(dimension, operation):
    chosen = torch.zeros(14, 7, dtype=torch.bool)
    chosen[:, OPERATIONS.index(operation)] = True
    alpha = torch.where(chosen, 1e3, -1e3).double()
    psi = edge_weights(torch.randn(14, dtype=torch.float64))
    cell = randomised(SearchCell(SHAPE, make_layers(dimension)))
    skip, up = image(dimension), image(dimension)
    relaxed = cell(skip, up, operation_weights(alpha, torch.ones_like(chosen)), psi)
    masked = cell(skip, up, operation_weights(torch.randn_like(alpha), chosen), psi)
    cell.prune(chosen)
    pruned = cell(skip, up, chosen.double(), psi)
    expected = reference_search_cell(cell, skip, up, chosen.double(), psi)
    for output in (relaxed, masked, pruned):
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


@dimensions
def test_after_a_prune_the_module_is_gone_and_the_rest_is_what_remains(dimension):
    cell = randomised(SearchCell(SHAPE, make_layers(dimension)))
    active = torch.rand(14, 7) < 0.6
    active[:, 3] = True
    active[0] = torch.tensor([False] * 6 + [True])
    skip, up, (phi, psi) = image(dimension), image(dimension), mixing(active)
    expected = reference_search_cell(cell, skip, up, phi, psi)
    cell.prune(active)
    for edge, row in zip(EDGES, active, strict=True):
        left = [name for name, is_active in zip(OPERATIONS, row, strict=True) if is_active]
        assert list(cell.operations(edge)) == left
    assert not any(name.startswith("edges.0_2.sep_conv_3x3") for name in cell.state_dict())
    assert (phi[~active] == 0).all()
    torch.testing.assert_close(cell(skip, up, phi, psi), expected, rtol=1e-10, atol=1e-10)


def test_pruning_twice_keeps_what_both_masks_hold():
    cell = SearchCell(SHAPE, make_layers(2))
    active = torch.ones(14, 7, dtype=torch.bool)
    for operation in (0, 4):
        active[:, operation] = False
        cell.prune(active)
        cell.prune(active)
    assert list(cell.operations(Edge(2, 5))) == [OPERATIONS[i] for i in (1, 2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("skip_channels", "values", "channels"),
    [
        (512, {}, 128),
        (320, {}, 80),
        (32, {}, 16),  # the minimum
        (66, {}, 20),  # 16.5, up to a multiple of 4
        (66, {"partial_channels": 1}, 17),
        (72, {"partial_channels": 8}, 24),  # 18, up to a multiple of 8
        (32, {"min_channels": 5}, 8),
        (30, {"channel_ratio": 1.0, "partial_channels": 3}, 30),
        (64, {"channel_ratio": 0.5}, 32),
    ],
)
def test_the_channels_of_a_cell_are_rounded_up_to_a_multiple_of_k(skip_channels, values, channels):
    shape = CellShape.of_level(skip_channels, **values)
    assert shape == CellShape(skip_channels, channels, values.get("partial_channels", 4), 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((8, 6, 4, 4), "multiple of partial_channels; got channels=6, partial_channels=4"),
        ((8, 0, 4, 4), "positive multiple of partial_channels; got channels=0"),
        ((8, 8, 0, 4), "got channels=8, partial_channels=0"),
        ((8, 8, 4, 0), "output_nodes must be 1, 2, 3 or 4; got 0"),
        ((8, 8, 4, 5), "output_nodes must be 1, 2, 3 or 4; got 5"),
    ],
)
def test_a_shape_that_no_cell_can_have_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CellShape(*values)


def test_without_partial_channels_operations_see_all_channels_unshuffled():
    shape = CellShape(6, 5, 1, 4)
    cell = randomised(SearchCell(shape, make_layers(2)))
    assert cell.state_dict()["edges.0_2.sep_conv_3x3.0.2.weight"].shape[:2] == (5, 5)
    skip, up, (phi, psi) = image(2), image(2), mixing()
    expected = reference_search_cell(cell, skip, up, phi, psi)
    torch.testing.assert_close(cell(skip, up, phi, psi), expected, rtol=1e-10, atol=1e-10)


def test_the_full_width_cell_holds_every_parameter_of_the_other_cells():
    layers = make_layers(2)
    full = dict(Cell(SHAPE, layers, dict.fromkeys(EDGES, OPERATIONS)).named_parameters())
    discrete = dict(DiscreteCell(SHAPE, layers, ALL_OPERATIONS).named_parameters())
    searching = dict(SearchCell(SHAPE, layers).named_parameters())
    assert discrete.keys() < full.keys()
    assert searching.keys() < full.keys()
    assert all(full[name].shape == p.shape for name, p in discrete.items())
    partial = {name for name, p in searching.items() if p.shape != full[name].shape}
    assert all(name.startswith("edges.") for name in partial)
    assert len(partial) == 14 * 12


@dimensions
def test_the_zero_gate_starts_as_the_identity_and_opens_to_the_cell(dimension):
    gated = ReZero(DiscreteCell(SHAPE, make_layers(dimension), ALL_OPERATIONS)).double()
    skip, up = image(dimension), image(dimension)
    assert torch.equal(gated(skip, up), skip)
    nn.init.constant_(gated.gate, 0.5)
    torch.testing.assert_close(gated(skip, up), skip + 0.5 * gated.cell(skip, up))


@dimensions
def test_layers_take_dimension_and_norm_from_the_encoder(tiny_unet, dimension):
    encoder = tiny_unet(dimension).encoder
    layers = Layers.of_levels(encoder)[0]
    norm = layers.norm(4, affine=False)
    assert layers.dimension == dimension
    assert type(norm) is getattr(nn, f"InstanceNorm{dimension}d")
    assert (norm.num_features, norm.eps, norm.affine) == (4, 1e-5, False)
    assert layers.norm(4, affine=True).affine
    batch = Layers.of_levels(encoder, "batch")[0].norm(4, affine=False)
    assert type(batch) is getattr(nn, f"BatchNorm{dimension}d")


@pytest.mark.parametrize(("norm_op", "named"), [(None, "None"), (nn.GroupNorm, "GroupNorm")])
def test_an_encoder_without_a_usable_norm_is_refused_unless_the_settings_bring_one(
    tiny_unet, norm_op, named
):
    encoder = tiny_unet().encoder
    encoder.norm_op = norm_op
    with pytest.raises(ValueError, match=f"norm_op = {named}: use plans"):
        Layers.of_levels(encoder)[0].norm(4, affine=True)
    assert Layers.of_levels(encoder, "batch")[0].norm_op is nn.BatchNorm2d


def test_kernels_are_flat_where_the_plans_own_are():
    unet = PlainConvUNet(
        1,
        4,
        [4, 8, 8, 8],
        nn.Conv3d,
        [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]],
        1,
        2,
        1,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )
    network = IACUNet(unet, min_channels=4)
    # The lowest of the three skips comes from a stage with whole cubes.
    assert [layers.flat for layers in network.layers] == [(), (0,), (0,)]
    edge = network.cells()[2].operations(EDGES[0])
    assert edge["sep_conv_5x5"][0][1].kernel_size == (1, 5, 5)
    assert edge["dil_conv_3x3"][1].padding == (0, 2, 2)
    assert edge["max_pool_3x3"][0].kernel_size == (1, 3, 3)
    assert edge["avg_pool_3x3"][0].sides == (1, 3, 3)
    x = torch.randn(1, 1, 4, 16, 16)
    assert network(x).shape == (1, 2, 4, 16, 16)
    network.discretise(ALL_OPERATIONS)
    assert network(x).shape == (1, 2, 4, 16, 16)
    costs = cell_costs(network, 1, (4, 16, 16))
    added = sum(p.numel() for p in network.implants.parameters())
    assert costs.of(ALL_OPERATIONS).parameters == added


def test_the_mean_of_flat_neighbours_is_along_the_other_axes():
    x = torch.randn(1, 2, 3, 4, 5)
    flat = AveragePool((1, 3, 3))(x)
    plane = AveragePool((3, 3))
    assert torch.allclose(flat[:, :, 1], plane(x[:, :, 1]), atol=1e-6)
