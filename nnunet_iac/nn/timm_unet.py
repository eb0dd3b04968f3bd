"""U-Nets of a timm encoder and nnU-Net's decoder, as nnU-Net builds networks from plans."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from statistics import mode
from typing import Any

from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from jaxtyping import Float
from torch import Tensor, nn

from nnunet_iac.nn.timm_encoder import (
    STAGES,
    TimmEncoder,
    encoder_strides,
    known_encoder,
    require_2d,
)

REQUIRES_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Keys of arch_kwargs whose values nnU-Net replaces by the classes they name."""
_AS_PLANNED = (*REQUIRES_IMPORT, *(f"{op}_kwargs" for op in REQUIRES_IMPORT[1:]), "conv_bias")


class TimmUNet(nn.Module):
    """A 2-D U-Net with a published encoder (`TimmEncoder`) and nnU-Net's decoder.

    Args:
        input_channels: of the image.
        num_classes: logits per pixel.
        encoder: a key of `ENCODERS`.
        strides: of the stages; nnU-Net reads its deep supervision from the plans' strides, so
            they must be there and be the encoder's: 1, then 2 five times.
        conv_op: `nn.Conv2d`.
        stem_channels: of the full-resolution skip; None is 32, and VGG-16 allows nothing else.
        n_conv_per_stage_decoder: convolutions in a stage of the decoder, one number for all or
            five, the lowest resolution first.
        deep_supervision: whether all resolutions but the lowest give logits;
            `decoder.deep_supervision` switches it later.
        layers: `kernel_sizes` and the norm, dropout, nonlinearity and bias of stem and decoder, as
            `TimmEncoder` takes them.

    Raises:
        ValueError: no such encoder, other strides than its own, a `conv_op` that is not 2-D, or
            a stem asked of VGG-16.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        encoder: str,
        strides: Sequence[Any],
        conv_op: type[nn.Module],
        stem_channels: int | None = None,
        n_conv_per_stage_decoder: int | Sequence[int] = 2,
        deep_supervision: bool = False,
        **layers: Any,
    ) -> None:
        super().__init__()
        own = encoder_strides(encoder)
        given = [[s, s] if isinstance(s, int) else list(s) for s in strides]
        if given != own:
            raise ValueError(
                f"strides must be those of the encoder {encoder}, {own}; got {given}: correct "
                "them in the plans"
            )
        self.encoder = TimmEncoder(encoder, input_channels, stem_channels, conv_op, **layers)
        self.decoder = UNetDecoder(
            self.encoder, num_classes, n_conv_per_stage_decoder, deep_supervision
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor | list[Tensor]:
        """Return logits; with deep supervision a list, the highest resolution first."""
        return self.decoder(self.encoder(x))

    def initialize(self, module: nn.Module) -> None:
        """Give stem and decoder nnU-Net's initial weights (He) when `module` is the whole network.

        nnU-Net applies this to every module. The trunk keeps what it has: timm's initial weights
        for its architecture, or pretrained ones.
        """
        if module is not self:
            return
        decoder = self.decoder
        for part in (self.encoder.stem, decoder.stages, decoder.transpconvs, decoder.seg_layers):
            if part is not None:
                part.apply(InitWeights_He(1e-2))


def arch_kwargs_of(encoder: str, base_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arch_kwargs of a `TimmUNet` from those of nnU-Net's own 2-D plans.

    Norm, nonlinearity, dropout and bias are the plans'; the stem is as wide as their first
    stage, and every stage of the decoder has the number of convolutions most of theirs have.

    Raises:
        ValueError: no such encoder, or plans of a 3-D network.
    """
    published = known_encoder(encoder)
    require_2d(encoder, base_kwargs["conv_op"])
    stem = {"stem_channels": base_kwargs["features_per_stage"][0]} if published.has_stem else {}
    return {
        "encoder": encoder,
        "strides": encoder_strides(encoder),
        **stem,
        "n_conv_per_stage_decoder": [mode(base_kwargs["n_conv_per_stage_decoder"])] * (STAGES - 1),
        **{key: deepcopy(base_kwargs[key]) for key in _AS_PLANNED},
    }


def architecture_of(encoder: str, base_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `architecture` section of plans for a `TimmUNet` (see `arch_kwargs_of`)."""
    return {
        "network_class_name": f"{TimmUNet.__module__}.{TimmUNet.__qualname__}",
        "arch_kwargs": arch_kwargs_of(encoder, base_kwargs),
        "_kw_requires_import": list(REQUIRES_IMPORT),
    }
