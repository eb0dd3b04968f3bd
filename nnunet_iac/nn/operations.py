"""The candidate operations of an edge: (batch, channels, *spatial) in, the same shape out."""

from torch import nn

from nnunet_iac.nn.layers import Layers


def build_operation(
    name: str, channels: int, layers: Layers, affine: bool, pool_norm: bool
) -> nn.Module:
    """Return the candidate operation called `name` (paper; DARTS, Liu et al. 2019).

    Args:
        name: one of `OPERATIONS`.
        channels: channels of input and output.
        layers: the constructors for the host's dimension and norm.
        affine: whether norms learn scale and shift: off while searching, on in the final cell.
        pool_norm: whether a norm follows pooling: on while searching, off in the final cell.
    """
    if name == "identity":
        return nn.Identity()
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        pool = layers.max_pool() if name == "max_pool_3x3" else layers.avg_pool()
        return nn.Sequential(pool, layers.norm(channels, affine=False)) if pool_norm else pool
    family, kernel = name[:8], int(name[-1])
    if family == "sep_conv":
        rounds = (separable_conv(channels, kernel, 1, layers, affine) for _ in range(2))
        return nn.Sequential(*rounds)
    return separable_conv(channels, kernel, 2, layers, affine)


def separable_conv(
    channels: int, kernel: int, dilation: int, layers: Layers, affine: bool
) -> nn.Sequential:
    """Return one round of ReLU, depthwise convolution, pointwise convolution and norm."""
    return nn.Sequential(
        nn.ReLU(),
        layers.conv(channels, channels, kernel, dilation=dilation, groups=channels, bias=False),
        layers.conv(channels, channels, bias=False),
        layers.norm(channels, affine),
    )
