"""Folds a network for inference: fewer layers, the same function up to the rounding of floats."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nnunet_iac.nn.cell import Cell, Image, ReZero
from nnunet_iac.nn.skip_modules import ConvolutionBlock
from nnunet_iac.nn.tuned_norms import TunedNorm


class Added(nn.Module):
    """skip + module(skip, up): a gated module after its gate was multiplied into its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, skip: Image, up: Image) -> Image:
        """Return the sum."""
        return skip + self.module(skip, up)


@torch.no_grad()
def fold_for_inference(network: nn.Module) -> nn.Module:
    """Return a copy for inference in which consecutive linear operations are one.

    - A gate is multiplied into the last convolution of its cell or convolution block.
    - The tuned scale and shift of a norm become part of its own.
    - A batch norm behind a convolution becomes part of it; instance norms depend on the image.
      A batch norm with a hook, or behind a transposed convolution, stays.
    """
    result = copy.deepcopy(network).eval()
    _fold_tuned_norms(result)
    for parent in result.modules():
        for name, child in parent.named_children():
            if isinstance(child, ReZero) and (last := _last_convolution(child.cell)) is not None:
                last.weight.mul_(child.gate)
                last.bias.mul_(child.gate)
                setattr(parent, name, Added(child.cell))
    for module in list(result.modules()):
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    return result


def _last_convolution(module: nn.Module) -> Any:
    if isinstance(module, Cell):
        return module.output
    if isinstance(module, ConvolutionBlock):
        return module.convolutions[-1]
    return None


def _fold_tuned_norms(network: nn.Module) -> None:
    for module in network.modules():
        for key, hook in list(module._forward_hooks.items()):
            norm: Any = module
            if isinstance(hook, TunedNorm) and norm.affine:
                norm.weight.copy_(norm.weight * hook.scale)
                norm.bias.copy_(norm.bias * hook.scale + hook.shift)
                del module._forward_hooks[key]


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        first: Any = layers[index]
        second: Any = layers[index + 1]
        convolution = isinstance(first, _ConvNd) and not first.transposed
        known = isinstance(second, _BatchNorm) and second.track_running_stats
        if convolution and known and not (first._forward_hooks or second._forward_hooks):
            layers[index] = fuse_conv_bn_eval(first, second)
            layers[index + 1] = nn.Identity()
