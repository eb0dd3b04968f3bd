"""What a retrofit lets learn of its backbone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.search.controls import identity_genotype

LEARN = {"none": (), "decoder": ("decoder",), "all": ("encoder", "decoder")}


def _stepped(network: IACUNet) -> set[str]:
    """Return the parts of the backbone that one training step with batch norms changes."""
    before = copy.deepcopy(network.backbone_state())
    learning = [p for p in network.parameters() if p.requires_grad]
    network(torch.randn(2, 2, 16, 16)).square().mean().backward()
    torch.optim.SGD(learning, 0.1).step()
    changed = {
        key for key, value in network.backbone_state().items() if (value != before[key]).any()
    }
    # The encoder is one of the decoder's modules.
    return {"encoder" if ".encoder." in f".{key}" else "decoder" for key in changed}


@pytest.mark.parametrize("part", LEARN)
def test_what_is_unfrozen_learns_with_its_running_statistics_and_the_rest_stays(
    tiny_unet: Callable[..., Any], part: str
) -> None:
    unet = tiny_unet(norm="Batch", deep_supervision=False)
    network: Any = retrofit(unet, identity_genotype(), trained_backbone=part).train()
    assert _stepped(network) == set()
    network.unfreeze()
    assert _stepped(network) == set(LEARN[part])
    assert all(p.requires_grad for p in network.backbone_weights())


def test_the_decoder_alone_has_no_parameter_of_the_encoder(tiny_unet: Callable[..., Any]) -> None:
    network = retrofit(tiny_unet(), trained_backbone="decoder")
    encoder = set(network.encoder.parameters())
    own = set(network.decoder.parameters()) - encoder
    assert set(network.backbone_weights()) == own
    network.unfreeze()
    assert not network.encoder.training
    assert network.decoder.stages.training


def test_evaluation_and_freezing_again_leave_nothing_in_training_mode(
    tiny_unet: Callable[..., Any],
) -> None:
    network = retrofit(tiny_unet(), trained_backbone="all")
    network.unfreeze()
    assert not any(module.training for module in network.eval().modules())
    network.train().unfreeze(False)
    assert not any(module.training for module in network.encoder.modules())
    assert not any(p.requires_grad for p in network.backbone_weights())
