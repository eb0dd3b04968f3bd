"""Small U-Nets as nnU-Net's plans describe them."""

from collections.abc import Sequence
from typing import Any

REQUIRES_IMPORT = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def operators(dimension: int) -> dict[str, Any]:
    """Return the layers that nnU-Net's planner chooses."""
    return {
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def arch_kwargs(
    dimension: int, features: Sequence[int], convolutions: int, network: str = "PlainConvUNet"
) -> dict[str, Any]:
    """Return the arguments of a network with so many convolutions, or blocks, in every stage."""
    stages = len(features)
    blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "n_stages": stages,
        "features_per_stage": list(features),
        "kernel_sizes": [[3] * dimension] * stages,
        "strides": [[1] * dimension, *[[2] * dimension] * (stages - 1)],
        blocks: [convolutions] * stages,
        "n_conv_per_stage_decoder": [convolutions] * (stages - 1),
        **operators(dimension),
    }


def architecture(
    dimension: int, features: Sequence[int], convolutions: int, network: str = "PlainConvUNet"
) -> dict[str, Any]:
    """Return the section `architecture` of such a network's plans."""
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": arch_kwargs(dimension, features, convolutions, network),
        "_kw_requires_import": [*REQUIRES_IMPORT],
    }
