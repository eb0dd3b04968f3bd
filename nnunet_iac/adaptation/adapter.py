"""Adapters: the cells of a retrofit as a file of their own, for the backbone they were trained on.

An adapter holds every tensor of a retrofit but the backbone's, and what is needed to put them
back: bit for bit, and only on that backbone.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nnunet_iac.adaptation.choice import AUTO, NO_ADAPTER, Site
from nnunet_iac.adaptation.sites import sites_of_run
from nnunet_iac.host.export import (
    Model,
    model_configuration,
    new_folder,
    stock_checkpoint,
    stock_plans,
)
from nnunet_iac.host.plans import (
    INPUT_KEYS,
    INTENSITIES,
    SECTION,
    configuration_of,
    network_input,
    read_dataset,
    read_plans,
)
from nnunet_iac.runs.atomic import content_of, naming, replacing, write_json
from nnunet_iac.runs.checkpoint import BEST, FINAL, MIRRORING, read_checkpoint, tensors_hash
from nnunet_iac.runs.fold import fold_folders
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.genotype_source import still_searching
from nnunet_iac.runs.typed import typed
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings

ADAPTER_FORMAT = 1
"""Version of the files; a newer one is refused."""

ADAPTER_KEY = "nnunet_iac.adapter"
"""Key of the one entry in a file's metadata, a JSON document."""

ADAPTER_SUFFIX = ".safetensors"
RESERVED = (NO_ADAPTER, AUTO)
ADAPTERS_FOLDER = "adapters"
"""Inside the folder of the backbone's model: where an adapter is looked for by its name."""

BACKBONE_PREFIXES = ("encoder.", "decoder.")
"""Beginnings of the names of a backbone's tensors."""

MEAN, SPREAD = "statistics.mean.", "statistics.spread"
"""Names of the statistics in a file."""

DAMAGE = (
    *(SafetensorError, OSError, LookupError, TypeError, AttributeError),
    *(ValueError, RecursionError),
)
"""Errors of reading a file that is no adapter."""


@dataclass(frozen=True)
class Adapter:
    """The cells of one retrofit.

    Args:
        tensors: all of the retrofit's but the backbone's, by their names in its state dict.
        structure: the settings that decide its network.
        backbone: SHA-256 of the backbone's tensors.
        plans: `plans_digest` of what both were trained under.
        mirroring: axes that prediction may mirror, or None.
        provenance: the run that trained it: trainer, data set, plans, configuration, fold, method
            and version of this package.
        sites: its own site and, if its cases were at hand, the source's, by the names in `sites`;
            empty if the adapter cannot be chosen by image.
        spread: sigma, see `choice`.
    """

    tensors: dict[str, Tensor]
    structure: dict[str, Any]
    backbone: str
    plans: str
    mirroring: list[int] | None
    provenance: dict[str, Any]
    sites: Mapping[str, Site] = field(default_factory=dict)
    spread: Tensor | None = None

    @property
    def genotype(self) -> Genotype | None:
        """The cell, if the implants are cells."""
        codes = self.tensors.get("genotype_codes")
        return None if codes is None else Genotype.from_codes(codes.tolist())

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @classmethod
    def of_fold(cls, fold: Path, device: str, log: Callable[[str], None]) -> "Adapter":
        """Return the adapter of a finished run, from its fold folder; log what is missing.

        The statistics of its cases are computed on `device`.

        Raises:
            FileNotFoundError: no final checkpoint or no record.
            ValueError: no retrofit, one that is still searching, or whose backbone has changed.
        """
        path = fold / FINAL
        checkpoint = read_checkpoint(path)
        weights = checkpoint["network_weights"]
        tensors = {k: v for k, v in weights.items() if not k.startswith(BACKBONE_PREFIXES)}
        if not tensors or SECTION not in checkpoint:
            raise ValueError(
                f"an adapter is made of a retrofit; {path} is none: name the fold folder of a run "
                "of nnUNetTrainerIACLTH, nnUNetTrainerIAC or nnUNetTrainerIACDiscrete"
            )
        if still_searching(weights):
            raise ValueError(
                f"an adapter is made of a found cell; {path} is still searching: let the run end"
            )
        record = RunFolder.of_fold(fold).read_backbone()
        found = tensors_hash({k: v for k, v in weights.items() if k.startswith(BACKBONE_PREFIXES)})
        if record.before != found:
            raise ValueError(
                f"an adapter is made of a run that left its backbone as it was; that of {path} has "
                "changed: train with trainable_part=cells or cells+norms, which keep it frozen"
            )
        with content_of(path), naming(path):
            run, init = checkpoint[SECTION]["run"], checkpoint["init_args"]
            axes = checkpoint[MIRRORING]
            sites, spread = sites_of_run(fold, checkpoint, device, log)
            keys = ("trainer", "dataset", "plans", "configuration", "fold")
            return cls(
                tensors,
                Settings.from_mapping(checkpoint[SECTION]["settings"]).cell.structure,
                found,
                plans_digest(init["plans"], init["configuration"]),
                None if axes is None else [int(axis) for axis in axes],
                {**{key: run[key] for key in keys}, "version": version("nnunet-iac")},
                sites,
                spread,
            )

    def save(self, path: Path) -> None:
        """Write the adapter, atomically; a file that exists is not overwritten."""
        require_new_file(path)
        tensors = {**self.tensors, **{f"{MEAN}{n}": s.mean for n, s in self.sites.items()}}
        if self.spread is not None:
            tensors[SPREAD] = self.spread
        document = {
            "format": ADAPTER_FORMAT,
            "tensors_hash": tensors_hash(tensors),
            "structure": self.structure,
            "backbone": self.backbone,
            "plans": self.plans,
            "mirroring": self.mirroring,
            "provenance": self.provenance,
            "farthest": {name: _or_none(site.farthest) for name, site in self.sites.items()},
        }
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(path) as temporary:
            save_file(contiguous, temporary, {ADAPTER_KEY: json.dumps(document)})

    @classmethod
    def read(cls, path: Path) -> "Adapter":
        """Return the adapter of a file; a damaged, foreign or newer one is a ValueError."""
        if not path.is_file():
            raise FileNotFoundError(f"an adapter must be an existing file; {path} is none")
        with _reading(path):
            with safe_open(path, framework="pt") as file:
                document = json.loads((file.metadata() or {})[ADAPTER_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            newer = document.pop("format") > ADAPTER_FORMAT
        if newer:
            raise ValueError(
                f"an adapter must be of format {ADAPTER_FORMAT} or older; {path} was written by a "
                "newer version of nnunet-iac: install that one"
            )
        with _reading(path):
            whole = document.pop("tensors_hash")
        if whole != tensors_hash(tensors):
            raise ValueError(
                f"the tensors of an adapter must be those that were saved; {path} is damaged: "
                "save it again"
            )
        with _reading(path):
            sites = {
                name: Site(tensors.pop(f"{MEAN}{name}"), math.nan if far is None else far)
                for name, far in document.pop("farthest").items()
            }
            for key in ("dataset", "trainer"):
                typed(str, document["provenance"][key], key)
            structure = dict(document["structure"])
            typed(str, structure.pop("implant"), "implant")
            Settings.from_mapping(structure)
            parts = {"tensors": tensors, "sites": sites, "spread": tensors.pop(SPREAD, None)}
            return typed(cls, {**document, **parts})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file where it is no adapter."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(
            f"{path} must be an adapter and is damaged or something else "
            f"({type(error).__name__}: {error}): save it again"
        ) from error


def require_new_file(path: Path) -> None:
    """Check that an adapter can be written to a path."""
    if path.suffix != ADAPTER_SUFFIX:
        raise ValueError(f"an adapter's file must end with {ADAPTER_SUFFIX}; got {path}")
    if path.stem in RESERVED:
        raise ValueError(
            f"an adapter must not be called {' or '.join(RESERVED)}, which mean something else "
            f"to --adapter; got {path}: choose another name"
        )
    if path.exists():
        raise FileExistsError(
            f"an adapter must go to a new file; {path} exists: remove it, or name another"
        )


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def adapters_of(model: Path) -> list[Path]:
    """Return the adapters that lie in a model's folder."""
    return sorted((model / ADAPTERS_FOLDER).glob(f"*{ADAPTER_SUFFIX}"))


def adapter_file(name: str, model: Path) -> Path:
    """Return the file of an adapter: a path, or the name of one in the model's folder."""
    path = Path(name)
    if path.stem in RESERVED:
        raise ValueError(
            f"an adapter must not be called {' or '.join(RESERVED)}, which mean something else to "
            f"--adapter; got {name}: rename the file"
        )
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
    plans, configuration = _plans_of(model)
    digest, hashes = plans_digest(plans, configuration), {h: p for p, h in _backbones(model)}
    lines = []
    for path in files:
        try:
            adapter = Adapter.read(path)
        except ValueError as error:
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


def _plans_of(model: Path) -> tuple[dict[str, Any], str]:
    """Return plans and configuration of a model."""
    if not (model / "plans.json").is_file():
        raise FileNotFoundError(
            f"a model folder of nnU-Net must be named; {model}/plans.json does not exist"
        )
    plans = read_plans(model / "plans.json")
    return plans, model_configuration(model.resolve(), plans)


def plans_digest(plans: Mapping[str, Any], configuration: str) -> str:
    """Return the SHA-256 over the part of plans that defines a network and its images."""
    config = configuration_of(plans, configuration)
    parts = network_input(plans, config)
    parts |= {key: config.get(key) for key in ("architecture", "patch_size")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
