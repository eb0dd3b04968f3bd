"""Tuned norms of a frozen decoder."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import SyncBatchNorm

from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.training.distributed import synchronised

TUNED = {"decoder_norms": "tuned", "residual": "zero"}


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_a_network_with_tuned_norms_begins_as_the_stock_network(
    tiny_unet: Callable[..., Any], norm: str
) -> None:
    unet = tiny_unet(norm=norm, deep_supervision=False)
    x = torch.randn(2, 2, 16, 16)
    expected = copy.deepcopy(unet).eval()(x)
    assert torch.equal(IACUNet(unet, **TUNED)(x), expected)


def test_tuning_is_what_other_gammas_and_betas_would_be(tiny_unet: Callable[..., Any]) -> None:
    unet = tiny_unet(deep_supervision=False)
    other = copy.deepcopy(unet)
    network: RetrofittedUNet = IACUNet(unet, **TUNED)
    norms = [m for m in other.decoder.stages.modules() if isinstance(m, torch.nn.InstanceNorm2d)]
    assert len(norms) == len(network.tuned_norms) > 0
    with torch.no_grad():
        for tuned, norm in zip(network.tuned_norms, norms, strict=True):
            tuned.scale.normal_()
            tuned.shift.normal_()
            norm.bias.mul_(tuned.scale).add_(tuned.shift)
            norm.weight.mul_(tuned.scale)
    x = torch.randn(2, 2, 16, 16)
    torch.testing.assert_close(network(x), other.eval()(x), rtol=1e-4, atol=1e-5)


def test_only_the_added_tensors_are_tuned(tiny_unet: Callable[..., Any]) -> None:
    network = IACUNet(tiny_unet(deep_supervision=False), **TUNED)
    before = {key: value.clone() for key, value in network.backbone_state().items()}
    learning = network.norm_weights()
    assert not any(p.requires_grad for p in network.decoder.parameters())
    network(torch.randn(2, 2, 16, 16)).square().mean().backward()
    assert all(p.grad is not None for p in learning)
    torch.optim.SGD(learning, 0.1).step()
    after = network.backbone_state()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert IACUNet(tiny_unet()).norm_weights() == []


def test_a_u_net_whose_norms_are_tuned_is_not_retrofitted_again(
    tiny_unet: Callable[..., Any],
) -> None:
    unet = tiny_unet(deep_supervision=False)
    IACUNet(unet)
    IACUNet(unet, **TUNED)
    with pytest.raises(ValueError, match="build it anew and load its weights"):
        IACUNet(unet)


def test_a_copy_has_norms_of_its_own(tiny_unet: Callable[..., Any]) -> None:
    network = IACUNet(tiny_unet(deep_supervision=False), **TUNED)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.tuned_norms[0].shift.fill_(3.0)
    x = torch.randn(1, 2, 16, 16)
    assert not torch.equal(network(x), copied(x))


@pytest.mark.parametrize("norm", ["Instance", "Batch"])
def test_norms_that_are_synchronised_over_gpus_stay_tuned(
    tiny_unet: Callable[..., Any], norm: str
) -> None:
    network = IACUNet(tiny_unet(norm=norm, deep_supervision=False), **TUNED).eval()
    for parameter in network.norm_weights():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 2, 16, 16)
    expected = network(x)
    for _ in range(2):  # nnU-Net converts a network first, and a run again with every wrapper.
        converted = synchronised(SyncBatchNorm.convert_sync_batchnorm(network))
        torch.testing.assert_close(converted(x), expected)
    assert (norm == "Batch") == any(isinstance(m, SyncBatchNorm) for m in converted.modules())
    converted(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.norm_weights())
