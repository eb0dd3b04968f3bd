"""Count parameters and MACs of every skip module and encoder; write networks.json.

    python docs/evidence/comparison/costs.py

The U-Net is the one that nnU-Net plans for 128x128 slices of four classes: six stages of 32 to 512
channels. Nothing is trained or timed, and MACs are counted on shapes alone.
"""

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_iac.nn.cost import cell_costs, network_cost
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.skip_unet import SkipUNet
from nnunet_iac.nn.timm_unet import ENCODERS, TimmUNet, encoder_strides
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import identity_genotype, random_genotype
from nnunet_iac.training.provenance import circumstances

HERE = Path(__file__).parent
PATCH = (128, 128)
CHANNELS, CLASSES = 1, 4
RANDOM_CELLS = 100
OF_CELLS = {"random cell": fmean, "smallest random cell": min, "largest random cell": max}
"""Costs shown of the random cells, each by itself."""

LAYERS: dict[str, Any] = {
    "conv_op": nn.Conv2d,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm2d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
PLAIN: dict[str, Any] = {
    **LAYERS,
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 512, 512],
    "kernel_sizes": [[3, 3]] * 6,
    "strides": encoder_strides("resnet50"),
    "n_conv_per_stage": [2] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
}
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
PUBLISHED = {
    "vgg16": (138_357_544, 15.47, 224),
    "resnet50": (25_557_032, 4.09, 224),
    "mobilenetv3_large": (5_483_032, 0.22, 224),
    "efficientnetv2_s": (21_458_488, 8.37, 384),
    "efficientnetv2_m": (54_139_356, 24.58, 480),
}
"""Parameters, GMACs and side of the image that torchvision's documentation prints."""


def cost(network: nn.Module, side: int = PATCH[0], channels: int = CHANNELS) -> dict[str, int]:
    """Return parameters and MACs of one image."""
    return asdict(network_cost(network.to("meta"), channels, (side, side)))


def plain() -> nn.Module:
    """Return nnU-Net's network."""
    return PlainConvUNet(CHANNELS, num_classes=CLASSES, **PLAIN)


def retrofits() -> dict[str, dict[str, float]]:
    """Return what every retrofit adds to the plain network."""
    base = cost(plain())
    ways = {
        "attention gates": "attention",
        "nested skips": "nested",
        "residual attention": "residual-attention",
        "convolution": "convolution",
    }
    found = {}
    for name, implant in ways.items():
        own = cost(retrofit(plain(), implant=implant, residual="none"))
        found[name] = {key: float(own[key] - base[key]) for key in base}
    identity = identity_genotype()
    costs = cell_costs(retrofit(plain(), identity, residual="none"), CHANNELS, PATCH)
    cells = [asdict(costs.of(random_genotype(seed))) for seed in range(RANDOM_CELLS)]
    for name, of_all in OF_CELLS.items():
        found[name] = {key: float(of_all([cell[key] for cell in cells])) for key in base}
    found["identity cell"] = {key: float(x) for key, x in asdict(costs.of(identity)).items()}
    return found


def from_scratch() -> dict[str, dict[str, int]]:
    """Return the whole networks that are trained with a skip module from the start."""
    names = {
        "attention gates": "attention",
        "nested skips": "nested",
        "residual attention": "residual-attention",
    }
    return {
        name: cost(SkipUNet(CHANNELS, CLASSES, skip, UNET, **PLAIN)) for name, skip in names.items()
    }


def encoders() -> dict[str, dict[str, Any]]:
    """Return the U-Net of every encoder, and the published network beside the one it is made of."""
    from timm import create_model

    found = {}
    for name, encoder in ENCODERS.items():
        network = TimmUNet(CHANNELS, CLASSES, name, encoder_strides(name), **LAYERS)
        parameters, gmacs, side = PUBLISHED[name]
        whole = create_model(encoder.timm_name, pretrained=False)
        found[name] = {
            "unet": cost(network),
            "trunk_parameters": sum(p.numel() for p in network.encoder.trunk.parameters()),
            "whole": cost(whole, side, channels=3),
            "published": {"parameters": parameters, "gmacs": gmacs, "side": side},
        }
    return found


def main() -> None:
    """Write the file."""
    write_json(
        HERE / "networks.json",
        {
            **circumstances(),
            "patch": list(PATCH),
            "random_cells": RANDOM_CELLS,
            "plain": cost(plain()),
            "retrofits": retrofits(),
            "from_scratch": from_scratch(),
            "encoders": encoders(),
        },
    )


if __name__ == "__main__":
    main()
