"""nnU-Net's checkpoint files, checked for damage and read without running code from them."""

import hashlib
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_iac.runs.atomic import replacing

BEST = "checkpoint_best.pth"
FINAL = "checkpoint_final.pth"
LATEST = "checkpoint_latest.pth"
PREVIOUS = "checkpoint_previous.pth"
"""The latest checkpoint but one, kept in case the latest is damaged later."""

MIRRORING = "inference_allowed_mirroring_axes"
"""Key of the axes along which nnU-Net mirrors when it predicts; None for none."""

WRAPPER = "module."
"""Beginning of the names of weights saved with torch's wrapper for several devices."""

_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_PLAIN_CLASSES: list[Any] = [
    *(np.ndarray, np.dtype),
    *dict.fromkeys(type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"),
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for function in (_RECONSTRUCT, _SCALAR)
        for module in ("numpy.core", "numpy._core")
    ),
]
"""Classes in nnU-Net's log and in our state, besides those that torch allows anyway.

Not numpy's types of objects and of records: an array of objects is made from raw addresses.
"""

_CLASS = re.compile(r"(?:GLOBAL |<class ')([\w.]+)")
"""The class that torch's reader refuses, in the text of its errors."""

_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(OSError, RuntimeError, ValueError, LookupError),
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint, its tensors on the CPU.

    Every record's checksum is compared first, which torch does not do. Only tensors, numpy arrays
    and plain values are read: a file that names any other class is refused, not executed. Names of
    weights are without torch's prefix of a network in its wrapper, as nnU-Net reads them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged or foreign file; the message names it and what to do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"a checkpoint must be an existing file; {path} is none")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        checkpoint = _loaded(path)
    except pickle.UnpicklingError as error:
        named = _CLASS.search(str(error))
        what = "something else" if named is None else named.group(1)
        raise ValueError(
            f"a checkpoint must hold tensors and plain values only; {path} holds {what}: use a "
            "checkpoint that nnU-Net wrote"
        ) from error
    except _DAMAGES as error:
        raise ValueError(
            f"{path} must be an nnU-Net checkpoint and is damaged or something else "
            f"({type(error).__name__}: {error}); restore it from a copy"
        ) from error
    weights = checkpoint.get("network_weights") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(
            f"{path} must be an nnU-Net checkpoint; it has no network_weights: name another file"
        )
    if any(str(key).startswith(WRAPPER) for key in weights):
        bare = {str(key).removeprefix(WRAPPER): tensor for key, tensor in weights.items()}
        checkpoint["network_weights"] = bare
    return checkpoint


def mirroring_of(path: Path) -> tuple[int, ...] | None:
    """Return the axes along which nnU-Net mirrors to predict with a checkpoint; None if unknown.

    Without mirroring there are none. Of a file only what is no tensor is read.
    """
    try:
        axes = _loaded(path, mmap=True).get(MIRRORING, ())
        return tuple(int(axis) for axis in axes or ())
    except (*_DAMAGES, pickle.UnpicklingError, AttributeError, TypeError):
        return None


def _loaded(path: Path, mmap: bool = False) -> Any:
    with torch.serialization.safe_globals(_PLAIN_CLASSES):
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep_previous(latest: Path) -> None:
    """Keep the latest checkpoint as the previous one, until the next is written."""
    if latest.is_file():
        with replacing(latest.with_name(PREVIOUS)) as spare:
            share(latest, spare)


def share(source: Path, target: Path) -> None:
    """Link a file to another name, replacing what is there; copy it where links are not known."""
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # Not every file system has links.
        shutil.copyfile(source, target)
