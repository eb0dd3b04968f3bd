"""New plans of a chosen width, beside those they come from, which stay as they are."""

import copy
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nnunet_iac
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.plans import (
    SECTION,
    configuration_of,
    configurations_of,
    derived,
    require_identifier,
    write_new,
)
from nnunet_iac.width.candidates import FEATURES, capped
from nnunet_iac.width.source import Source

PROVENANCE = "nnunet_iac_xtiny"
"""The one key that we add to a configuration; nnU-Net ignores it."""

PACKAGES = ("nnunetv2", "dynamic-network-architectures", "torch", "numpy")


def plans_name(source: Source, cap: int) -> str:
    """Return the identifier of the new plans unless another is wanted."""
    return f"{source.plans['plans_name']}_xtiny{cap}"


def write_width(
    source: Source, cap: int, name: str | None = None, chosen: Mapping[str, Any] | None = None
) -> tuple[Path, bool]:
    """Write plans whose network has no stage wider than a cap.

    They differ from the source in their name, the widths, and `PROVENANCE`: the cap, the hash of
    the configuration they were made from, versions, and how the cap was chosen. The preprocessed
    data are shared. If they are there already, whatever the provenance, they stay as they are.

    Args:
        source: the plans to start from.
        cap: in channels.
        name: the new identifier; None is `plans_name`.
        chosen: what a study says of the choice; None where the user named the cap.

    Returns:
        The file, and whether it was written.

    Raises:
        ValueError: a bad cap or identifier, a network without a width, or plans of that name with
            other content, such as from another base configuration; nothing is overwritten.
    """
    name = plans_name(source, cap) if name is None else name
    settings = source.described.get(SECTION)
    new = derived(source.plans, name, source.configuration, settings or {})
    configuration = new["configurations"][source.configuration]
    if settings is None:
        del configuration[SECTION]
    architecture = capped(source.architecture, cap)
    configuration["architecture"] = architecture
    configuration[PROVENANCE] = {
        "cap": cap,
        "features_per_stage": architecture["arch_kwargs"][FEATURES],
        "base_plans": source.plans["plans_name"],
        "base_sha256": source.digest(),
        "trainer": source.trainer.__name__,
        "chosen": None if chosen is None else dict(chosen),
        "versions": {
            "nnunet-iac": nnunet_iac.__version__,
            **{package: version(package) for package in PACKAGES},
        },
    }
    require_name(source, name)
    path = source.folder / f"{name}.json"
    if path.exists() and _without_provenance(read_json(path)) == _without_provenance(new):
        return path, False
    return path, write_new(path, new)


def require_name(source: Source, name: str) -> None:
    """Check, before anything is measured, that a name can be that of new plans.

    Raises:
        ValueError: a bad identifier, or plans of that name from another base configuration.
    """
    require_identifier(name)
    path = source.folder / f"{name}.json"
    existing = read_json(path) if path.exists() else {"configurations": {}}
    if source.configuration not in configurations_of(existing):
        return
    known = configuration_of(existing, source.configuration).get(PROVENANCE)
    if isinstance(known, dict) and known.get("base_sha256") != source.digest():
        raise ValueError(
            f"{path} exists and was made from another base configuration (of "
            f"{known.get('base_plans')}, hash {known.get('base_sha256')}) than "
            f"{source.configuration} of "
            f"{source.plans['plans_name']} now (hash {source.digest()}); it is not "
            "overwritten: choose another identifier with -o, or remove the file"
        )


def _without_provenance(plans: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(plans))
    for configuration in configurations_of(result).values():
        configuration.pop(PROVENANCE, None)
    return result
