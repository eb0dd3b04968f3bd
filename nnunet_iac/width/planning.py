"""New plans of a chosen width, beside those they come from, which stay as they are."""

import copy
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_iac.host.planning import OF_A_BACKBONE
from nnunet_iac.host.plans import (
    SECTION,
    architecture_of,
    configuration_of,
    configurations_of,
    derived,
    require_identifier,
)
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.search.settings import Settings
from nnunet_iac.width.candidates import FEATURES, capped
from nnunet_iac.width.source import Source

PROVENANCE = "nnunet_iac_xtiny"
"""The one key that we add to a configuration; nnU-Net ignores it."""

NETWORK_PACKAGES = ("nnunetv2", "dynamic-network-architectures", "torch", "numpy")


def plans_name(source: Source, cap: int) -> str:
    """Return the identifier of the new plans unless another is wanted."""
    return f"{source.plans['plans_name']}_xtiny{cap}"


def figure_file(path: Path, configuration: str) -> Path:
    """Return where the figure of a choice goes: beside its plans, one per configuration."""
    return path.with_name(f"{path.stem}_{configuration}.png")


def write_width(
    source: Source, cap: int, name: str | None = None, chosen: Mapping[str, Any] | None = None
) -> tuple[Path, bool]:
    """Write plans with no stage wider than a cap; return the file, and whether it was written.

    They differ from the source in their name, the widths, the setting `backbone_trainer` where the
    trainer is another than nnUNetTrainer, and `PROVENANCE`: the cap, the hash of the configuration
    they were made from, versions, and how the cap was chosen. The preprocessed data are shared. If
    they are there already, whatever the provenance, they stay as they are; if they are there with
    widths of the source's other configurations only, this one's is added. Other content under the
    name is a ValueError.
    """
    name = plans_name(source, cap) if name is None else name
    require_name(source, name)
    path = source.folder / f"{name}.json"
    existing = read_json(path) if path.exists() else None
    known = {} if existing is None else _widths(existing)
    others = {each: width for each, width in known.items() if each != source.configuration}
    trainer = source.trainer.__name__
    new = _narrowed(source, name, {**others, source.configuration: (cap, trainer)})
    if existing is not None:
        there, before = _without_provenance(existing), _without_provenance(new)
        if there == before:
            return path, False
        original = configurations_of(source.plans)[source.configuration]
        before["configurations"][source.configuration] = original
        same = there == _without_provenance(before)
        if source.configuration in known or not others or not same:
            made = "not what was made from these plans"
            if source.configuration in known:
                made = "cap {}, trainer {}".format(*known[source.configuration])
            raise ValueError(
                f"{path} exists with other content ({source.configuration} there: {made}; now: "
                f"cap {cap}, trainer {trainer}) and is not overwritten: choose another identifier, "
                "in xtiny with -o, or remove the file"
            )
        for each in others:
            new["configurations"][each][PROVENANCE] = existing["configurations"][each][PROVENANCE]
    configuration = new["configurations"][source.configuration]
    configuration[PROVENANCE] = {
        "cap": cap,
        "features_per_stage": configuration["architecture"]["arch_kwargs"][FEATURES],
        "base_plans": source.plans["plans_name"],
        "base_sha256": source.digest(),
        "trainer": trainer,
        "chosen": None if chosen is None else dict(chosen),
        "versions": {package: version(package) for package in ("nnunet-iac", *NETWORK_PACKAGES)},
    }
    write_json(path, new)
    return path, True


def require_name(source: Source, name: str) -> None:
    """Check, before anything is measured, that a name can be that of new plans."""
    require_identifier(name)
    path = source.folder / f"{name}.json"
    existing = read_json(path) if path.exists() else {"configurations": {}}
    # Its own record: a configuration that inherits would have that of another.
    known = configurations_of(existing).get(source.configuration, {}).get(PROVENANCE)
    if isinstance(known, dict) and known.get("base_sha256") != source.digest():
        raise ValueError(
            f"{path} exists and was made from another base configuration (of "
            f"{known.get('base_plans')}, hash {known.get('base_sha256')}) than "
            f"{source.configuration} of "
            f"{source.plans['plans_name']} now (hash {source.digest()}); it is not "
            "overwritten: choose another identifier with -o, or remove the file"
        )


def _widths(plans: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Return the cap and the trainer of every configuration that has our record of both."""
    records = {name: c.get(PROVENANCE) for name, c in configurations_of(plans).items()}
    return {
        name: (known["cap"], known["trainer"])
        for name, known in records.items()
        if isinstance(known, dict) and {"cap", "trainer"} <= known.keys()
    }


def _narrowed(source: Source, name: str, widths: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """Return the source's plans under a new name, with caps and trainers for configurations."""
    result = derived(source.plans, name, source.configuration, {})
    for each, (cap, trainer) in widths.items():
        config = configuration_of(source.plans, each)
        written = config.get(SECTION, {})
        settings = {key: value for key, value in written.items() if key not in OF_A_BACKBONE}
        if trainer != "nnUNetTrainer":
            settings["backbone_trainer"] = trainer
        Settings.from_mapping(settings)
        configuration = result["configurations"][each]
        configuration["architecture"] = capped(architecture_of(config), cap)
        # Empty ones keep away those of a configuration that this one inherits from.
        if settings or SECTION in config or "inherits_from" in configuration:
            configuration[SECTION] = settings
        else:
            configuration.pop(SECTION, None)
    return result


def _without_provenance(plans: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(plans))
    for configuration in configurations_of(result).values():
        configuration.pop(PROVENANCE, None)
    return result
