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


def as_older(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as nnU-Net described one before plans had an `architecture`."""
    network = configuration["architecture"]
    kwargs, name = network["arch_kwargs"], network["network_class_name"].rpartition(".")[2]
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    described = {
        "UNet_class_name": name,
        "UNet_base_num_features": kwargs["features_per_stage"][0],
        "unet_max_num_features": max(kwargs["features_per_stage"]),
        "n_conv_per_stage_encoder": kwargs[blocks],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [len(kwargs["strides"]) - 1] * len(kwargs["strides"][0]),
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }
    return {**{k: v for k, v in configuration.items() if k != "architecture"}, **described}
