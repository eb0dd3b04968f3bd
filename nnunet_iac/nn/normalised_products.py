"""Norms, and sums of matrix products with their norms, forward and backward in few passes.

The parts of `nn.discrete_cell` that are differentiated by hand. Images are samples of voxels:
(samples, voxels, channels).
"""

from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

CANCELLED = 1e-3
"""Share of its terms below which a variance from a covariance matrix has lost too many digits."""


class Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, in place of x; and mean and variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        """Return the result, and what else it is made of."""
        mean = x.mean(1, keepdim=True)
        x.sub_(mean)
        variance = x.square().mean(1, keepdim=True)
        scale = (variance + eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, x, scale * weight), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the operands."""
        x, weight, scale = ctx.saved_tensors
        offset, slope = grad.mean(1, keepdim=True), (grad * x).mean(1, keepdim=True) * scale
        factor = scale * weight
        voxels = grad.shape[1]
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.addcmul(-offset * factor, x, slope * scale * factor, value=-1)
            gradient.addcmul_(grad, factor)
        sums = (slope.sum((0, 1)) * voxels, offset.sum((0, 1)) * voxels)
        return gradient, *sums, None


class NormalisedProducts(torch.autograd.Function):
    """`total` plus the norms of matrix products, and mean and variance of every product.

    Of every term come x (samples, voxels, inputs), which is centred in place, the matrix w
    (outputs, inputs) and scale and shift of the norm.
    """

    @staticmethod
    def forward(ctx: Any, eps: float, total: Tensor | None, *operands: Tensor) -> Any:
        """Return the result, and what else it is made of."""
        result, saved, statistics = total, [], []
        ctx.exact = []
        shift = reduce(add, operands[3::4])
        for x, w, gamma in zip(operands[::4], operands[1::4], operands[2::4], strict=True):
            mean = x.mean(1, keepdim=True)
            x.sub_(mean)
            covariance = torch.bmm(x.mT, x).div_(x.shape[1])
            spread = torch.matmul(w, covariance)
            variance = (spread * w).sum(2)
            terms = (torch.matmul(w.abs(), covariance.abs()) * w.abs()).sum(2)
            cancelled = variance < CANCELLED * terms  # Channels that are nearly equal.
            ctx.exact.append(not isinstance(cancelled, FakeTensor) and bool(cancelled.any()))
            if ctx.exact[-1]:
                product = torch.matmul(x, w.mT)
                spread = torch.bmm(product.mT, x).div_(x.shape[1])
                variance = product.square_().mean(1)
            scale = (variance + eps).rsqrt_()
            folded = w * (gamma * scale).unsqueeze(2)
            if result is None:
                result = torch.baddbmm(shift, x, folded.mT)
            elif result is total:
                result = torch.baddbmm(total, x, folded.mT).add_(shift)
            else:
                result.baddbmm_(x, folded.mT)
            saved += [x, w, gamma, scale, spread]
            statistics += [mean @ w.mT, variance]
        ctx.save_for_backward(*saved)
        ctx.mark_non_differentiable(*statistics)
        return result, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the operands."""
        grad = grad.contiguous()
        voxels = grad.shape[1]
        offset = grad.mean(1, keepdim=True)
        shift = offset.sum((0, 1)) * voxels
        gradients: list[Tensor | None] = []
        saved = ctx.saved_tensors
        parts = zip(*(saved[i::5] for i in range(5)), ctx.exact, strict=True)
        for x, w, gamma, scale, spread, exact in parts:
            factor = (gamma * scale).unsqueeze(2)
            products = torch.bmm(grad.mT, x)  # (samples, outputs, inputs)
            of_scale = (grad * torch.matmul(x, w.mT)).sum(1) if exact else (products * w).sum(2)
            slope = of_scale * scale
            of_variance = (slope * scale * factor.squeeze(2)).mul_(-0.5).unsqueeze(2)
            of_w = (products.mul_(factor) + spread.mul(of_variance).mul_(2)).sum(0)
            folded = w * factor
            curvature = torch.matmul(w.mT, w * of_variance).mul_(2 / voxels)
            gradient = torch.baddbmm(-torch.bmm(offset, folded), x, curvature)
            gradients += [gradient.baddbmm_(grad, folded), of_w, slope.sum(0), shift]
        return None, grad if ctx.needs_input_grad[1] else None, *gradients


class Joined(torch.autograd.Function):
    """`total` plus the output convolution of nodes (batch, voxels, channels), channels second."""

    @staticmethod
    def forward(
        ctx: Any, total: Tensor | None, bias: Tensor, weight: Tensor, *nodes: Tensor
    ) -> Tensor:
        """Return the result, and what else it is made of."""
        parts = weight.chunk(len(nodes), 1)
        ctx.save_for_backward(weight, *nodes)
        result: Tensor = bias.unsqueeze(1)
        for index, (part, x) in enumerate(zip(parts, nodes, strict=True)):
            of_batch = part.expand(len(x), -1, -1)
            if index:
                result.baddbmm_(of_batch, x.mT)
            elif total is None:
                result = torch.baddbmm(result, of_batch, x.mT)
            else:
                result = torch.baddbmm(total, of_batch, x.mT).add_(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the operands."""
        weight, *nodes = ctx.saved_tensors
        parts = weight.chunk(len(nodes), 1)
        of_weight = torch.cat([torch.bmm(grad, x).sum(0) for x in nodes], 1)
        of_nodes = [torch.bmm(grad.mT, part.expand(len(grad), -1, -1)) for part in parts]
        total = grad if ctx.needs_input_grad[0] else None
        return total, grad.sum((0, 2)), of_weight, *of_nodes
