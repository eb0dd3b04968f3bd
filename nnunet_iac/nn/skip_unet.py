"""U-Nets with another skip module than the cell, trained from scratch."""

from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_iac.nn.layers import Layers
from nnunet_iac.nn.nested_skips import NestedSkips, widen_for_nested_skips
from nnunet_iac.nn.skip_modules import build_skip_module, require_skip_module
from nnunet_iac.nn.surgery import ImplantedUNet, located_unet, skip_channels


class SkipUNet(ImplantedUNet):
    """An ordinary network for nnU-Net's plans: a stock U-Net with skip modules, all of it trained.

    Attention gates and residual attention have one module per level. Nested skips (U-Net++) are
    one module for all levels, and the decoder's stages take all nodes of their level. Deep
    supervision is nnU-Net's, one output per decoder stage; U-Net++'s own, on the nodes of the
    highest resolution, would not fit nnU-Net's loss.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        skip: one of `SKIP_MODULES`.
        unet: dotted class name of the U-Net.
        deep_supervision: whether the network starts with all outputs; nnU-Net switches it later
            through `decoder.deep_supervision`.
        arch_kwargs: what the U-Net's class takes.

    Raises:
        ValueError: an unknown skip module, no class of that name that the surgery knows, or fewer
            than three stages; unless skips are nested, a U-Net without instance or batch norm.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        skip: str,
        unet: str,
        deep_supervision: bool = False,
        **arch_kwargs: Any,
    ) -> None:
        require_skip_module(skip)
        network: Any = located_unet(unet)(
            input_channels=input_channels,
            num_classes=num_classes,
            deep_supervision=deep_supervision,
            **arch_kwargs,
        )
        super().__init__(network, ())
        self.nested = skip == "nested"
        if self.nested:
            self.implants.append(NestedSkips(self.encoder))
            widen_for_nested_skips(self.decoder)
        else:
            levels = zip(skip_channels(network), Layers.of_levels(self.encoder), strict=True)
            self.implants.extend(build_skip_module(skip, *level) for level in levels)
        self._initialise_unet = partial(network.apply, network.initialize)

    def initialize(self, module: nn.Module) -> None:
        """Draw all initial weights when `module` is the whole network.

        nnU-Net applies this to every module. The U-Net's are those of its own class; the implants'
        are He's, as everywhere in nnU-Net.
        """
        if module is self:
            self._initialise_unet()
            self.implants.apply(InitWeights_He(1e-2))

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the concatenated nodes of every level where skips are nested."""
        if not self.nested:
            return skips
        return [*(torch.cat(nodes, dim=1) for nodes in self.implants[0](skips)), skips[-1]]

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return what the implant of a level gives; nested skips are complete already."""
        return inputs[0] if self.nested else super().implanted(level, *inputs)
