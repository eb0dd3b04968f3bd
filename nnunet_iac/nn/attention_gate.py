"""Attention gates in the skip connections (Attention U-Net)."""

import torch
from torch import nn
from torch.nn import functional

from nnunet_iac.nn.cell import Image
from nnunet_iac.nn.layers import Layers


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
