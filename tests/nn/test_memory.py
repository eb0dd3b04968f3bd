"""The memory of a training step, from shapes alone."""

import pytest
import torch

from nnunet_iac.nn.memory import step_memory
from nnunet_iac.nn.skip_module_unet import retrofitted
from nnunet_iac.search.settings import Settings
from nnunet_iac.training import memory
from nnunet_iac.training.memory import fitted

WAYS = [{}, {"genotype": "conv"}, {"skip": "attention"}, {"skip": "nested"}]
CPU = torch.device("cpu")


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_what_is_reckoned_is_what_autograd_keeps(tiny_unet, dimension, way):
    network = retrofitted(tiny_unet(dimension), Settings(min_channels=8, **way))
    shape = (2, 2, *(16, 8, 8)[:dimension])
    found = step_memory(network, shape)
    real = kept_by_autograd(network, shape)
    # Kernels of the search cell copy more than their shapes tell.
    share = 0.75 if network.settings.implant == "cell" else 1.0
    assert share * real <= found.outside + sum(found.levels) <= real
    assert found.recomputed <= found.kept


def test_nothing_of_the_network_changes(tiny_unet):
    network = retrofitted(tiny_unet(), Settings(min_channels=8, recompute_cells=True))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step_memory(network, (2, 2, 16, 8))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.recomputes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.implants)


def test_it_grows_with_the_batch_and_shrinks_with_halves(tiny_unet):
    network = retrofitted(tiny_unet(), Settings(min_channels=8))
    one, two = (step_memory(network, (count, 2, 16, 8)) for count in (1, 2))
    assert one.fixed == two.fixed
    assert 1.5 < two.outside / one.outside <= 2
    assert step_memory(network, (2, 2, 16, 8), mixed_precision=True).kept < two.kept


@pytest.fixture
def network(tiny_unet):
    return retrofitted(tiny_unet(), Settings(min_channels=16))


def fit(network, tiny_unet, free, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    shape = (4, 2, 64, 64)
    return fitted(network, shape, CPU, lambda settings: retrofitted(tiny_unet(), settings))


def test_what_fits_is_left_as_it_is(network, tiny_unet, monkeypatch):
    assert "free" in fit(network, tiny_unet, 10**12, monkeypatch)
    assert not network.recomputes
    assert "about" in fit(network, tiny_unet, None, monkeypatch)


def test_what_fits_only_so_recomputes_its_cells(network, tiny_unet, monkeypatch):
    needed = step_memory(network, (4, 2, 64, 64))
    assert "since it would not fit" in fit(network, tiny_unet, needed.kept - 1, monkeypatch)
    assert network.recomputes
    again = fit(network, tiny_unet, needed.recomputed, monkeypatch)
    assert "as the settings ask" in again


def test_what_does_not_fit_is_refused_with_cells_that_would(network, tiny_unet, monkeypatch):
    needed = step_memory(network, (4, 2, 64, 64))
    with pytest.raises(RuntimeError, match=r"must fit .* --set channel_ratio=0.125 min_channels=4"):
        fit(network, tiny_unet, needed.recomputed - 1, monkeypatch)
    with pytest.raises(RuntimeError, match="plans with a smaller batch or patch"):
        fit(network, tiny_unet, 1, monkeypatch)


def test_a_cpu_says_what_is_free():
    free = memory.free_memory(CPU)
    assert free is None or free > 0
    assert memory.free_memory(torch.device("meta")) is None
