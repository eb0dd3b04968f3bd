"""ImageNet weights for the trunk of a timm encoder, from a local file."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nnunet_iac.nn.timm_encoder import ENCODERS


def read_encoder_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file or, with any other suffix, of a torch file.

    Nothing in a file is executed, and nothing is downloaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that is not a state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the encoder's weights must be an existing file; {path} is none: save timm's "
            "weights there"
        )
    try:
        weights: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        struct.error,
    ) as error:
        raise ValueError(
            f"the encoder's weights must be a state dict of tensors; {path} cannot be read as "
            f"one ({error}): save timm's weights again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(
            f"the encoder's weights must be a state dict of tensors; {path} holds something else: "
            "save the state_dict() of timm's model"
        )
    return weights


def load_encoder_weights(unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the trunk of a network the weights of timm's whole model of the same name.

    The classifier is dropped. Weights of a first convolution of three channels are adapted to
    the trunk's input as timm does it (`timm.models.adapt_input_conv`): summed over the channels
    for one channel, otherwise repeated in the order of the channels and scaled by 3 / channels,
    so that equal channels give the same response as before.

    Args:
        unet: a network whose `encoder` is a `TimmEncoder`.
        weights: the state dict of the whole model.

    Raises:
        ValueError: weights of another architecture; the first key that is missing, of another
            shape, or unknown is named. The network is then unchanged.
    """
    from timm.models import adapt_input_conv  # Takes two seconds, so not before it is needed.

    encoder: Any = unet.encoder
    published = ENCODERS[encoder.name]
    own = encoder.trunk.state_dict()
    # timm flattens VGG's one container when it takes the trunk out of the model.
    found = {
        key.replace("features.", "features_", 1) if key.startswith("features.") else key: tensor
        for key, tensor in weights.items()
        if not key.startswith(published.head)
    }
    first = next(iter(own))
    if first in found and found[first].ndim == 4 and found[first].shape[1] == 3:
        found[first] = adapt_input_conv(own[first].shape[1], found[first])
    for key, tensor in own.items():
        if key not in found:
            if key.endswith("num_batches_tracked"):  # Older files lack these counters.
                continue
            raise _foreign(encoder.name, f"{key} is missing")
        if found[key].shape != tensor.shape:
            shapes = f"{list(found[key].shape)} instead of {list(tensor.shape)}"
            raise _foreign(encoder.name, f"{key} has the shape {shapes}")
    for key in found:
        if key not in own:
            raise _foreign(encoder.name, f"{key} is unknown")
    encoder.trunk.load_state_dict({**own, **found})


def _foreign(name: str, finding: str) -> ValueError:
    return ValueError(
        f"the weights must be those of timm's {ENCODERS[name].timm_name}, which the encoder "
        f"{name} is made of; {finding}: give the file of that model"
    )
