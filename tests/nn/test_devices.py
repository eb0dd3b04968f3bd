"""Networks on another device than the CPU: no tensor stays behind, and no step waits for one."""

from collections import Counter

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from simulated_device import DEVICE, SimulatedDevice, numbers_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_iac.nn.cost import copy_with
from nnunet_iac.nn.folding import fold_for_inference
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.ticket import draw_ticket, load_ticket

KINDS = {
    "search cell": {},
    "pruned cell": {},
    "discrete cell": {},
    "convolution": {"implant": "convolution"},
    "attention": {"implant": "attention"},
    "nested": {"implant": "nested"},
    "residual attention": {"implant": "residual-attention"},
}
OF_ALL = {
    **{"norm": "batch", "residual": "none", "decoder_norms": "tuned"},
    "activation_checkpointing": True,
}
OF_CELLS = {
    **{"channel_ratio": 1.0, "partial_channels": 1, "output_nodes": 1},
    **{"edge_transform": "tan", "tan_clamp": 1.2},
}
CASES = [
    (kind, others)
    for kind in KINDS
    for others in (False, True)
    if (kind, others) not in (("search cell", True), ("pruned cell", False))
]
"""With the default of every structural setting, and with another value of each."""
cases = pytest.mark.parametrize(("kind", "others"), CASES)
FOLDED = [kind for kind in KINDS if kind not in ("search cell", "pruned cell")]
dimensions = pytest.mark.parametrize("dimension", [2, 3])
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture
def build(tiny_unet, random_genotype):
    """Return a builder of retrofits on the CPU, with open gates and an alpha and beta of their own.

    `unet` is taken in place of a plain U-Net with deep supervision.
    """

    def network(kind, dimension, unet=None, seed=0, **values):
        unet = tiny_unet(dimension, deep_supervision=True) if unet is None else unet
        genotype = random_genotype(seed) if kind == "discrete cell" else None
        net = retrofit(unet, genotype, **KINDS[kind], min_channels=8, **values)
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.architecture_parameters():
            nn.init.normal_(parameter, generator=generator)
        if kind == "pruned cell":
            active = torch.rand(14, 7, generator=generator) < 0.5
            active[:, seed % 7] = True
            net.prune(active)
        load_ticket(net, draw_ticket(net, seed))
        for name, parameter in net.implants.named_parameters():
            if "gate" in name:
                nn.init.constant_(parameter, 0.5)
        return net

    return network


def values_of(kind, others):
    """Return values of `retrofit`: none, or another than the default of each."""
    return OF_ALL | (OF_CELLS if kind.endswith("cell") else {}) if others else {}


def images(dimension):
    return torch.randn(2, 2, *(16, 8, 8)[:dimension], generator=torch.Generator().manual_seed(1))


# --- fake tensors on CUDA: forward passes ---------------------------------------------------------


def devices_of_fake_outputs(network, dimension):
    """Return where a fake copy of a network on CUDA has its outputs; no devices may mix."""
    with FakeTensorMode():
        copy = copy_with(network, lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        outputs = copy(torch.empty(images(dimension).shape, device="cuda"))
    return {output.device.type for output in outputs}


def test_fake_tensors_of_two_devices_are_noticed():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
        torch.empty(3, device="cuda") + torch.zeros(3)


@dimensions
@cases
def test_a_forward_pass_on_cuda_mixes_no_devices(build, kind, others, dimension):
    network = build(kind, dimension, **values_of(kind, others))
    assert devices_of_fake_outputs(network, dimension) == {"cuda"}


@pytest.mark.parametrize("kind", ["search cell", "discrete cell", "nested"])
def test_a_residual_encoder_mixes_no_devices(build, kind):
    unet = ResidualEncoderUNet(
        *(2, 3, (8, 16, 24), nn.Conv2d, 3, (1, 2, 2), 1, 3, 1),
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )
    assert devices_of_fake_outputs(build(kind, 2, unet), 2) == {"cuda"}


# --- a simulated device with numbers --------------------------------------------------------------


def step_of(network, x):
    """Return the function that runs a forward and a backward pass."""

    def step():
        network.zero_grad()
        outputs = network(x)
        sum((output * output.sin()).mean() for output in outputs).backward()
        return [numbers_of(output) for output in outputs]

    return step


def test_tensors_of_two_devices_are_noticed_and_waits_are_counted():
    with SimulatedDevice() as device:
        x = torch.ones(3, device=DEVICE)
        assert (x + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match=r"aten.add.Tensor must get tensors of one device"):
            x + torch.ones(3)
        waits = {
            "copy to the host": lambda: x.cpu(),
            "copy to the device": lambda: x.copy_(torch.ones(3)),
            "_local_scalar_dense": lambda: bool(x.sum()),
            "nonzero": lambda: x.nonzero(),
        }
        for name, call in waits.items():
            assert device.waits_of(call) == {name: 1}
        assert not device.waits_of(lambda: torch.ones(3).to(DEVICE, non_blocking=True))


@cases
def test_a_step_on_a_device_gives_the_gradients_of_the_cpu_and_waits_for_nothing(
    build, kind, others
):
    dimension = 2 if others else 3
    network, x = build(kind, dimension, **values_of(kind, others)), images(dimension)
    wanted = step_of(network, x)()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    with SimulatedDevice() as device:
        network.to(DEVICE)
        step = step_of(network, x.to(DEVICE))
        device.waits.clear()
        outputs = step()
        assert device.waits == Counter()  # So it can be captured as a CUDA graph.
        for found, expected in zip(outputs, wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        assert found.keys() == gradients.keys()
        assert all(gradient.device == DEVICE for gradient in found.values())
        for name, gradient in found.items():
            torch.testing.assert_close(
                numbers_of(gradient), gradients[name], rtol=1e-3, atol=1e-4, msg=name
            )


@pytest.mark.parametrize("kind", FOLDED)
@torch.no_grad()
def test_a_network_is_folded_on_its_device(build, kind):
    network = build(kind, 2, **values_of(kind, True)).eval()
    with SimulatedDevice():
        x = images(2).to(DEVICE)
        network.to(DEVICE)
        for found, wanted in zip(fold_for_inference(network)(x), network(x), strict=True):
            assert found.device == DEVICE
            torch.testing.assert_close(numbers_of(found), numbers_of(wanted), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pruned cell", "discrete cell", "convolution"])
def test_weights_on_either_device_rebuild_and_fill_a_network_on_the_other(build, kind):
    first = "search cell" if kind.endswith("cell") else kind
    found, wanted = build(first, 2, seed=1), build(kind, 2).eval()
    x = images(2)
    expected = wanted(x)
    with SimulatedDevice():
        found.to(DEVICE).eval().load_state_dict(wanted.state_dict())
        assert {tensor.device for tensor in found.state_dict().values()} == {DEVICE}
        again = build(first, 2, seed=2).eval()
        again.load_state_dict(found.state_dict())
        assert {tensor.device.type for tensor in again.state_dict().values()} == {"cpu"}
        outputs = [numbers_of(output) for output in found(x.to(DEVICE))]
    for output, third, known in zip(outputs, again(x), expected, strict=True):
        torch.testing.assert_close(output, known, rtol=1e-4, atol=1e-5)
        assert torch.equal(third, known)


def test_a_ticket_is_the_same_for_a_network_on_any_device(build):
    network = build("search cell", 2)
    wanted = draw_ticket(network, 3)
    with SimulatedDevice():
        network.to(DEVICE)
        ticket = draw_ticket(network, 3)
        assert all(torch.equal(ticket[name], tensor) for name, tensor in wanted.items())
        load_ticket(network, ticket)
        gate, projection = network.implants[0].gate, network.implants[0].cell.projections[0][1]
        assert gate.item() == 0
        name = "implants.0.cell.projections.0.1.weight"
        assert torch.equal(numbers_of(projection.weight), wanted[name])
