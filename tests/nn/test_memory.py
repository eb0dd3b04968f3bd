"""The memory of a training step, from shapes alone."""

from contextlib import nullcontext

import pytest
import torch

from nnunet_iac.benchmark.step import finetune_step
from nnunet_iac.benchmark.timing import peak_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import LARGEST_CELL, TRANSIENT, run_memory, step_memory
from nnunet_iac.nn.discrete_cell import edge_by_edge
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.training.provenance import peak_memory_bytes

CPU, CUDA, NOWHERE = map(torch.device, ("cpu", "cuda", "meta"))
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
    # Kernels of the search cell copy more than their shapes show.
    share = 0.75 if implant == "cell" else 1.0
    assert share * real <= found.outside + sum(found.levels) <= real
    assert found.checkpointed <= found.kept


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("norm", ["plans", "batch"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_the_estimate_for_discrete_cells_is_what_autograd_keeps(
    tiny_unet, random_genotype, dimension, norm, device
):
    network = retrofit(tiny_unet(dimension), random_genotype(0), min_channels=8, norm=norm)
    shape = (2, 2, *(16, 8, 8)[:dimension])
    found = step_memory(network, shape, device)
    share = 2 if device == CUDA else 1
    with edge_by_edge(network) if device == CUDA else nullcontext():
        real = kept_by_autograd(network, shape) / share
    assert found.outside + sum(found.levels) == pytest.approx(real, rel=0.05)
    assert step_memory(network.to(NOWHERE), shape, device) == found


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_no_random_cell_needs_more_than_the_largest(tiny_unet, random_genotype, device):
    def needed(genotype):
        with NOWHERE:
            network = retrofit(tiny_unet(), genotype, min_channels=8)
        return step_memory(network, (2, 2, 16, 8), device).kept

    largest = needed(LARGEST_CELL)
    assert all(needed(random_genotype(seed)) <= largest for seed in range(6))


def test_a_search_needs_what_its_finetuning_needs(tiny_unet):
    sizes, shape = {"min_channels": 16, "partial_channels": 16}, (2, 2, 32, 32)
    search, finetuning = (retrofit(tiny_unet(), found, **sizes) for found in (None, LARGEST_CELL))
    steps = [step_memory(network, shape) for network in (search, finetuning)]
    assert steps[0].kept < steps[1].kept
    needed = run_memory(search, shape)
    assert needed.kept == pytest.approx(max(step.kept for step in steps), rel=1e-3)
    assert needed.checkpointed >= max(step.checkpointed for step in steps)
    assert search.genotype is None
    assert run_memory(finetuning, shape) == steps[1]


def test_a_finetuning_step_takes_most_of_the_estimate_and_no_more_than_it(
    random_genotype,
):
    workload, genotype = Workload(), random_genotype(0)
    network = workload.retrofit()
    network.discretise(genotype)
    shape = (workload.batch_size, workload.input_channels, *workload.patch_size)
    estimate = step_memory(network, shape).kept / 2**20
    measured = peak_mb(finetune_step, workload, genotype, device="cpu")
    assert estimate / 2 <= measured <= estimate


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
    assert step_memory(network, (2, 2, 16, 8), CUDA).kept < two.kept


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("implant", [*IMPLANTS, "residual-attention"])
def test_a_run_is_estimated_without_a_networks_numbers_in_the_same_bytes(tiny_unet, implant):
    dimension = 3 if implant in ("attention", "nested") else 2

    def network():
        return retrofit(tiny_unet(dimension), implant=implant, min_channels=8, norm="batch")

    with NOWHERE:
        shadow = network()
    shape = (2, 2, *(16, 8, 8)[:dimension])
    assert run_memory(shadow, shape, CUDA) == run_memory(network(), shape, CUDA)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_run_of_real_size_is_estimated_without_its_memory(tiny_unet):
    with NOWHERE:
        network = retrofit(tiny_unet(2, (64, 256, 512)))
    before = peak_memory_bytes()
    found = run_memory(network, (63, 2, 128, 128), CUDA)
    assert peak_memory_bytes() - before < 0.1 * found.checkpointed < 0.1 * found.kept
