"""U-Net surgery: a stock U-Net whose skip connections run through implanted modules."""

import pydoc
from collections.abc import Iterable
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from jaxtyping import Float
from torch import Tensor, nn

from nnunet_iac.nn.timm_unet import TimmUNet

SUPPORTED = (PlainConvUNet, ResidualEncoderUNet, TimmUNet)
_NAMES = ", ".join(supported.__name__ for supported in SUPPORTED)


class ImplantedUNet(nn.Module):
    """A U-Net of dynamic_network_architectures with a module (skip, up) -> skip on every skip.

    Encoder and decoder are the stock network's own modules under their own names, so a stock
    checkpoint's keys are a subset of this network's and load unchanged. `implants` are ordered
    like the decoder's stages, the lowest resolution first.
    """

    encoder: Any
    decoder: UNetDecoder

    def __init__(self, unet: nn.Module, implants: Iterable[nn.Module]) -> None:
        super().__init__()
        require_supported(unet)
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        self.implants = nn.ModuleList(implants)

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Tensor | list[Tensor]:
        """Return logits; with deep supervision a list, the highest resolution first."""
        mixing = self.mixing()
        decoder = self.decoder
        skips = self.rewired(self.encoder(x))
        below = skips[-1]
        outputs = []
        for level, (upsample, stage, head) in enumerate(
            zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True)
        ):
            up = upsample(below)
            skip = self.implanted(level, skips[-(level + 2)], up, *mixing)
            below = stage(torch.cat((up, skip), dim=1))
            if decoder.deep_supervision or level == len(decoder.stages) - 1:
                outputs.append(head(below))
        return outputs[::-1] if decoder.deep_supervision else outputs[0]

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the encoder's tensors as the decoder gets them, the highest resolution first."""
        return skips

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return what the implant of a level gives."""
        return self.implants[level](*inputs)

    def mixing(self) -> tuple[Tensor, ...]:
        """Return what every implant gets after the skip and the upsampled tensor."""
        return ()

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the stock network's part of the state dict, buffers included."""
        parts = ("encoder.", "decoder.")
        return {key: value for key, value in self.state_dict().items() if key.startswith(parts)}


def skip_channels(unet: Any) -> list[int]:
    """Return the channels of every skip connection, the lowest resolution first."""
    return list(unet.encoder.output_channels[-2::-1])


def require_supported(unet: nn.Module) -> None:
    """Check that the surgery knows a network (see `ImplantedUNet`)."""
    if not isinstance(unet, SUPPORTED):
        raise ValueError(
            f"the network must be one of {_NAMES}; the plans describe a {type(unet).__name__}: "
            "use the plans it was made from, or plan with one of nnU-Net's planners "
            "(nnUNetv2_plan_experiment -pl ExperimentPlanner or nnUNetPlannerResEncM)"
        )
    stages = len(unet.encoder.output_channels)
    if stages < 3:
        raise ValueError(
            f"the network must have at least 3 stages, since nnU-Net gives the lowest decoder "
            f"output no weight in deep supervision; the plans describe {stages}"
        )


def located_unet(name: str) -> type[nn.Module]:
    """Return the U-Net class of a dotted name, or raise a `ValueError`."""
    found = pydoc.locate(name)
    if not (isinstance(found, type) and issubclass(found, SUPPORTED)):
        raise ValueError(
            f"unet must be the dotted name of one of {_NAMES}; got {name!r}: take the "
            "network_class_name of the plans of an ordinary U-Net"
        )
    return found
