"""Builds retrofits: from a network and values, and from the plans of an exported model."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet, located_unet
from nnunet_iac.nn.skip_modules import SKIP_MODULES
from nnunet_iac.nn.skip_unet import NestedUNet, SkipModuleUNet
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.setting_parts import STRUCTURAL, CellConfig, checked_value, converted

IMPLANTS = ("cell", "convolution", *SKIP_MODULES)
_SEARCH_ONLY = ("edge_transform", "tan_clamp")
_OF_PART: dict[str, Any] = {
    "decoder_norms": Literal["frozen", "tuned"],
    "trained_backbone": Literal["none", "decoder", "all"],
}
"""Arguments of a network that the setting `trainable_part` decides."""
_VALUES = (
    *(key for key in STRUCTURAL if key not in ("implant", *_OF_PART)),
    *("activation_checkpointing", *_OF_PART),
)
"""The values that `retrofit` takes."""


def retrofit(
    unet: nn.Module, genotype: Genotype | None = None, *, implant: str = "cell", **cell: Any
) -> RetrofittedUNet:
    """Return a U-Net, frozen, with new trainable modules in its skip connections.

    With the defaults these are search cells (an `IACUNet`): `alpha` (14 edges, 7 operations) and
    `beta` (14 edges) are the architecture's parameters, `weights()` those of the cells. With a
    genotype they are its discrete cells. Their initial weights are torch's; runs of the trainers
    draw them as nnU-Net does (`draw_ticket`).

    Like the U-Net, the result maps (batch, channels, *spatial) to logits, or to a list of them
    with deep supervision. State-dict keys of the U-Net are kept; those of the new modules begin
    with `implants.`, `alpha`, `beta`, `active`, `genotype_codes` or `tuned_norms.`.

    Args:
        unet: a trained `PlainConvUNet` or `ResidualEncoderUNet` of dynamic_network_architectures,
            or a `TimmUNet`, 2-D or 3-D, of three or more stages. Its modules are taken over, not
            copied: they are frozen and stay in evaluation mode.
        genotype: of discrete cells; with `implant="convolution"` the cell whose number of
            parameters the convolutions get.
        implant: `cell`; or, for comparison, `convolution`, `attention` (Oktay et al. 2018),
            `nested` (Zhou et al. 2018) or `residual-attention` (Jin et al. 2020).
        cell: further values. `channel_ratio=0.25`, `min_channels=16`, `partial_channels=4` and
            `output_nodes=4` are the cells' sizes (`CellShape.of_level`). `norm="plans"`,
            `residual="zero"`, `decoder_norms="frozen"`, `activation_checkpointing=False` and
            `trained_backbone="none"` are as in `RetrofittedUNet`, `edge_transform="tanh"` and
            `tan_clamp=1.5` as in `IACUNet`.

    Raises:
        ValueError: an unknown implant or value, a value that is not allowed, a genotype for an
            implant that has none, a network the surgery does not know, or a norm that implants
            cannot have.
    """
    if implant not in IMPLANTS:
        raise ValueError(f"implant must be one of {', '.join(IMPLANTS)}; got {implant!r}")
    for key, value in cell.items():
        if key not in _VALUES:
            raise ValueError(
                f"a retrofit must be described by {', '.join(_VALUES)}; got {key!r}: leave it out"
            )
        if key in _OF_PART:
            converted(key, value, _OF_PART[key])
        else:
            checked_value(CellConfig, key, value)
    if genotype is not None and implant not in ("cell", "convolution"):
        raise ValueError(
            f"a genotype belongs to a cell or a convolution; implant is {implant!r}: leave the "
            "genotype out"
        )
    if implant == "cell":
        network = IACUNet(unet, **cell)
        if genotype is not None:
            network.discretise(genotype)
        return network
    common = {key: value for key, value in cell.items() if key not in _SEARCH_ONLY}
    if implant == "nested":
        return NestedUNet(unet, **common)
    other = SkipModuleUNet(unet, implant, **common)
    if genotype is not None:
        other.match(genotype)
    return other


def planned_retrofit(
    input_channels: int,
    num_classes: int,
    unet: str,
    settings: Mapping[str, Any],
    **arch_kwargs: Any,
) -> RetrofittedUNet:
    """Return the retrofit that the plans of an exported model describe.

    nnU-Net calls it as the plans' `network_class_name`. The genotype is in the weights. `unet` is
    the dotted name of a class that takes `arch_kwargs`, and `settings` has values of `retrofit` by
    their names, and either `skip`, the implant, or `genotype`, which is `conv` for a convolution.
    """
    cell = dict(settings)
    implant = cell.pop("skip", "cell")
    if (genotype := cell.pop("genotype", None)) is not None:
        if genotype != "conv" or implant != "cell":
            raise ValueError(
                "genotype in exported plans must be conv, without skip; got "
                f"genotype={genotype!r}, skip={implant!r}: export the model again"
            )
        implant = "convolution"
    network = located_unet(unet)(
        input_channels=input_channels, num_classes=num_classes, **arch_kwargs
    )
    return retrofit(network, implant=implant, **cell)
