"""Nested dense skip connections (U-Net++)."""

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn


class NestedSkips(nn.Module):
    """The dense nodes between encoder and decoder, X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, up]).

    U-Net++ (Zhou et al. 2018, arXiv 1807.10165, eq. 1): i counts resolutions from the highest, j
    nodes along a level, X^{i,0} is the encoder's tensor and `up` the transposed convolution of
    X^{i+1,j-1}. H is nnU-Net's stack of 3x3 convolutions, two as in the paper, with the encoder's
    own kernel sizes, norm, dropout, bias and nonlinearity. Level i has nodes up to
    J_i = stages - 2 - i; the decoder's stages are the nodes that follow.

    A frozen decoder has room for one tensor per level: the last node, which has C_i channels.
    `widen_for_nested_skips` makes room for all of them.

    Args:
        encoder: an encoder of dynamic_network_architectures; it is read, not kept.
        n_conv_per_stage: convolutions per node.
        norm: another norm than the encoder's, and its keywords.
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
                self.ups[_name(level, node)] = transposed(
                    below, channels, stride, stride, bias=encoder.conv_bias
                )
                self.nodes[_name(level, node)] = StackedConvBlocks(
                    n_conv_per_stage,
                    encoder.conv_op,
                    (node + 1) * channels,
                    channels,
                    encoder.kernel_sizes[level],
                    1,
                    encoder.conv_bias,
                    norm_op,
                    norm_kwargs,
                    encoder.dropout_op,
                    encoder.dropout_op_kwargs,
                    encoder.nonlin,
                    encoder.nonlin_kwargs,
                )

    def forward(self, skips: list[Tensor]) -> list[list[Tensor]]:
        """Return the nodes of every level, X^{i,0} first.

        Args:
            skips: the encoder's tensors, the highest resolution first, the bottleneck last.
        """
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
    for level, stage in enumerate(decoder.stages):
        block = stage.convs[0]
        narrow = block.conv
        if level == 0:
            continue
        block.input_channels = narrow.in_channels // 2 * (level + 2)
        block.conv = block.all_modules[0] = type(narrow)(
            block.input_channels,
            narrow.out_channels,
            narrow.kernel_size,
            narrow.stride,
            narrow.padding,
            bias=narrow.bias is not None,
        )
