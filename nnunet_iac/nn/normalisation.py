"""Norms of sequences, fused with what follows them.

A sequence holds the voxels of an image one after another, the channels innermost: (samples,
voxels, features). Statistics are those of one sample: an image for instance norm; for batch norm
the caller makes the whole batch one sample. No norm here has scale, shift or running statistics.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Samples = Float[Tensor, "samples voxels features"]


def normalised(x: Samples, eps: float, rectify: bool = False) -> Samples:
    """Return (x - mean) / sqrt(variance + eps), and of that the positive part if `rectify`."""
    with torch.autocast(x.device.type, enabled=False):
        return _Normalised.apply(x, eps, rectify)


def normalised_sum(
    terms: Sequence[Tensor],
    weight: Float[Tensor, "features outputs"],
    total: Float[Tensor, "samples voxels outputs"],
    eps: float,
) -> Float[Tensor, "samples voxels outputs"]:
    """Return `total + normalised(cat(terms), eps) @ weight`; nothing normalised is ever held.

    Once its statistics are known the norm is linear, so it merges with the product that follows:
    x @ (w / deviation) - mean @ (w / deviation), with a weight of each sample's own. Backward, the
    gradient for x is one product and one scaled copy of x.

    Args:
        terms: (samples, voxels, some of the features) each.
        weight: is applied to the features of all terms, one term after the other.
        total: what the sum is added to.
        eps: is added to the variances.
    """
    with torch.autocast(total.device.type, enabled=False):
        return _NormalisedSum.apply(eps, weight, total, *terms)


def _mean(x: Samples) -> Float[Tensor, "samples 1 features"]:
    return x.mean(1, keepdim=True, dtype=_exact(x))


def _scale(centred: Samples, eps: float) -> Float[Tensor, "samples 1 features"]:
    """Return 1 / sqrt(variance + eps); uncentred values would cancel, squares in half overflow."""
    return _mean(centred.to(_exact(centred)).square()).add_(eps).rsqrt_()


def _exact(x: Tensor) -> torch.dtype:
    """Return the type for statistics: float32, or that of `x` if it has more digits."""
    return torch.promote_types(x.dtype, torch.float32)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, rectify: bool) -> Tensor:
        result = x - _mean(x).to(x.dtype)
        scale = _scale(result, eps)
        result.mul_(scale)
        ctx.save_for_backward(result, scale)
        ctx.rectify = rectify
        return result.relu() if rectify else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        result, scale = ctx.saved_tensors
        if ctx.rectify:
            grad = grad * (result > 0)
        offset, slope = _mean(grad), _mean(grad * result)
        # scale * (grad - offset - result * slope)
        gradient = torch.addcmul(-offset * scale, result, slope * scale, value=-1)
        return gradient.addcmul_(grad, scale).to(result.dtype), None, None


class _NormalisedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, weight: Tensor, total: Tensor, *terms: Tensor) -> Tensor:
        centred = torch.cat(terms, dim=2)
        centred.sub_(_mean(centred))
        scale = _scale(centred, eps)
        ctx.save_for_backward(centred, scale, weight)
        ctx.sizes = [term.shape[2] for term in terms]
        return torch.baddbmm(total, centred, (scale.mT * weight).to(total.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, scale, weight = ctx.saved_tensors
        grad = grad.contiguous()
        # Of each sample: normalised(x)^T grad.
        products = scale.mT * torch.bmm(centred.mT, grad)
        scaled = weight.mT * scale
        offset = _mean(grad) @ scaled
        slope = (products.mT * scaled).sum(1, keepdim=True) * scale / grad.shape[1]
        scaled = scaled.to(grad.dtype)
        parts = zip(*(t.split(ctx.sizes, 2) for t in (centred, offset, slope, scaled)), strict=True)
        gradients = [
            torch.addcmul(-offset, x, slope, value=-1).to(x.dtype).baddbmm_(grad, scaled)
            for x, offset, slope, scaled in parts
        ]
        return None, products.sum(0).to(weight.dtype), grad, *gradients
