"""The modules a cell is compared with: attention, residual attention, convolutions, U-Net++."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from nnunet_iac.nn.cell import Image, Layers

SKIP_MODULES = ("attention", "nested", "residual-attention")
"""All names; nested skips span the levels, the others are one module (skip, up) -> skip each."""
MIN_WIDTH = 4
"""The fewest channels inside a residual unit."""


def build_skip_module(name: str, skip_channels: int, layers: Layers) -> nn.Module:
    """Return the module of one level, for any name but `nested`."""
    kinds = {"attention": AttentionGate, "residual-attention": ResidualAttention}
    return kinds[name](skip_channels, layers)


def require_skip_module(name: str) -> None:
    """Raise a `ValueError` unless a name is one of `SKIP_MODULES`."""
    if name not in SKIP_MODULES:
        raise ValueError(f"skip must be one of {', '.join(SKIP_MODULES)}; got {name!r}")


class AttentionGate(nn.Module):
    """skip x sigmoid(psi(ReLU(W_x skip + W_g up + b_g)) + b_psi), one factor in (0, 1) per voxel.

    Additive attention of Oktay et al. 2018 (arXiv 1804.03999, eqs. 1 and 2), with F_int = C_skip
    as in the authors' networks and all three convolutions 1x1. There the gating signal is the
    coarser decoder tensor before upsampling: W_x strides down to its grid, and the factors are
    interpolated back. Here it is the upsampled tensor, already on the skip's own grid with C_skip
    channels, so nothing is resampled. As in the equations there is no norm and no convolution
    after the product.
    """

    def __init__(self, skip_channels: int, layers: Layers) -> None:
        super().__init__()
        self.of_skip = layers.conv(skip_channels, skip_channels, bias=False)
        self.of_gate = layers.conv(skip_channels, skip_channels)
        self.psi = layers.conv(skip_channels, 1)

    def forward(self, skip: Image, up: Image) -> Image:
        """Return the skip tensor, every voxel scaled by its attention."""
        hidden = functional.relu(self.of_skip(skip) + self.of_gate(up))
        return skip * torch.sigmoid(self.psi(hidden))


class ResidualAttention(nn.Module):
    """F((1 + M(F(skip))) x T(F(skip))): a trunk T, and a mask M in (0, 1) per voxel and channel.

    The attention module of Wang et al. 2017 (CVPR, Residual Attention Network, eq. 3 and fig. 2)
    with its p = 1 residual unit before and after, t = 2 units in the trunk and r = 1 between
    poolings; RA-UNet (Jin et al. 2020) put this module, with the same p, t and r, into the skip
    connections of a U-Net. That is why it is the one here: the paper on the cells compares with
    "residual attention" and names no source.

    The mask halves the resolution `steps` times at every level, while both papers do so once more
    with every doubling of the resolution. A pooling, over two voxels as in RA-UNet, leaves axes of
    one or two voxels alone, so that norms always have voxels to average over.
    """

    def __init__(self, skip_channels: int, layers: Layers, steps: int = 2) -> None:
        super().__init__()
        self.before = residual_unit(skip_channels, layers)
        self.trunk = nn.Sequential(*(residual_unit(skip_channels, layers) for _ in range(2)))
        self.mask = Mask(skip_channels, layers, steps)
        self.after = residual_unit(skip_channels, layers)

    def forward(self, skip: Image, up: Image) -> Image:
        """Return the skip tensor's replacement; `up` is not used: the attention is to itself."""
        x = self.before(skip)
        return self.after((1 + self.mask(x)) * self.trunk(x))


class Mask(nn.Module):
    """The mask branch: down by max pooling, up by linear interpolation, two 1x1 convolutions.

    On every resolution in between, a residual unit links the way down to the way up. Norm and ReLU
    precede both last convolutions, and nothing has a bias, as in the authors' own networks.
    """

    def __init__(self, channels: int, layers: Layers, steps: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(residual_unit(channels, layers) for _ in range(steps))
        self.across = nn.ModuleList(residual_unit(channels, layers) for _ in range(steps - 1))
        self.up = nn.ModuleList(residual_unit(channels, layers) for _ in range(steps))
        self.output = nn.Sequential(
            *preactivated(channels, channels, 1, layers),
            *preactivated(channels, channels, 1, layers),
            nn.Sigmoid(),
        )

    def forward(self, x: Image) -> Image:
        """Return the mask, in (0, 1), of the shape of `x`."""
        sizes, linked = [], []
        for step, unit in enumerate(self.down):
            sizes.append(x.shape[2:])
            x = unit(_halved(x))
            if step < len(self.across):
                linked.append(self.across[step](x))
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        for step, unit in reversed(list(enumerate(self.up))):
            x = functional.interpolate(unit(x), sizes[step], mode=mode, align_corners=False)
            if step > 0:
                x = x + linked[step - 1]
        return self.output(x)


def _halved(x: torch.Tensor) -> torch.Tensor:
    """Return the maxima of pairs along every axis of more than two voxels, rounded up."""
    pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
    return pool(x, [2 if size > 2 else 1 for size in x.shape[2:]], ceil_mode=True)


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Image) -> Image:
        """Return the sum."""
        return x + self.inner(x)


def residual_unit(channels: int, layers: Layers) -> Residual:
    """Return a pre-activation bottleneck of 1x1, 3x3 and 1x1 convolutions (He et al. 2016).

    Inside it has a quarter of the channels, at least `MIN_WIDTH`.
    """
    width = max(MIN_WIDTH, channels // 4)
    sizes = ((channels, width, 1), (width, width, 3), (width, channels, 1))
    return Residual(nn.Sequential(*(m for size in sizes for m in preactivated(*size, layers))))


def preactivated(inputs: int, outputs: int, kernel: int, layers: Layers) -> list[nn.Module]:
    """Return norm, ReLU and convolution without bias."""
    return [
        layers.norm(inputs, affine=True),
        nn.ReLU(),
        layers.conv(inputs, outputs, kernel, bias=False),
    ]


PARAMETER_TOLERANCE = 0.01
"""The share by which a block's parameters may miss the wanted number for the sake of balance."""


class ConvolutionBlock(nn.Module):
    """The skip and the upsampled tensor through a 1x1, a 3x3 and a 1x1 convolution.

    The first two have h1 and h2 channels (`widths`), no bias, and are followed by norm and ReLU;
    the last has C_skip channels and a bias, as the cell's output has.
    """

    def __init__(self, skip_channels: int, widths: tuple[int, int], layers: Layers) -> None:
        super().__init__()
        first, second = widths
        self.convolutions = nn.Sequential(
            layers.conv(2 * skip_channels, first, bias=False),
            layers.norm(first, affine=True),
            nn.ReLU(),
            layers.conv(first, second, 3, bias=False),
            layers.norm(second, affine=True),
            nn.ReLU(),
            layers.conv(second, skip_channels),
        )

    def forward(self, skip: Image, up: Image) -> Image:
        """Return the skip tensor's replacement."""
        return self.convolutions(torch.cat((skip, up), dim=1))

    @staticmethod
    def widths_of(state: Mapping[str, Tensor], prefix: str = "") -> tuple[int, int]:
        """Return (h1, h2) of the block whose state dict's keys begin with `prefix`."""
        second, first = state[f"{prefix}convolutions.3.weight"].shape[:2]
        return first, second


def block_parameters(skip_channels: int, widths: tuple[int, int], layers: Layers) -> int:
    """Return the number of parameters of a block.

    2 C h1 + 2 h1 of the first convolution and norm, 3^d h1 h2 + 2 h2 of the second ones, and
    C h2 + C of the last convolution, in d dimensions along which the host's kernels are not flat.
    """
    (first, second), c = widths, skip_channels
    kernel = math.prod(layers.sides(3))
    return first * (2 * c + 2) + kernel * first * second + second * (c + 2) + c


def equal_widths(skip_channels: int, parameters: int, layers: Layers) -> tuple[int, int]:
    """Return the (h1, h2) whose block has the wanted number of parameters.

    For every h1 the h2 that comes closest is a candidate. Among the candidates within 1 % of
    the number, or those that come closest to it where none is, the widths with the smallest
    ratio win; ties go to the closer one, then to the smaller h1.

    Raises:
        ValueError: even the block of widths (1, 1) has more parameters.
    """
    least = block_parameters(skip_channels, (1, 1), layers)
    if parameters < least:
        raise ValueError(
            f"a convolution block for {skip_channels} skip channels must have at least {least} "
            f"parameters; got {parameters}: compare with a larger cell (settings channel_ratio, "
            "min_channels)"
        )
    misses: dict[tuple[int, int], int] = {}
    per_second = math.prod(layers.sides(3))  # What one more channel of h2 costs, per channel of h1.
    for first in range(1, parameters // (2 * skip_channels + 2) + 1):
        rest = parameters - skip_channels - first * (2 * skip_channels + 2)
        second = max(1, round(rest / (per_second * first + skip_channels + 2)))
        count = block_parameters(skip_channels, (first, second), layers)
        misses[first, second] = abs(count - parameters)
    allowed = max(min(misses.values()), int(PARAMETER_TOLERANCE * parameters))
    candidates = [widths for widths, miss in misses.items() if miss <= allowed]
    return min(candidates, key=lambda w: (max(w) / min(w), misses[w], w))


class NestedSkips(nn.Module):
    """The dense nodes between encoder and decoder, X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, up]).

    U-Net++ (Zhou et al. 2018, arXiv 1807.10165, eq. 1): i counts resolutions from the highest, j
    nodes along a level, X^{i,0} is the encoder's tensor and `up` the transposed convolution of
    X^{i+1,j-1}. H is nnU-Net's stack of 3x3 convolutions, two as in the paper, with the encoder's
    own kernel sizes, norm (unless `norm` is given, with its keywords), dropout, bias and
    nonlinearity. Level i has nodes up to J_i = stages - 2 - i; the decoder's stages follow.

    A frozen decoder has room for one tensor per level: the last node, which has C_i channels.
    `widen_for_nested_skips` makes room for all of them. The encoder is read, not kept.
    """

    def __init__(
        self,
        encoder: Any,
        n_conv_per_stage: int = 2,
        norm: tuple[type[nn.Module] | None, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        norm_op, norm_kwargs = norm or (encoder.norm_op, encoder.norm_op_kwargs)
        transposed = get_matching_convtransp(encoder.conv_op)
        levels = len(encoder.output_channels) - 1
        self.ups = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        for level in range(levels):
            channels, below = encoder.output_channels[level : level + 2]
            stride = encoder.strides[level + 1]
            for node in range(1, levels - level):
                name = _name(level, node)
                self.ups[name] = transposed(below, channels, stride, stride, bias=encoder.conv_bias)
                self.nodes[name] = StackedConvBlocks(
                    *(n_conv_per_stage, encoder.conv_op, (node + 1) * channels, channels),
                    *(encoder.kernel_sizes[level], 1, encoder.conv_bias, norm_op, norm_kwargs),
                    *(encoder.dropout_op, encoder.dropout_op_kwargs),
                    *(encoder.nonlin, encoder.nonlin_kwargs),
                )

    def forward(self, skips: list[Tensor]) -> list[list[Tensor]]:
        """Return the nodes of every level, X^{i,0} first; the highest resolution is first."""
        nodes = [[skip] for skip in skips[:-1]]
        for node in range(1, len(nodes)):
            for level in range(len(nodes) - node):
                name = _name(level, node)
                up = self.ups[name](nodes[level + 1][node - 1])
                nodes[level].append(self.nodes[name](torch.cat((*nodes[level], up), dim=1)))
        return nodes


def _name(level: int, node: int) -> str:
    """Return X^{level,node} as state-dict keys spell it."""
    return f"{level}_{node}"


def widen_for_nested_skips(decoder: UNetDecoder) -> None:
    """Let every stage take [up, X^{i,0}, ..., X^{i,J_i}] in place of [up, skip].

    Only the stages' first convolutions are replaced, by freshly initialised ones; the lowest
    stage has one node anyway and stays.
    """
    for level, stage in enumerate(decoder.stages[1:], start=1):
        block = stage.convs[0]
        narrow = block.conv
        block.input_channels = narrow.in_channels // 2 * (level + 2)
        block.conv = block.all_modules[0] = type(narrow)(
            *(block.input_channels, narrow.out_channels, narrow.kernel_size),
            *(narrow.stride, narrow.padding),
            bias=narrow.bias is not None,
        )
