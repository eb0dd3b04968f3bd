"""Adapters: the cells of a retrofit as a file of their own, for the backbone they were trained on.

An adapter holds every tensor of a retrofit but the backbone's, and what is needed to put them
back: bit for bit, and only on that backbone.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nnunet_iac.adaptation.choice import AUTO, NO_ADAPTER, Site
from nnunet_iac.adaptation.sites import sites_of_run
from nnunet_iac.host.plans import (
    SECTION,
    configuration_of,
    network_input,
)
from nnunet_iac.nn.retrofitted_unet import BACKBONE_PREFIXES
from nnunet_iac.runs.atomic import content_of, naming, replacing
from nnunet_iac.runs.checkpoint import FINAL, MIRRORING, read_checkpoint, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.genotype_source import still_searching
from nnunet_iac.runs.typed import typed
from nnunet_iac.search.settings import Settings

ADAPTER_FORMAT = 3
"""Version of the files; others are refused."""

ADAPTER_KEY = "nnunet_iac.adapter"
"""Key of the one entry in a file's metadata, a JSON document."""

ADAPTER_SUFFIX = ".safetensors"
RESERVED = (NO_ADAPTER, AUTO)
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
        run_folder = RunFolder.of_fold(fold)
        if not run_folder.backbone_file.is_file():
            raise FileNotFoundError(
                "an adapter is made of the run that trained it, whose record shows that the "
                f"backbone stayed as it was; {run_folder.backbone_file} does not exist: save the "
                "adapter where the model was trained, since zips of models have no records"
            )
        record = run_folder.read_backbone()
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
            "structure": self.structure,
            "backbone": self.backbone,
            "plans": self.plans,
            "mirroring": self.mirroring,
            "provenance": self.provenance,
            "sites": {
                name: {"cases": site.cases, "farthest": _or_none(site.farthest)}
                for name, site in self.sites.items()
            },
        }
        document["hash"] = content_hash(tensors, document)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(path) as temporary:
            temporary.write_bytes(save(contiguous, {ADAPTER_KEY: json.dumps(document)}))

    @classmethod
    def read(cls, path: Path) -> "Adapter":
        """Return the adapter of a file; a damaged, foreign or newer one is a ValueError."""
        if not path.is_file():
            raise FileNotFoundError(f"an adapter must be an existing file; {path} is none")
        with _reading(path):
            with safe_open(path, framework="pt") as file:
                document = json.loads((file.metadata() or {})[ADAPTER_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            newer, older = document["format"] > ADAPTER_FORMAT, document["format"] < ADAPTER_FORMAT
        if newer or older:
            cure = "install that one" if newer else "save it again from its run"
            raise ValueError(
                f"an adapter must be of format {ADAPTER_FORMAT}; {path} was written by "
                f"{'a newer' if newer else 'an older'} version of nnunet-iac: {cure}"
            )
        with _reading(path):
            whole = document.pop("hash")
        if whole != content_hash(tensors, document):
            raise ValueError(
                f"an adapter's file must not change; {path} is not what was saved: save it again"
            )
        if foreign := [name for name in tensors if name.startswith(BACKBONE_PREFIXES)]:
            raise ValueError(
                f"an adapter must not contain tensors of the backbone; {path} has {foreign[0]}: "
                "save it again from its run"
            )
        with _reading(path):
            del document["format"]
            sites = {
                name: Site(
                    tensors.pop(f"{MEAN}{name}"),
                    typed(int, known["cases"], "cases"),
                    math.nan if known["farthest"] is None else float(known["farthest"]),
                )
                for name, known in document.pop("sites").items()
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
    except PermissionError as error:
        raise ValueError(f"{path} must be readable and is not: fix its permissions") from error
    except DAMAGE as error:
        raise ValueError(
            f"{path} must be an adapter and is damaged or something else "
            f"({type(error).__name__}: {error}): save it again"
        ) from error


def require_new_file(path: Path) -> None:
    """Check that an adapter can be written to a path."""
    if path.suffix != ADAPTER_SUFFIX:
        raise ValueError(f"an adapter's file must end with {ADAPTER_SUFFIX}; got {path}")
    require_free_name(path)
    if path.exists():
        raise FileExistsError(
            f"an adapter must go to a new file; {path} exists: remove it, or name another"
        )


def require_free_name(path: Path) -> None:
    """Check that an adapter is not called as what `--adapter` takes for something else."""
    if path.stem in RESERVED:
        raise ValueError(
            f"an adapter must not be called {' or '.join(RESERVED)}, which mean something else "
            f"to --adapter; got {path}: choose another name"
        )


def content_hash(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the tensors of an adapter and what its file states of them."""
    text = tensors_hash(tensors) + json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def plans_digest(plans: Mapping[str, Any], configuration: str) -> str:
    """Return the SHA-256 over the part of plans that defines a network and its images."""
    config = configuration_of(plans, configuration)
    parts = network_input(plans, config)
    parts |= {key: config.get(key) for key in ("architecture", "patch_size")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
