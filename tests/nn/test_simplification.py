"""Networks for inference, and networks that plans name: the same numbers as what was trained."""

import pytest
import torch
from torch import nn

from nnunet_iac.nn.cell import ZeroGated
from nnunet_iac.nn.decoder_norms import TunedNorm
from nnunet_iac.nn.simplification import simplified
from nnunet_iac.nn.skip_module_unet import retrofitted
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.settings import Settings

WAYS = {
    "cell": {},
    "cell, tuned norms": {"decoder_norms": "tuned"},
    "cell, batch norms": {"norm": "batch"},
    "convolution": {"genotype": "conv"},
    "attention": {"skip": "attention"},
    "nested": {"skip": "nested"},
}


def trained(unet, **values):
    """Return a retrofit whose every parameter and statistic is off its start."""
    network = retrofitted(unet, Settings(min_channels=8, **values))
    if network.settings.implant == "cell":
        network.discretise(random_genotype(3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    network.decoder.deep_supervision = False
    return network.eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@torch.no_grad()
def test_the_simplified_network_gives_the_same_logits_and_leaves_the_other_alone(
    tiny_unet, way, norm
):
    network = trained(tiny_unet(2, norm=norm), **WAYS[way])
    x = torch.randn(1, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    before = network(x)
    small = simplified(network)
    assert torch.allclose(small(x), before, atol=1e-4)
    assert torch.equal(network(x), before)


def test_gates_norms_and_hooks_are_gone(tiny_unet):
    settings = {"decoder_norms": "tuned", "norm": "batch"}
    small = simplified(trained(tiny_unet(2, norm="Batch"), **settings))
    assert not any(isinstance(m, ZeroGated) for m in small.modules())
    hooks = [hook for m in small.modules() for hook in m._forward_hooks.values()]
    assert not any(isinstance(hook, TunedNorm) for hook in hooks)
    run = [m for m in small.implants.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not run
