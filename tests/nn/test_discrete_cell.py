"""The fast discrete cell equals the plain one: outputs, statistics and every gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional

from nnunet_iac.nn import depthwise as depthwise_convolution
from nnunet_iac.nn import normalised_products
from nnunet_iac.nn.cell import CellShape, Layers, ReZero
from nnunet_iac.nn.cost import multiply_accumulates
from nnunet_iac.nn.discrete_cell import DiscreteCell, PlainDiscreteCell, depthwise
from nnunet_iac.nn.normalised_products import NormalisedProducts
from nnunet_iac.nn.retrofitted_unet import checkpointed
from nnunet_iac.search.controls import random_genotype, uniform_genotype
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import OPERATIONS

SPATIAL = {2: (7, 6), 3: (5, 4, 6)}
SHAPE = CellShape(6, 8, 4, 4)
GENOTYPES = {
    "every operation": Genotype.from_codes([0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0]),
    "shared source": Genotype.from_codes([3, 3, 3, 4, -1, 5, 6, -1, -1, 4, 4, -1, -1, -1]),
    "pools only": Genotype.from_codes([1, 2, 1, 2, -1, 1, 1, -1, -1, 2, 2, -1, -1, -1]),
    **{name: uniform_genotype(name) for name in OPERATIONS},
}
CELLS = st.fixed_dictionaries(
    {
        "genotype": st.integers(0, 2**31).map(random_genotype),
        "shape": st.builds(
            lambda skip, width, last: CellShape(skip, width, 1, last),
            st.integers(1, 9),
            st.integers(1, 9),
            st.integers(1, 4),
        ),
        "batch": st.sampled_from([1, 3]),
        "dimension": st.sampled_from([2, 3]),
        "norm": st.sampled_from(["Instance", "Batch"]),
        "training": st.booleans(),
        "gated": st.booleans(),
        "flat": st.sampled_from([(), (0,), (1,), (0, 1)]),
        "seed": st.integers(0, 2**31),
    }
)


@pytest.fixture(scope="module", autouse=True)
def images_are_framed():
    """Have the gradients of small images computed as those of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise_convolution, "FRAMED", 0)
        yield


def both_cells(
    genotype,
    dtype=torch.float64,
    *,
    shape=SHAPE,
    batch=3,
    dimension=2,
    norm="Instance",
    training=True,
    gated=False,
    flat=(),
    seed=0,
):
    """Return a fast and a plain cell with equal random weights and statistics, and inputs."""
    generator = torch.Generator().manual_seed(seed)
    layers = Layers(dimension, getattr(nn, f"{norm}Norm{dimension}d"), {"eps": 1e-3}, flat)
    cells = [kind(shape, layers, genotype) for kind in (DiscreteCell, PlainDiscreteCell)]
    fast, plain = (ReZero(cell) if gated else cell for cell in cells)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in fast.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2, generator=generator)
    plain.load_state_dict(fast.state_dict())
    size = 2, batch, shape.skip_channels, *SPATIAL[dimension]
    images = torch.randn(size, generator=generator, dtype=torch.float64)
    ready = (cell.to(dtype).train(training) for cell in (fast, plain))
    return *ready, list(images.to(dtype))


def everything(cell, inputs, call=None):
    """Return output, gradients and running statistics of a cell by name."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = (call or cell)(*inputs)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weight.to(output)).sum().backward()
    gradients = {name: p.grad for name, p in cell.named_parameters() if p.grad is not None}
    found = {"output": output.detach(), "skip": inputs[0].grad, "up": inputs[1].grad}
    return {**found, **gradients, **{f"{n}, kept": b for n, b in cell.named_buffers()}}


def assert_equal(got, expected, tolerance=1e-10):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name],
            value,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("genotype", GENOTYPES)
def test_the_fast_cell_equals_the_plain_one(genotype, batch, dimension, norm, training):
    fast, plain, inputs = both_cells(
        GENOTYPES[genotype], batch=batch, dimension=dimension, norm=norm, training=training
    )
    assert_equal(everything(fast, inputs), everything(plain, inputs))
    with torch.no_grad():
        assert_equal({"output": fast(*inputs)}, {"output": plain(*inputs)})


@settings(max_examples=60, deadline=None)
@given(cell=CELLS)
def test_random_cells_equal_the_plain_ones(cell):
    fast, plain, inputs = both_cells(**cell)
    assert_equal(everything(fast, inputs), everything(plain, inputs))


@settings(max_examples=30, deadline=None)
@given(cell=CELLS)
def test_random_cells_equal_the_plain_ones_in_float32(cell):
    fast, plain, inputs = both_cells(**cell, dtype=torch.float32)
    assert_relatively_close(everything(fast, inputs), everything(plain, inputs))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@pytest.mark.parametrize("genotype", GENOTYPES)
def test_the_fast_cell_equals_the_plain_one_in_float32(genotype, norm, dimension):
    fast, plain, inputs = both_cells(
        GENOTYPES[genotype], torch.float32, dimension=dimension, norm=norm, gated=True
    )
    assert_relatively_close(everything(fast, inputs), everything(plain, inputs))


def assert_relatively_close(got, expected):
    # Norms make some gradients zero but for rounding, in the plain cell as well.
    rounding = 1e-5 * torch.cat([x.flatten().double() for x in expected.values()]).norm()
    for name, x in expected.items():
        difference = (got[name] - x).double().norm()
        slack = 0 if name in ("output", "skip", "up", "gate") else rounding
        assert difference <= 1e-4 * x.double().norm() + slack, name


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("genotype", GENOTYPES)
def test_a_cpu_computes_no_edge_by_itself(genotype, training, norm, dimension, monkeypatch):
    fast, _, inputs = both_cells(
        GENOTYPES[genotype], dimension=dimension, norm=norm, training=training, gated=True
    )
    monkeypatch.delattr(PlainDiscreteCell, "forward")
    everything(fast, inputs)
    with torch.inference_mode():
        fast(*inputs)


@pytest.mark.parametrize("why", ["autocast", "modes", "asked"])
def test_what_cannot_be_merged_is_computed_edge_by_edge(why, monkeypatch):
    fast, _, inputs = both_cells(GENOTYPES["every operation"], torch.float32, norm="Batch")
    calls, forward = [], PlainDiscreteCell.forward

    def counted(*given):
        calls.append(why)
        return forward(*given)

    monkeypatch.setattr(PlainDiscreteCell, "forward", counted)
    if why == "modes":
        fast.projections[0][2].eval()
    fast.edge_by_edge = why == "asked"
    with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
        fast(*inputs)
    assert calls == [why]


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_variances_from_the_product_have_the_gradients_of_the_plain_cell(norm, monkeypatch):
    monkeypatch.setattr(normalised_products, "CANCELLED", float("inf"))
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], norm=norm)
    assert_equal(everything(fast, inputs), everything(plain, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_norm_may_average_all_batches(dtype):
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], dtype, norm="Batch")
    for module in [*fast.modules(), *plain.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    for _ in range(2):
        found, expected = everything(fast, inputs), everything(plain, inputs)
    assert_equal(found, expected, 1e-10 if dtype is torch.float64 else 1e-2)


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_a_training_step_after_a_prediction_is_as_without_it(norm):
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], norm=norm, gated=True)
    with torch.inference_mode():
        fast.eval()(*inputs)
    assert_equal(everything(fast.train(), inputs), everything(plain, inputs))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_the_gradients_of_the_plain_cell_are_those_of_finite_differences(norm, batch):
    shape = CellShape(2, 2, 1, 4)
    plain, inputs = both_cells(GENOTYPES["sep_conv_3x3"], shape=shape, batch=batch, norm=norm)[1:]
    assert gradcheck(plain.eval(), [x.requires_grad_() for x in inputs], atol=1e-4)


@pytest.mark.parametrize("likeness", [1, 30, 100])
def test_channels_that_are_nearly_equal_do_not_spoil_float32(likeness):
    shape = CellShape(16, 16, 4, 4)
    fast, plain, inputs = both_cells(GENOTYPES["dil_conv_3x3"], shape=shape)
    with torch.no_grad():
        for projection in plain.projections:
            projection[1].weight.copy_(torch.eye(16)[:, :, None, None])
            projection[2].weight.fill_(1)
            projection[2].bias.fill_(3)
        for edge in plain.edges.values():
            edge["dil_conv_3x3"][2].weight.sub_(edge["dil_conv_3x3"][2].weight.mean(1, True))
            edge["dil_conv_3x3"][1].weight.fill_(1)
    fast.load_state_dict(plain.state_dict())
    common = torch.randn(2, 3, 1, *SPATIAL[2], generator=torch.Generator().manual_seed(2))
    inputs = [x / likeness + same + 3 for x, same in zip(inputs, common.double(), strict=True)]
    expected = plain(*inputs)
    found = fast.float()(*(x.float() for x in inputs))
    assert (found.double() - expected).norm() < 1e-4 * expected.norm()


def test_state_and_initial_weights_are_those_of_the_plain_cell():
    layers = Layers(2, nn.BatchNorm2d)
    states = []
    for kind in (DiscreteCell, PlainDiscreteCell):
        torch.manual_seed(0)
        states.append(kind(SHAPE, layers, GENOTYPES["every operation"]).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_checkpointing_changes_nothing(norm):
    genotype = GENOTYPES["every operation"]
    fast, plain, inputs = both_cells(genotype, norm=norm, gated=True)
    found = everything(fast, inputs, lambda *x: checkpointed(fast, *x))
    assert_equal(found, everything(plain, inputs))


def test_gradients_of_two_calls_add_up():
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], norm="Batch")
    calls = [lambda a, b, cell=cell: cell(a, b) + cell(b, a) for cell in (fast, plain)]
    assert_equal(everything(fast, inputs, calls[0]), everything(plain, inputs, calls[1]))


def test_a_copy_has_weights_of_its_own():
    fast, _, inputs = both_cells(GENOTYPES["every operation"])
    expected, other = fast(*inputs), copy.deepcopy(fast)
    nn.init.zeros_(other.output.weight)
    assert torch.equal(fast(*inputs), expected)
    assert not torch.allclose(other(*inputs), expected)


def test_new_weights_take_effect_in_evaluation():
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], norm="Batch", training=False)
    with torch.inference_mode():
        fast(*inputs)
    state = {k: v + 0.1 if v.is_floating_point() else v for k, v in fast.state_dict().items()}
    fast.load_state_dict(state)
    plain.load_state_dict(state)
    with torch.inference_mode():
        assert_equal({"": fast(*inputs)}, {"": plain(*inputs)})


@pytest.mark.parametrize("gated", [True, False])
def test_bfloat16_is_close(gated):
    fast, plain, inputs = both_cells(
        GENOTYPES["every operation"], torch.float32, gated=gated, norm="Batch"
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = fast(*inputs)
    expected = plain(*inputs)
    assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_multiply_accumulates_are_those_of_the_convolutions():
    fast, plain, inputs = both_cells(GENOTYPES["every operation"])
    assert multiply_accumulates(fast, *inputs) == multiply_accumulates(plain, *inputs)
    assert not fast.edge_by_edge
    fast.edge_by_edge = True
    multiply_accumulates(fast, *inputs)
    assert fast.edge_by_edge


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_one_image_without_gradients_equals_the_plain_cell(norm):
    fast, plain, (skip, up) = both_cells(GENOTYPES["every operation"], norm=norm, training=False)
    with torch.inference_mode():
        assert_equal({"": fast(skip[:1], up[:1])}, {"": plain(skip[:1], up[:1])})


def test_a_large_mean_does_not_spoil_float32():
    fast, plain, inputs = both_cells(GENOTYPES["every operation"])
    expected = plain(*(x + 100 for x in inputs))
    found = fast.float()(*(x.float() + 100 for x in inputs))
    assert (found.double() - expected).norm() < 1e-3 * expected.norm()


def test_norms_in_different_modes_are_computed_one_by_one():
    fast, plain, inputs = both_cells(GENOTYPES["every operation"], norm="Batch")
    for cell in (fast, plain):
        cell.projections[0][2].eval()
    assert_equal(everything(fast, inputs), everything(plain, inputs))


@pytest.mark.parametrize("sides", [(3, 3), (5, 5), (1, 5), (3, 1), (1, 1), (7, 5)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 6), (8, 8), (1, 3)])
@pytest.mark.parametrize("framed", [0, 1000])
def test_a_depthwise_convolution_has_the_gradients_of_torch(
    sides, dilation, shape, framed, monkeypatch
):
    monkeypatch.setattr(depthwise_convolution, "FRAMED", framed)
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 2, 3, *shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 1, *sides, generator=generator, dtype=torch.float64)
    padding = [dilation * (side // 2) for side in sides]
    operands = [x.requires_grad_(), weight.requires_grad_()]
    expected = functional.conv2d(*operands, padding=padding, dilation=dilation, groups=3)
    found = depthwise(*operands, (dilation, dilation))
    torch.testing.assert_close(found, expected)
    for got, wanted in zip(
        torch.autograd.grad(found, operands, grad),
        torch.autograd.grad(expected, operands, grad),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_the_gradients_of_normalised_products_are_those_of_finite_differences():
    def random(*size):
        return torch.randn(*size, dtype=torch.float64, requires_grad=True)

    terms = [random(2, 5, 3), random(4, 3), random(4), random(4)] * 2
    terms[4] = random(2, 5, 3)

    def summed(total, *operands):
        copies = [x.clone() for x in operands]  # they are centred in place
        return NormalisedProducts.apply(1e-3, total, *copies)[0]

    assert gradcheck(summed, [random(2, 5, 4), *terms])
