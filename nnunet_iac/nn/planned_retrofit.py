"""A retrofit as plans describe a network, so that nnU-Net's own trainer can build it."""

from collections.abc import Mapping
from typing import Any

from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.nn.skip_module_unet import retrofitted
from nnunet_iac.nn.skip_unet import located_unet
from nnunet_iac.search.settings import Settings


def planned_retrofit(
    input_channels: int,
    num_classes: int,
    unet: str,
    settings: Mapping[str, Any],
    deep_supervision: bool = False,
    **arch_kwargs: Any,
) -> RetrofittedUNet:
    """Return the retrofitted network; the cells it runs come with its weights.

    nnU-Net calls the `network_class_name` of plans so.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        unet: dotted class name of the U-Net.
        settings: the structural ones, and what is implanted.
        deep_supervision: whether the network returns all outputs.
        arch_kwargs: what the U-Net's class takes.

    Raises:
        ValueError: no U-Net that the surgery knows, or impossible settings.
    """
    network = located_unet(unet)(
        input_channels=input_channels,
        num_classes=num_classes,
        deep_supervision=deep_supervision,
        **arch_kwargs,
    )
    return retrofitted(network, Settings.from_mapping(settings))
