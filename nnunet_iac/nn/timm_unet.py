"""U-Nets of a published encoder from timm, with or without its weights, and nnU-Net's decoder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import is_initialized
from torch.nn.modules.batchnorm import _BatchNorm

STAGES = 6
"""Resolutions of every encoder, the full one included; each has half the sides of the last."""
FACTOR = 2 ** (STAGES - 1)
"""Every side of an image must be a multiple of it."""
STEM_CHANNELS = 32
"""Channels of the full-resolution stem by default, as of nnU-Net's first stage."""


@dataclass(frozen=True)
class Encoder:
    """A network of timm that can be an encoder."""

    timm_name: str
    channels: tuple[int, ...]
    """Channels of the features of its trunk, the highest resolution first."""
    head: tuple[str, ...]
    """Prefixes of the names of the parameters behind the trunk."""

    @property
    def has_stem(self) -> bool:
        """Whether it needs a stem, since its own first feature has half the resolution."""
        return len(self.channels) < STAGES

    def output_channels(self, stem_channels: int) -> list[int]:
        """Return the channels of all stages, the highest resolution first."""
        return [*[stem_channels] * self.has_stem, *self.channels]


ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "vgg16": Encoder("vgg16", (64, 128, 256, 512, 512, 512), ("pre_logits.", "head.")),
        "resnet50": Encoder("resnet50", (64, 256, 512, 1024, 2048), ("fc.",)),
        "mobilenetv3_large": Encoder(
            "mobilenetv3_large_100", (16, 24, 40, 112, 960), ("conv_head.", "classifier.")
        ),
        "efficientnetv2_s": Encoder(
            "tf_efficientnetv2_s", (24, 48, 64, 160, 256), ("conv_head.", "bn2.", "classifier.")
        ),
        "efficientnetv2_m": Encoder(
            "tf_efficientnetv2_m", (24, 48, 80, 176, 512), ("conv_head.", "bn2.", "classifier.")
        ),
    }
)
"""The backbone grid of the paper's evaluation (arXiv 2604.14849); method, section 7."""


def known_encoder(name: str) -> Encoder:
    """Return the encoder of a name, or raise a `ValueError`."""
    if name not in ENCODERS:
        raise ValueError(f"the encoder must be one of {', '.join(ENCODERS)}; got {name!r}")
    return ENCODERS[name]


def encoder_strides(name: str) -> list[list[int]]:
    """Return the stride of every stage as plans write it: 1, then 2 five times."""
    known_encoder(name)
    return [[1, 1], *([2, 2] for _ in range(STAGES - 1))]


def padded_patch_size(name: str, patch_size: Sequence[int]) -> list[int]:
    """Return a patch size in pixels with each side rounded up to a multiple of 32."""
    known_encoder(name)
    if len(patch_size) != 2 or min(patch_size) < 1:
        raise ValueError(
            f"the patch of a {name} encoder must have two positive sides; got "
            f"{list(patch_size)}: use a 2-D configuration"
        )
    return [-(-side // FACTOR) * FACTOR for side in patch_size]


class TimmEncoder(nn.Module):
    """A trunk of timm without its classifier, as an encoder of dynamic_network_architectures.

    The published networks but VGG-16 begin with stride 2. So a stem of two 3x3 convolutions of
    stride 1, with the plans' norm and nonlinearity, gives the full-resolution skip and feeds the
    trunk, whose first convolution takes the stem's channels instead of three. VGG-16 gets no
    stem: its own first block is two 3x3 convolutions of stride 1. Everything else in a trunk is
    as published, norm and nonlinearity included; VGG-16 has no norm at all. Nothing in a trunk
    is random, neither dropout nor stochastic depth. Weights are timm's random ones: nothing is
    ever downloaded.

    Args:
        name: one of `ENCODERS`.
        stem_channels: of the full-resolution skip; None is 32, and VGG-16 allows nothing else.
        kernel_sizes: of the decoder's convolutions, one for all or one per stage.
        conv_bias: of stem and decoder, like all that follows, as in nnU-Net's plans.
    """

    def __init__(
        self,
        name: str,
        input_channels: int,
        stem_channels: int | None,
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[Any] = 3,
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        published = known_encoder(name)
        require_2d(name, conv_op.__name__)
        if stem_channels is not None and not published.has_stem:
            raise ValueError(
                f"stem_channels must be left out for {name}, whose own first block has the full "
                f"resolution and {published.channels[0]} channels; got {stem_channels}"
            )
        from timm import create_model  # Takes two seconds, so not before it is needed.

        self.name = name
        self.stem: nn.Module | None = None
        stem_channels = stem_channels or STEM_CHANNELS
        trunk_channels = input_channels
        if published.has_stem:
            trunk_channels = stem_channels
            self.stem = StackedConvBlocks(
                *(2, conv_op, input_channels, stem_channels, 3, 1, conv_bias),
                *(norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs),
            )
        self.trunk = create_model(
            published.timm_name, pretrained=False, features_only=True, in_chans=trunk_channels
        )
        if is_initialized() and any(map(_has_activation, self.trunk.modules())):
            raise ValueError(
                f"{name} must be trained by one process; there are several, whose synchronised "
                "batch norms would leave out its activations: train on one GPU"
            )
        # What a decoder, and the surgery, need to know.
        self.output_channels = published.output_channels(stem_channels)
        self.strides = encoder_strides(name)
        self.conv_op, self.conv_bias = conv_op, conv_bias
        self.norm_op, self.norm_op_kwargs = norm_op, norm_op_kwargs
        self.dropout_op, self.dropout_op_kwargs = dropout_op, dropout_op_kwargs
        self.nonlin, self.nonlin_kwargs = nonlin, nonlin_kwargs
        same = isinstance(kernel_sizes, int)
        self.kernel_sizes = [kernel_sizes] * STAGES if same else kernel_sizes

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Return the features of all stages, the highest resolution first."""
        sides = x.shape[2:]
        if any(side % FACTOR for side in sides):
            padded = padded_patch_size(self.name, sides)
            given, wanted = ("x".join(map(str, size)) for size in (sides, padded))
            raise ValueError(
                f"the sides of an image for a {self.name} encoder must be multiples of {FACTOR}; "
                f"got {given}: plan or pad to {wanted}"
            )
        if self.stem is None:
            return self.trunk(x)
        full = self.stem(x)
        return [full, *self.trunk(full)]


def _has_activation(module: nn.Module) -> bool:
    """Return whether a module is a batch norm with an activation inside, as timm has them."""
    return isinstance(module, _BatchNorm) and any(True for _ in module.children())


def require_2d(name: str, conv_op: str) -> None:
    """Raise a `ValueError` unless the class named `conv_op` is the convolution of 2-D images."""
    if conv_op.rpartition(".")[2] != "Conv2d":
        raise ValueError(
            f"conv_op must be Conv2d, since {name} is an encoder of 2-D images; got {conv_op}: use "
            "a 2-D configuration"
        )


def load_encoder_weights(unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the trunk of a `TimmEncoder` in `unet` the weights of timm's whole model of its name.

    The classifier is dropped. Weights of a first convolution of three channels are adapted to
    the trunk's input as timm does it (`timm.models.adapt_input_conv`): summed over the channels
    for one channel, otherwise repeated in the order of the channels and scaled by 3 / channels,
    so that equal channels give the same response as before.

    Raises:
        ValueError: weights of another architecture; the message names the first key that is
            missing, of another shape, or unknown. The network is then unchanged.
    """
    from timm.models import adapt_input_conv  # Takes two seconds, so not before it is needed.

    encoder: Any = unet.encoder
    published = ENCODERS[encoder.name]
    own = encoder.trunk.state_dict()
    # timm flattens VGG's one container when it takes the trunk out of the model.
    found = {
        re.sub(r"^features\.", "features_", key): tensor
        for key, tensor in weights.items()
        if not key.startswith(published.head)
    }
    first = next(iter(own))
    if first in found and found[first].ndim == 4 and found[first].shape[1] == 3:
        found[first] = adapt_input_conv(own[first].shape[1], found[first])
    loaded = {**own, **found}
    for key, tensor in loaded.items():
        if key not in own:
            finding = f"{key} is unknown"
        elif key not in found and not key.endswith("num_batches_tracked"):  # as in older files
            finding = f"{key} is missing"
        elif tensor.shape != own[key].shape:
            finding = f"{key} has the shape {list(tensor.shape)} instead of {list(own[key].shape)}"
        else:
            continue
        raise ValueError(
            f"the weights must be those of timm's {published.timm_name}, which the encoder "
            f"{encoder.name} is made of; {finding}: give the file of that model"
        )
    encoder.trunk.load_state_dict(loaded)


class TimmUNet(nn.Module):
    """A 2-D U-Net with a published encoder (`TimmEncoder`) and nnU-Net's decoder.

    Args:
        encoder: a key of `ENCODERS`.
        strides: of the stages; nnU-Net reads its deep supervision from the plans' strides, so
            they must be there and be the encoder's: 1, then 2 five times.
        n_conv_per_stage_decoder: convolutions in a stage of the decoder, one number for all or
            five, the lowest resolution first.
        deep_supervision: whether all resolutions but the lowest give logits;
            `decoder.deep_supervision` switches it later.
        layers: `kernel_sizes` and the norm, dropout, nonlinearity and bias of stem and decoder, as
            `TimmEncoder` takes them.
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
