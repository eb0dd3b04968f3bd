"""The skip modules that a searched cell is compared with: attention gates, residual attention."""

import torch
from torch import nn
from torch.nn import functional

from nnunet_iac.nn.cell import Image
from nnunet_iac.nn.layers import Layers

SKIP_MODULES = ("attention", "nested", "residual-attention")
"""All names; nested skips span the levels, the others are one module (skip, up) -> skip each."""
MIN_WIDTH = 4
"""The fewest channels inside a residual unit."""


def build_skip_module(name: str, skip_channels: int, layers: Layers) -> nn.Module:
    """Return the module of one level, for any name but `nested`."""
    if name == "attention":
        return AttentionGate(skip_channels, layers)
    assert name == "residual-attention", f"{name} is no module of one level"
    return ResidualAttention(skip_channels, layers)


def require_skip_module(name: str) -> None:
    """Check that a name is known.

    Raises:
        ValueError: it is not one of `SKIP_MODULES`.
    """
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

    Args:
        skip_channels: channels of both inputs.
        layers: its norm is not used.
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

    Args:
        skip_channels: channels of both inputs.
        layers: constructors with the host's dimension and norm.
        steps: how often the mask pools, at least once.
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
    return Residual(
        nn.Sequential(
            *preactivated(channels, width, 1, layers),
            *preactivated(width, width, 3, layers),
            *preactivated(width, channels, 1, layers),
        )
    )


def preactivated(inputs: int, outputs: int, kernel: int, layers: Layers) -> list[nn.Module]:
    """Return norm, ReLU and convolution without bias."""
    return [
        layers.norm(inputs, affine=True),
        nn.ReLU(),
        layers.conv(inputs, outputs, kernel, bias=False),
    ]
