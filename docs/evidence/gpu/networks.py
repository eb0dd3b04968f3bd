"""The networks that are measured on a GPU: of real sizes, or tiny ones for a dry run."""

from collections.abc import Sequence
from typing import Any

from visit import Visit

from nnunet_iac.host.workload import Workload

BLOCKS = (1, 3, 4, 6, 6, 6)
"""Residual blocks per stage, as nnU-Net plans them."""


def networks(visit: Visit) -> dict[str, Workload]:
    """Return a plain and a residual 2-D network and a plain 3-D one, as nnU-Net plans them."""
    if visit.quick:
        features, flat, deep = (8, 8, 8), (2, (16, 8)), (2, (16, 8, 8))
        volumetric = features
    else:
        features, flat = (32, 64, 128, 256, 512, 512), (63, (128, 128))
        volumetric, deep = (32, 64, 128, 256, 320, 320), (2, (128, 128, 128))
    keys = ("batch_size", "patch_size")
    plane = {**dict(zip(keys, flat, strict=True)), "features": features, "device": visit.device}
    volume = {**dict(zip(keys, deep, strict=True)), "features": volumetric, "device": visit.device}
    return {
        "plain 2-D": Workload(**plane),
        "residual 2-D": Workload(**plane, architecture=residual_architecture(features)),
        "plain 3-D": Workload(**volume),
    }


def residual_architecture(features: Sequence[int]) -> dict[str, Any]:
    """Return the `architecture` of plans for a 2-D residual-encoder U-Net."""
    stages = len(features)
    arch_kwargs = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1], *[[2, 2]] * (stages - 1)],
        "n_blocks_per_stage": list(BLOCKS[:stages]),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        "ResidualEncoderUNet",
        "arch_kwargs": arch_kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
