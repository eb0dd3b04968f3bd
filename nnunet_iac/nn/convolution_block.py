"""A plain convolution in the skip connections: the control with as many parameters as a cell."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nnunet_iac.nn.cell import Image
from nnunet_iac.nn.layers import Layers

TOLERANCE = 0.01
"""The share by which a block's parameters may miss the wanted number for the sake of balance."""


class ConvolutionBlock(nn.Module):
    """The skip and the upsampled tensor through a 1x1, a 3x3 and a 1x1 convolution.

    The first two have h1 and h2 channels, no bias, and are followed by norm and ReLU; the last
    has C_skip channels and a bias, as the cell's output has.

    Args:
        skip_channels: channels of both inputs and of the output.
        widths: (h1, h2).
        layers: constructors with the host's dimension and norm.
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
    first, second = widths
    kernel = math.prod(layers.sides(3))
    return (
        first * (2 * skip_channels + 2)
        + kernel * first * second
        + second * (skip_channels + 2)
        + skip_channels
    )


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
    allowed = max(min(misses.values()), int(TOLERANCE * parameters))
    candidates = [widths for widths, miss in misses.items() if miss <= allowed]
    return min(candidates, key=lambda widths: (_imbalance(widths), misses[widths], widths))


def _imbalance(widths: tuple[int, int]) -> float:
    return max(widths) / min(widths)
