"""ImageNet weights for a U-Net with a timm encoder, as nnU-Net's -pretrained_weights takes them."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nnunet_iac.host.networks import network_of
from nnunet_iac.host.plans import read_dataset, read_plans
from nnunet_iac.nn.timm_unet import TimmEncoder, load_encoder_weights
from nnunet_iac.runs.atomic import replacing
from nnunet_iac.runs.checkpoint import read_checkpoint, tensors_hash

_UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError),
)
"""Errors that reading a damaged file raises."""

SEED = 0
"""Seed of the tensors that the file of weights lacks: stem and decoder."""


def write_pretrained(plans_file: Path, configuration: str, weights: Path) -> Path:
    """Write a checkpoint to start a training of plans from, beside them; return its file.

    It holds the whole network: the timm encoder's ImageNet weights from a local .safetensors or
    .pth file, the rest as nnU-Net draws it. A file with other content is not overwritten.
    """
    dataset = read_dataset(plans_file.parent / "dataset.json")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        network: Any = network_of(read_plans(plans_file), configuration, dataset)
    if not isinstance(network.encoder, TimmEncoder):
        raise ValueError(
            "encoder weights are for a timm encoder; the plans describe a "
            f"{type(network).__name__}: choose one with --encoder"
        )
    load_encoder_weights(network, read_encoder_weights(weights))
    state = network.state_dict()
    path = plans_file.with_name(f"{plans_file.stem}_pretrained.pth")
    if path.exists():
        if tensors_hash(read_checkpoint(path)["network_weights"]) == tensors_hash(state):
            return path
        raise ValueError(
            f"{path} exists with other content and is not overwritten; choose another identifier "
            "or remove the file"
        )
    whole = io.BytesIO()
    torch.save({"network_weights": state}, whole)
    with replacing(path) as temporary:
        temporary.write_bytes(whole.getbuffer())
    return path


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
    except _UNREADABLE as error:
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
