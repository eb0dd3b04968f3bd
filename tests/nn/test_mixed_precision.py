"""Cells under autocast: half precision costs digits, and nothing else."""

import pytest
import torch
from torch import nn

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.nn.tuned_norms import TunedNorm

KINDS = ("whole", "pruned", "discrete")
SCALE = 2.0**12
DIGITS = {torch.bfloat16: 8, torch.float16: 11}
"""Binary digits of a number's fraction, the leading one included."""


def halves(dtype):
    """Return whether this CPU convolves in a half precision."""
    try:
        with torch.autocast("cpu", dtype):
            return nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 1, 1)).dtype == dtype
    except RuntimeError:
        return False


CASES = [
    *((2, norm, kind, {}) for norm in ("Instance", "Batch") for kind in KINDS),
    *((3, "Instance", kind, {}) for kind in KINDS),
    (2, "Instance", "pruned", {"residual": "zero"}),
    (2, "Instance", "pruned", {"activation_checkpointing": True}),
]


def build(unet, kind, genotype, **values):
    """Return a network with open gates, and alpha and beta at which all edges learn."""
    net = IACUNet(unet, min_channels=8, **values)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(net.alpha, generator=generator)
    nn.init.normal_(net.beta, std=0.1, generator=generator)  # so small that no edge is at the cap
    if kind == "pruned":
        active = torch.rand(14, 7, generator=generator) < 0.5
        active[:, 1] = True
        net.prune(active)
    if kind == "discrete":
        net.discretise(genotype)
    load_ticket(net, draw_ticket(net, 0))
    if net.residual == "zero":
        for implant in net.implants:
            nn.init.constant_(implant.gate, 0.5)
    return net


def scaled_step(net, x, target, dtype=None):
    """Return outputs, loss and unscaled gradients; with a type as nnU-Net's step with a scaler."""
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=dtype is not None)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outputs = net(x)
        parts = (nn.functional.cross_entropy(outputs[0], target), outputs[1].square().mean())
        loss = parts[0] + 0.5 * parts[1]
    scaler.scale(loss).backward()
    gradients = {
        n: p.grad / scaler.get_scale() for n, p in net.named_parameters() if p.requires_grad
    }
    return outputs, loss.detach(), gradients


@pytest.mark.parametrize(("dimension", "norm", "kind", "keywords"), CASES, ids=str)
@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_half_precision_gives_the_loss_and_the_gradients_of_single_precision(
    tiny_unet, random_genotype, dimension, norm, kind, keywords, dtype
):
    if not halves(dtype):
        pytest.skip(f"this CPU has no convolution in {dtype}")
    unet = tiny_unet(dimension, norm=norm, deep_supervision=True)
    net = build(unet, kind, random_genotype(0), **keywords)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, *(16, 16, 8)[:dimension], generator=generator)
    target = torch.randint(0, 3, (2, *x.shape[2:]), generator=generator)
    exact, found = scaled_step(net, x, target), scaled_step(net, x, target, dtype)
    rounding = 2.0 ** -DIGITS[dtype]
    assert all(output.dtype == dtype for output in found[0])
    for output, wanted in zip(found[0], exact[0], strict=True):
        assert distance(output.float(), wanted) < 10 * rounding
    torch.testing.assert_close(found[1].float(), exact[1], rtol=2 * rounding, atol=0)
    learning = {"alpha", "beta"} & found[2].keys()
    assert learning == (set() if kind == "discrete" else {"alpha", "beta"})
    for gradient in found[2].values():
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
    # Where rounding moves a voxel over the kink of a ReLU or another neighbour becomes the maximum,
    # all of its gradient changes: that share is about `rounding`, and its norm the square root.
    for name in learning:
        assert distance(found[2][name], exact[2][name]) < 6 * rounding**0.5
    cells = [
        torch.cat([part[name].flatten() for name in part if name not in learning])
        for part in (found[2], exact[2])
    ]
    assert distance(*cells) < 6 * rounding**0.5


def distance(found, wanted):
    """Return the length of the difference in units of what it should be."""
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_a_tuned_norm_keeps_the_precision_of_its_norm(dtype):
    norm, tuned = nn.InstanceNorm2d(3, affine=True), TunedNorm(3)
    norm.register_forward_hook(tuned)
    output = norm(torch.randn(2, 3, 4, 4)).to(dtype)
    assert tuned(norm, (), output).dtype == dtype
    norm(torch.randn(2, 3, 4, 4)).square().sum().backward()
    assert tuned.scale.grad.dtype == torch.float32
