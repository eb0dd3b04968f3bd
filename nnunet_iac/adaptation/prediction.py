"""Prediction by stock nnU-Net with the backbone of a model, and with each of several adapters."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

from nnunet_iac.adaptation.adapter import Adapter, adapter_file, apply
from nnunet_iac.host.export import Model

NONE = "none"
"""The name of the backbone without an adapter."""


def predict(
    model: Path,
    names: Sequence[str],
    images: Path,
    output: Path,
    folds: Sequence[str],
    options: Sequence[str],
) -> list[Path]:
    """Predict with every adapter; return the folders of the predictions.

    nnU-Net's own command does it, so the predictions of `none` are the stock model's, bit for bit.

    Args:
        model: folder of the backbone's model.
        names: adapters, as paths or as names of files in the model's `adapters`; `none` is the
            backbone alone.
        images: folder of images, named as nnU-Net wants them.
        output: folder for the predictions; with more than one adapter each gets one inside.
        folds: of the backbone alone; empty for all that are trained.
        options: more of nnUNetv2_predict_from_modelfolder.

    Raises:
        ValueError: an adapter of another backbone, a damaged one, or two of one name.
    """
    files = {_title(name): None if name == NONE else adapter_file(name, model) for name in names}
    if len(files) < len(names):
        raise ValueError(
            f"adapters must have different names; got {', '.join(names)}: rename the files"
        )
    {name: file and Adapter.read(file) for name, file in files.items()}
    with TemporaryDirectory() as spare:
        models = {
            name: apply(model, Adapter.read(file), Path(spare) / name) if file else Model.at(model)
            for name, file in files.items()
        }
        folders = {n: output / n if len(names) > 1 else output for n in models}
        for name, found in models.items():
            trained = [fold.name.removeprefix("fold_") for fold in found.folds]
            own = folds if name == NONE and folds else trained
            where = "-m", found.folder, "-f", *own, "-i", images, "-o", folders[name]
            command = ["nnUNetv2_predict_from_modelfolder", *map(str, where), *options]
            with patch.object(sys, "argv", command):
                predict_entry_point_modelfolder()
    return list(folders.values())


def _title(name: str) -> str:
    return Path(name).stem if name.endswith(".safetensors") else name
