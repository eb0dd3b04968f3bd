"""Plans files: a new identifier with an `iac` section, next to the plans it comes from."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.search.settings import Settings

SECTION = "iac"


def settings_of(configuration: Mapping[str, Any]) -> Settings:
    """Return the settings in a configuration of plans; without an `iac` section all defaults."""
    return Settings.from_mapping(configuration.get(SECTION, {}))


def configuration_of(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration of plans with what it inherits from others filled in."""
    own = plans["configurations"][name]
    parent = own.get("inherits_from")
    return {**(configuration_of(plans, parent) if parent else {}), **own}


def dataset_number(name: str) -> int:
    """Return the number in nnU-Net's name of a data set, for example Dataset004_Hippocampus."""
    return int(name.removeprefix("Dataset").partition("_")[0])


def require_identifier(name: str) -> None:
    """Check that nnU-Net can use a plans identifier in its folder names.

    Raises:
        ValueError: an empty name, a path, `__` inside, or `_` at an end.
    """
    if not name or "__" in name or name.strip("_") != name or "/" in name or "\\" in name:
        raise ValueError(
            "a plans identifier must be a plain file name without '__' inside or '_' at an end, "
            f"since nnU-Net splits folder names there; got {name!r}"
        )


def derived(
    plans: Mapping[str, Any], name: str, configuration: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of `plans` called `name` whose `configuration` carries the given settings.

    `source_plans` records where it came from; the data identifier, and so the preprocessed data,
    stay shared.

    Raises:
        ValueError: a bad identifier, an unknown configuration, or impossible settings.
    """
    require_identifier(name)
    if name == plans["plans_name"]:
        raise ValueError(
            f"the new plans must have a name of their own; got {name!r}, the name of their source"
        )
    known = plans["configurations"]
    if configuration not in known:
        raise ValueError(
            f"the configuration must be one of {', '.join(known)}, which the plans "
            f"{plans['plans_name']!r} describe; got {configuration!r}"
        )
    Settings.from_mapping(values)
    result = copy.deepcopy(dict(plans))
    result["plans_name"] = name
    result["source_plans"] = plans["plans_name"]
    result["configurations"][configuration][SECTION] = dict(values)
    return result


def write_new(path: Path, plans: Mapping[str, Any]) -> bool:
    """Write a plans file; return whether that changed anything.

    Raises:
        ValueError: the file exists with another content; nothing is overwritten.
    """
    if path.exists():
        if read_json(path) == json.loads(json.dumps(plans)):
            return False
        raise ValueError(
            f"{path} exists with other content and is not overwritten; choose another identifier "
            "or remove the file"
        )
    write_json(path, plans)
    return True
