"""The fused search cell equals the plain one, over random pruning states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_iac.nn import search_cell
from nnunet_iac.nn.cell import CellShape, Layers
from nnunet_iac.nn.search_cell import PlainSearchCell, SearchCell, channel_shuffle
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.space import OPERATIONS

SPATIAL = {2: (7, 6), 3: (5, 4, 6)}

masks = st.lists(st.integers(1, 127), min_size=14, max_size=14).map(
    lambda rows: torch.tensor([[bool(row >> o & 1) for o in range(7)] for row in rows])
)
shapes = st.builds(
    lambda skip, width, groups, last: CellShape(skip, width * groups, groups, last),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
)


def both_cells(shape, dimension, norm, dtype, active, seed, flat=()):
    """Return a fused and a plain cell with equal weights, pruned alike, and equal inputs."""
    torch.manual_seed(seed)
    layers = Layers(dimension, getattr(nn, f"{norm}Norm{dimension}d"), {"eps": 1e-3}, flat)
    fused, plain = SearchCell(shape, layers).to(dtype), PlainSearchCell(shape, layers).to(dtype)
    plain.load_state_dict(fused.state_dict())
    fused.prune(active)
    plain.prune(active)
    images = torch.randn(2, 3, shape.skip_channels, *SPATIAL[dimension], dtype=dtype)
    mixing = (
        operation_weights(torch.randn(14, 7, dtype=dtype), active),
        edge_weights(torch.randn(14, dtype=dtype)),
    )
    return fused, plain, [*images, *mixing]


def output_and_gradients(cell, inputs, active, seed):
    """Return everything the cell computes; phi's gradient where an operation is active."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = cell(*inputs)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    (output * weight.to(output)).sum().backward()
    skip, up, phi, psi = (x.grad for x in inputs)
    weights = {f"d {name}": p.grad for name, p in cell.named_parameters()}
    named = {"output": output.detach(), "d skip": skip, "d up": up, "d psi": psi}
    return {**named, "d phi": phi[active], **weights}


@settings(max_examples=40, deadline=None)
@given(
    active=masks,
    shape=shapes,
    dimension=st.sampled_from([2, 3]),
    norm=st.sampled_from(["Instance", "Batch"]),
    seed=st.integers(0, 2**31),
    flat=st.sampled_from([(), (0,), (1,), (0, 1)]),
)
def test_fused_equals_plain_in_float64(active, shape, dimension, norm, seed, flat):
    fused, plain, inputs = both_cells(shape, dimension, norm, torch.float64, active, seed, flat)
    got = output_and_gradients(fused, inputs, active, seed)
    expected = output_and_gradients(plain, inputs, active, seed)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@settings(max_examples=20, deadline=None)
@given(active=masks, shape=shapes, norm=st.sampled_from(["Instance", "Batch"]), seed=st.integers(0))
def test_fused_equals_plain_in_float32(active, shape, norm, seed):
    fused, plain, inputs = both_cells(shape, 2, norm, torch.float32, active, seed % 2**31)
    got = output_and_gradients(fused, inputs, active, seed % 2**31)
    expected = output_and_gradients(plain, inputs, active, seed % 2**31)
    assert_relatively_close(got.pop("output"), expected.pop("output"))
    # Norms make single gradients differences of nearly equal numbers, in the plain cell as well.
    assert_relatively_close(
        *(torch.cat([g.flatten() for g in x.values()]) for x in (got, expected))
    )


def assert_relatively_close(got, expected):
    assert (got - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("dimension", [2, 3])
def test_wide_cells_do_without_the_product_of_weights(monkeypatch, dimension):
    shape, active = CellShape(6, 8, 2, 4), torch.ones(14, 7, dtype=torch.bool)
    fused, _, inputs = both_cells(shape, dimension, "Instance", torch.float64, active, 0)
    expected = output_and_gradients(fused, inputs, active, 0)
    fused.zero_grad()
    monkeypatch.setattr(search_cell, "LARGEST_PRODUCT", 3)
    got = output_and_gradients(fused, inputs, active, 0)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_pruned_operation_costs_nothing(operation):
    def flops(active):
        fused, _, inputs = both_cells(
            CellShape(6, 8, 4, 4), 2, "Instance", torch.float32, active, 0
        )
        with FlopCounterMode(display=False) as counter:
            fused(*inputs)
        return counter.get_total_flops(), sum(p.numel() for p in fused.parameters())

    active = torch.ones(14, 7, dtype=torch.bool)
    all_active = flops(active)
    active[3, OPERATIONS.index(operation)] = False
    pruned = flops(active)
    if "conv" in operation:
        assert pruned[0] < all_active[0]
        assert pruned[1] < all_active[1]
    active[:, OPERATIONS.index(operation)] = False
    if operation != "identity":
        assert flops(active)[0] < pruned[0]


def test_a_cell_pruned_while_predicting_can_be_trained_afterwards():
    active = torch.ones(14, 7, dtype=torch.bool)
    fused, plain, inputs = both_cells(
        CellShape(6, 8, 4, 4), 2, "Instance", torch.float64, active, 0
    )
    active[:, 4:] = False
    with torch.inference_mode():
        fused.prune(active)
    plain.prune(active)
    inputs[2] = operation_weights(torch.zeros(14, 7, dtype=torch.float64), active)
    got = output_and_gradients(fused, inputs, active, 0)
    for name, value in output_and_gradients(plain, inputs, active, 0).items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10)


def test_channel_shuffle_interleaves_the_groups():
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert channel_shuffle(x, 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert channel_shuffle(x, 1).flatten().tolist() == list(range(8))
