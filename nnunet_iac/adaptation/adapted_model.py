"""Adapters on the model they were made for: found by name, listed, and applied."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nnunet_iac.adaptation.adapter import (
    ADAPTER_SUFFIX,
    Adapter,
    plans_digest,
    require_free_name,
)
from nnunet_iac.host.export import (
    Model,
    model_configuration,
    new_folder,
    stock_checkpoint,
    stock_plans,
)
from nnunet_iac.host.plans import INPUT_KEYS, INTENSITIES, read_dataset, read_plans
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import BEST, FINAL, read_checkpoint, tensors_hash
from nnunet_iac.runs.fold import fold_folders

ADAPTERS_FOLDER = "adapters"
"""Inside the folder of the backbone's model: where an adapter is looked for by its name."""


def adapters_of(model: Path) -> list[Path]:
    """Return the adapters that lie in a model's folder."""
    folder = model / ADAPTERS_FOLDER
    files = folder.iterdir() if folder.is_dir() else ()  # A folder that is closed is an error.
    return sorted(p for p in files if p.suffix == ADAPTER_SUFFIX and not p.name.startswith("."))


def adapter_file(name: str, model: Path) -> Path:
    """Return the file of an adapter: a path, or the name of one in the model's folder."""
    path = Path(name)
    require_free_name(path)
    if path.suffix == ADAPTER_SUFFIX:
        return path
    if path.name != name or name == "..":
        raise ValueError(
            f"an adapter must be a file that ends with {ADAPTER_SUFFIX}, or a plain name in "
            f"{ADAPTERS_FOLDER}; got {name!r}: correct it"
        )
    return model / ADAPTERS_FOLDER / f"{name}{ADAPTER_SUFFIX}"


def listing(model: Path, files: Sequence[Path]) -> list[str]:
    """Return a line on every adapter: what it is, whether it fits a model, and `auto` knows it.

    Args:
        model: folder of the model.
        files: of the adapters.

    Raises:
        FileNotFoundError: no model there.
    """
    digest, hashes = digest_of(model), {h: p for p, h in _backbones(model)}
    lines = []
    for path in files:
        try:
            adapter = Adapter.read(path)
        except (ValueError, FileNotFoundError) as error:
            lines.append(f"{path.stem}: {error}")
            continue
        fits = "does not fit: another backbone"
        if adapter.backbone in hashes:
            fits = f"fits {hashes[adapter.backbone].parent.name}"
        if adapter.plans != digest:
            fits = "does not fit: other plans"
        origin, size = adapter.provenance, adapter.size / 1e6
        unfit = fits.startswith("does not") or adapter.spread is not None
        chosen = "" if unfit else ", never chosen by auto: no statistics"
        what = f"{origin['dataset']}, {origin['trainer']}, {size:.2f} MB"
        lines.append(f"{path.stem}: {what}, {fits}{chosen}")
    return lines or [f"no adapters in {model / ADAPTERS_FOLDER}"]


def backbones_of(model: Path) -> set[str]:
    """Return the SHA-256 of every backbone that an adapter of a model can have."""
    return {found for _, found in _backbones(model)}


def backbone_of(model: Path, adapter: Adapter) -> Path:
    """Return the checkpoint of a model that an adapter was trained on.

    Raises:
        ValueError: no fold of the model is that backbone.
    """
    hashes = {}
    for path, found in _backbones(model):
        if found == adapter.backbone:
            return path
        hashes[path] = found
    listed = "".join(f"\n  {found[:12]} {path}" for path, found in hashes.items())
    origin = adapter.provenance
    raise ValueError(
        f"an adapter must be put on the backbone it was trained on; {adapter.backbone[:12]} is "
        f"that of the adapter for {origin['dataset']}, and the model has{listed or ' none'}: name "
        "the model it was adapted from"
    )


def _backbones(model: Path) -> Iterator[tuple[Path, str]]:
    """Yield every checkpoint of a model with the hash of its weights."""
    for fold in fold_folders(model):
        for path in (fold / BEST, fold / FINAL):
            if path.is_file():
                yield path, tensors_hash(read_checkpoint(path)["network_weights"])


def digest_of(model: Path) -> str:
    """Return `plans_digest` of a model folder, which must exist."""
    return plans_digest(*_plans_of(model))


def _plans_of(model: Path) -> tuple[dict[str, Any], str]:
    """Return plans and configuration of a model."""
    if not (model / "plans.json").is_file():
        raise FileNotFoundError(
            f"a model folder of nnU-Net must be named; {model}/plans.json does not exist"
        )
    plans = read_plans(model / "plans.json")
    return plans, model_configuration(model.resolve(), plans)


def apply(model: Path, adapter: Adapter, folder: Path) -> Model:
    """Write the model of a backbone with an adapter, for stock nnU-Net's commands; return it.

    Only this package must be installed to predict with it. After an error nothing is left.

    Args:
        model: folder of the backbone's model.
        adapter: trained on one of its folds.
        folder: a new folder.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError: no model there.
        ValueError: the model does not have the adapter's backbone, or has other plans.
    """
    plans, configuration = _plans_of(model)
    dataset = read_dataset(model / "dataset.json")
    checkpoint = backbone_of(model, adapter)
    if plans_digest(plans, configuration) != adapter.plans:
        raise ValueError(
            f"an adapter must be put on a model with the plans it was trained under; those of "
            f"{model} differ in architecture, patch_size, {', '.join(INPUT_KEYS)}, "
            f"transpose_forward or {INTENSITIES}: name the model it was adapted from"
        )
    name = f"{plans['plans_name']}_adapted"
    plans = stock_plans(plans, name, configuration, adapter.structure)
    weights = {**read_checkpoint(checkpoint)["network_weights"], **adapter.tensors}
    fold = checkpoint.parent.name
    given = adapter.mirroring, plans, dataset, configuration, fold.removeprefix("fold_")
    with new_folder(folder) as unfinished:
        write_json(unfinished / "plans.json", plans)
        write_json(unfinished / "dataset.json", dataset)
        (unfinished / fold).mkdir()
        torch.save(stock_checkpoint(weights, *given), unfinished / fold / FINAL)
    return Model(folder, (folder / fold,), configuration)
