"""Other networks for plans: skip modules, timm encoders, and the paper's protocol."""

import math
from collections.abc import Mapping
from copy import deepcopy
from statistics import mode
from typing import Any

from nnunet_iac.host.plans import architecture_of
from nnunet_iac.nn.retrofitted_unet import SUPPORTED
from nnunet_iac.nn.skip_modules import require_skip_module
from nnunet_iac.nn.timm_unet import (
    ENCODERS,
    STAGES,
    TimmUNet,
    encoder_strides,
    known_encoder,
    padded_patch_size,
    require_2d,
)

PLAIN = "plain"
"""The encoder of nnU-Net's own PlainConvUNet, which plans have from the start."""

ENCODER_NAMES = (PLAIN, *ENCODERS)
SKIP_UNET = "nnunet_iac.nn.skip_unet.SkipUNet"

REQUIRES_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Keys of arch_kwargs whose values nnU-Net replaces by the classes they name."""
_AS_PLANNED = (*REQUIRES_IMPORT, *(f"{op}_kwargs" for op in REQUIRES_IMPORT[1:]), "conv_bias")

PAPER_PROTOCOL = "paper"
PAPER_PATCH_SIZE = (128, 128)
PAPER_BATCH_SIZE = 128
PAPER_SETTINGS: Mapping[str, Any] = {
    "deep_supervision": False,
    "backbone_trainer": "nnUNetTrainerAdamNoDeepSupervision_200epochs",
}
"""The paper's protocol: 128x128, batch 128, deep supervision off, Adam 1e-3 for 200 epochs."""


def with_encoder(configuration: Mapping[str, Any], encoder: str) -> dict[str, Any]:
    """Return the `architecture` and `patch_size` of plans for another encoder.

    The skip module, if there is one, stays. Every side of the patch is rounded up to a multiple of
    what the encoder reduces it by.
    """
    if encoder not in ENCODER_NAMES:
        raise ValueError(f"the encoder must be one of {', '.join(ENCODER_NAMES)}; got {encoder!r}")
    base, skip = _taken_apart(architecture_of(configuration))
    patch = list(configuration["patch_size"])
    if encoder == PLAIN:
        if base["network_class_name"].rpartition(".")[2] != "PlainConvUNet":
            raise ValueError(
                "--encoder plain means nnU-Net's own PlainConvUNet of the source plans; they "
                f"describe a {base['network_class_name']}: start from nnUNetPlans"
            )
        return {"architecture": _put_together(base, skip), "patch_size": patch}
    if "features_per_stage" not in base["arch_kwargs"]:
        raise ValueError(
            f"--encoder starts from plans of nnU-Net's own planners; the source plans describe a "
            f"{base['network_class_name']}: start from nnUNetPlans"
        )
    if len(patch) != 2:
        raise ValueError(
            f"the encoder {encoder} is two-dimensional; the configuration has patches of "
            f"{'x'.join(map(str, patch))}: use 2d, or nnU-Net's residual encoders"
        )
    network = _put_together(timm_architecture(encoder, base["arch_kwargs"]), skip)
    return {"architecture": network, "patch_size": padded_patch_size(encoder, patch)}


def with_skip(configuration: Mapping[str, Any], skip: str) -> dict[str, Any]:
    """Return the `architecture` of plans with another module in every skip connection."""
    require_skip_module(skip)
    base, _ = _taken_apart(architecture_of(configuration))
    known = [network.__name__ for network in SUPPORTED]
    if base["network_class_name"].rpartition(".")[2] not in known:
        raise ValueError(
            f"a skip module needs one of {', '.join(known)} around it; the plans describe a "
            f"{base['network_class_name']}: use plans of one of nnU-Net's planners"
        )
    return {"architecture": _put_together(base, skip)}


def with_protocol(configuration: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Return patch and batch size of a protocol; `PAPER_SETTINGS` are its settings."""
    if protocol != PAPER_PROTOCOL:
        raise ValueError(f"the protocol must be {PAPER_PROTOCOL}; got {protocol!r}")
    strides = architecture_of(configuration)["arch_kwargs"]["strides"]
    reduced = [math.prod(stage[axis] for stage in strides) for axis in range(len(strides[0]))]
    if (
        len(reduced) != len(PAPER_PATCH_SIZE)
        or any(side % by for side, by in zip(PAPER_PATCH_SIZE, reduced, strict=True))
        or tuple(reduced) == PAPER_PATCH_SIZE
    ):
        raise ValueError(
            "the paper's protocol has patches of 128x128, which the network must be able to "
            "halve and must leave more than one pixel of; the plans' strides reduce by "
            f"{'x'.join(map(str, reduced))}: use a 2d configuration, or --encoder"
        )
    return {"patch_size": list(PAPER_PATCH_SIZE), "batch_size": PAPER_BATCH_SIZE}


def timm_architecture(encoder: str, base_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `architecture` section of plans for a `TimmUNet`.

    `base_kwargs` are the arch_kwargs of nnU-Net's own 2-D plans. Norm, nonlinearity, dropout and
    bias are theirs; the stem is as wide as their first stage, and every stage of the decoder has
    the number of convolutions most of theirs have.
    """
    published = known_encoder(encoder)
    require_2d(encoder, base_kwargs["conv_op"])
    stem = {"stem_channels": base_kwargs["features_per_stage"][0]} if published.has_stem else {}
    planned = base_kwargs["n_conv_per_stage_decoder"]
    convolutions = planned if isinstance(planned, int) else mode(planned)
    return {
        "network_class_name": f"{TimmUNet.__module__}.{TimmUNet.__qualname__}",
        "arch_kwargs": {
            "encoder": encoder,
            "strides": encoder_strides(encoder),
            **stem,
            "n_conv_per_stage_decoder": [convolutions] * (STAGES - 1),
            **{key: deepcopy(base_kwargs[key]) for key in _AS_PLANNED},
        },
        "_kw_requires_import": list(REQUIRES_IMPORT),
    }


def _taken_apart(architecture: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the U-Net that an architecture is made of, and its skip module if it has one."""
    if architecture["network_class_name"] != SKIP_UNET:
        return dict(architecture), None
    kwargs = dict(architecture["arch_kwargs"])
    skip, unet = kwargs.pop("skip"), kwargs.pop("unet")
    return {**architecture, "network_class_name": unet, "arch_kwargs": kwargs}, skip


def _put_together(base: Mapping[str, Any], skip: str | None) -> dict[str, Any]:
    if skip is None:
        return dict(base)
    kwargs = {"skip": skip, "unet": base["network_class_name"], **base["arch_kwargs"]}
    return {**base, "network_class_name": SKIP_UNET, "arch_kwargs": kwargs}
