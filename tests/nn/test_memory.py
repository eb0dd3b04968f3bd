"""The memory of a training step, from shapes alone."""

from contextlib import nullcontext

import pytest
import torch

from nnunet_iac.nn.cost import TRANSIENT, step_memory
from nnunet_iac.nn.discrete_cell import edge_by_edge
from nnunet_iac.nn.planned_retrofit import retrofit

IMPLANTS = ["cell", "convolution", "attention", "nested"]


def kept_by_autograd(network, shape):
    """Return the bytes of all storages that a real forward pass keeps."""
    own = {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    found, held = {}, []

    def keep(tensor):
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            held.append(tensor)
            found[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.zeros(*shape))
    del output
    return sum(found.values())


@pytest.mark.parametrize("implant", IMPLANTS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_estimate_is_what_autograd_keeps(tiny_unet, dimension, implant):
    network = retrofit(tiny_unet(dimension), implant=implant, min_channels=8)
    shape = (2, 2, *(16, 8, 8)[:dimension])
    found = step_memory(network, shape)
    real = kept_by_autograd(network, shape)
    # Kernels of the search cell copy more than their shapes tell.
    share = 0.75 if implant == "cell" else 1.0
    assert share * real <= found.outside + sum(found.levels) <= real
    assert found.checkpointed <= found.kept


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("mixed_precision", [True, False])
def test_the_estimate_for_discrete_cells_is_what_autograd_keeps(
    tiny_unet, random_genotype, dimension, mixed_precision
):
    network = retrofit(tiny_unet(dimension), random_genotype(0), min_channels=8)
    shape = (2, 2, *(16, 8, 8)[:dimension])
    found = step_memory(network, shape, mixed_precision)
    share = 2 if mixed_precision else 1
    with edge_by_edge(network) if mixed_precision else nullcontext():
        real = kept_by_autograd(network, shape) / share
    assert found.outside + sum(found.levels) == pytest.approx(real, rel=0.05)


def test_checkpointing_keeps_what_goes_in(tiny_unet):
    network = retrofit(tiny_unet(), min_channels=8)
    found = step_memory(network, (2, 2, 16, 8))
    # Skip and upsampled tensor of 8 and 16 channels: the frozen network keeps neither.
    assert found.inputs == pytest.approx(2 * 2 * 4 * (8 * 16 * 8 + 16 * 8 * 4), rel=0.01)
    saved = sum(found.levels) - max(found.levels) - found.inputs
    assert found.kept - found.checkpointed == pytest.approx(TRANSIENT * saved, abs=1)


def test_nothing_of_the_network_changes(tiny_unet):
    network = retrofit(tiny_unet(), min_channels=8, activation_checkpointing=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step_memory(network, (2, 2, 16, 8))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.activation_checkpointing
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.implants)


def test_it_grows_with_the_batch_and_shrinks_with_halves(tiny_unet):
    network = retrofit(tiny_unet(), min_channels=8)
    one, two = (step_memory(network, (count, 2, 16, 8)) for count in (1, 2))
    assert one.fixed == two.fixed
    assert 1.5 < two.outside / one.outside <= 2
    assert step_memory(network, (2, 2, 16, 8), mixed_precision=True).kept < two.kept
