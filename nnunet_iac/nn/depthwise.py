"""Depthwise convolutions with a backward pass of convolutions that a CPU has fast code for."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nnunet_iac.nn.cell import Image

FRAMED = 2**16
"""Numbers in a batch of images from which cutting it into phases and windows pays."""


def depthwise(x: Image, weight: Tensor, dilation: tuple[int, ...]) -> Image:
    """Return the depthwise convolution of an image whose channels lie innermost in memory."""
    if x.ndim == 4 and torch.is_grad_enabled():
        return _Depthwise.apply(x, x, weight, dilation, False)
    return _depthwise(x, weight, dilation)


def rectified_depthwise(
    x: Image, rectified: Image, weight: Tensor, dilation: tuple[int, ...]
) -> Image:
    """Return the depthwise convolution of relu(x), which is given, too, without a gradient."""
    if torch.is_grad_enabled():
        return _Depthwise.apply(x, rectified, weight, dilation, True)
    return _depthwise(rectified, weight, dilation)


def _depthwise(x: Image, weight: Tensor, dilation: tuple[int, ...]) -> Image:
    padding = [d * (side // 2) for d, side in zip(dilation, weight.shape[2:], strict=True)]
    convolution = functional.conv2d if x.ndim == 4 else functional.conv3d
    return convolution(x, weight, padding=padding, dilation=dilation, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of 2-D or 3-D images whose backward pass is fast for any kernel.

    oneDNN has fast code for the gradient of the weights of a kernel of three voxels without
    dilation. The image is cut into its dilation^2 phases, which are not dilated, and a wider
    kernel is covered by windows of three; both in 2-D only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        source: Tensor,
        weight: Tensor,
        dilation: tuple[int, ...],
        is_rectified: bool,
    ) -> Tensor:
        ctx.save_for_backward(source, weight)
        ctx.dilation = dilation
        ctx.is_rectified = is_rectified
        return _depthwise(source, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        source, weight = ctx.saved_tensors
        layout = torch.channels_last if grad.ndim == 4 else torch.channels_last_3d
        grad = grad.contiguous(memory_format=layout)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            axes = tuple(range(2, weight.ndim))
            of_x = _depthwise(grad, weight.flip(axes), ctx.dilation)
            if ctx.is_rectified:
                torch.ops.aten.threshold_backward(of_x, source, 0, grad_input=of_x)
        if ctx.needs_input_grad[2]:
            of_weight = _gradient_of_weight(source, grad, weight, ctx.dilation)
        return of_x, None, of_weight, None, None


def _gradient_of_weight(x: Image, grad: Image, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Return the sum over voxels of `grad` times the neighbours in `x`, of every channel."""
    sides = weight.shape[2:]
    is_quick = max(sides) <= 3 and max(dilation) == 1
    if x.ndim == 5 or is_quick or x.numel() < FRAMED:
        return of_window(x, grad, weight, dilation)
    return of_frames(x, grad, weight, dilation)


def of_frames(x: Image, grad: Image, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Return that gradient from windows of three voxels of the phases of both images."""
    sides = weight.shape[2:]
    margins = [side // 2 for side in sides]
    window = weight.new_empty(len(weight), 1, *(min(side, 3) for side in sides))
    result = torch.empty_like(weight)
    gradients, images = (_Frame(t, dilation, margins) for t in (grad, x))
    for offsets in product(*(range(1 - m, m, 2) if m else (0,) for m in margins)):
        found = of_window(images.moved(offsets), gradients.moved((0, 0)), window, (1, 1))
        rows, columns = [
            slice(m + offset - 1, m + offset + 2) if m else slice(1)
            for m, offset in zip(margins, offsets, strict=True)
        ]
        result[:, :, rows, columns] = found
    return result


def of_window(x: Image, grad: Image, weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Return that gradient from one call of torch."""
    padding = [d * (side // 2) for d, side in zip(dilation, weight.shape[2:], strict=True)]
    strides, none, mask = [1] * len(padding), [0] * len(padding), [False, True, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, strides, padding, dilation, False, none, len(weight), mask
    )[1]


class _Frame:
    """The phases of an image as images, with zeros around them, that can be moved for free."""

    def __init__(self, image: Image, dilation: Sequence[int], margins: Sequence[int]) -> None:
        image = image.movedim(1, -1)
        batch, *voxels, channels = image.shape
        sides = [-(-v // d) + 2 * m for v, d, m in zip(voxels, dilation, margins, strict=True)]
        self.steps = sides[1] * channels, channels
        self.slack = sum(step * margin for step, margin in zip(self.steps, margins, strict=True))
        self.shape = batch, *dilation, *sides, channels
        size = batch * dilation[0] * dilation[1] * sides[0] * sides[1] * channels
        self.memory = image.new_zeros(size + 2 * self.slack)
        self.size = size
        frame = self.memory[self.slack : self.slack + size].view(self.shape)
        for row, column in product(*map(range, dilation)):
            part = image[:, row :: dilation[0], column :: dilation[1]]
            down, across = (slice(m, m + v) for m, v in zip(margins, part.shape[1:3], strict=True))
            frame[:, row, column, down, across] = part

    def moved(self, offsets: Sequence[int]) -> Image:
        """Return a view whose voxels are those at `offsets` from them."""
        start = self.slack + sum(o * step for o, step in zip(offsets, self.steps, strict=True))
        view = self.memory[start : start + self.size].view(self.shape)
        return view.flatten(0, 2).movedim(-1, 1)
