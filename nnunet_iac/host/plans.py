"""Plans files: a new identifier with an `iac` section, next to the plans it comes from."""

import copy
import json
import re
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.nn.named_classes import require_named_classes
from nnunet_iac.runs.atomic import naming, read_json, write_json
from nnunet_iac.search.settings import Settings

SECTION = "iac"
IGNORE = "ignore"
"""The label whose voxels neither train nor score a network."""

OLD_UNET = "UNet_class_name"
"""Key by which older releases of nnU-Net describe a network instead of `architecture`."""

LEARNED_WITH = ("architecture", "patch_size", "batch_size")
"""Keys of a configuration that plans share with those whose backbone is taken by itself."""

NAMES_OF_NNUNET = ("dataset", "dataset_fingerprint", "splits_final")
"""Names of files that nnU-Net has beside plans."""

_IDENTIFIER = re.compile(r"[^_/\\\x00-\x1f]+(_[^_/\\\x00-\x1f]+)*")
LONGEST_NAME = 180
"""Bytes of an identifier; file systems allow names of 255, with trainer and configuration."""
_REMAKE = "make the plans again with nnUNetv2_plan_experiment"


def settings_of(configuration: Mapping[str, Any]) -> Settings:
    """Return the settings in a configuration of plans; without an `iac` section all defaults."""
    return Settings.from_mapping(configuration.get(SECTION, {}))


def read_plans(path: Path) -> dict[str, Any]:
    """Return the plans of a file; what nnU-Net cannot use is a ValueError that names it."""
    plans = read_json(path)
    with naming(path):
        configurations_of(plans)
        require_identifier(plans.get("plans_name"))
        require_dataset_name(plans.get("dataset_name"))
    return dict(plans)


def read_dataset(path: Path) -> dict[str, Any]:
    """Return the content of a dataset.json; what nnU-Net cannot use is a ValueError."""
    content = read_json(path)
    known = content if isinstance(content, dict) else {}
    channels = known.get("channel_names", known.get("modality"))
    if not (isinstance(channels, dict) and isinstance(known.get("labels"), dict)):
        raise ValueError(
            f"{path} must have the objects channel_names and labels; got "
            f"{reprlib.repr(channels)} and {reprlib.repr(known.get('labels'))}: restore it from "
            "nnUNet_raw"
        )
    numbers = [str(number) for value in known["labels"].values() for number in _listed(value)]
    channels_named = all(isinstance(channel, str) for channel in channels.values())
    if not (channels_named and all(number.isdecimal() for number in numbers)):
        raise ValueError(
            f"{path} must name channels, and give every label a number or a list of numbers; got "
            f"{reprlib.repr(channels)} and {reprlib.repr(known['labels'])}: correct it"
        )
    with naming(path):
        require_file_ending(known.get("file_ending"))
    return known


def configurations_of(plans: Any) -> dict[str, dict[str, Any]]:
    """Return the configurations of plans as they stand, by name; no plans are a ValueError."""
    known = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(known, dict) or not all(isinstance(c, dict) for c in known.values()):
        raise ValueError(
            'plans must be a JSON object with objects under "configurations"; got '
            f"{reprlib.repr(plans)}: {_REMAKE}"
        )
    return known


def configuration_of(plans: Any, name: str) -> dict[str, Any]:
    """Return a configuration of plans with what it inherits from others filled in.

    One of an older nnU-Net gets its `architecture` as nnU-Net itself converts it.
    """
    known = configurations_of(plans)
    if name in known and not _IDENTIFIER.fullmatch(name):
        raise ValueError(
            "the configuration must be a plain file name without '__' inside or '_' at an end, "
            f"since nnU-Net names folders after it; got {name!r}: rename it in the plans"
        )
    result: dict[str, Any] = {}
    line: list[Any] = [name]
    while line[-1] is not None:
        if line[-1] not in tuple(known):
            raise ValueError(
                f"the configuration must be one of {', '.join(known)}, which the plans "
                f"{plans.get('plans_name')!r} describe; got "
                + ", inherited by ".join(map(repr, reversed(line)))
            )
        result = {**known[line[-1]], **result}
        line.append(known[line[-1]].get("inherits_from"))
        if line[-1] in line[:-1]:
            raise ValueError(
                "a configuration must not inherit from itself; the plans "
                f"{plans.get('plans_name')!r} have {' from '.join(line)}: {_REMAKE}"
            )
    if not isinstance(result.get(SECTION, {}), dict):
        raise ValueError(
            f'the settings "{SECTION}" of a configuration must be a JSON object; {name} of the '
            f"plans {plans.get('plans_name')!r} has {reprlib.repr(result[SECTION])}: write {{}} "
            "for all defaults"
        )
    return result if "architecture" in result or OLD_UNET not in result else _converted(result)


def _converted(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of an older nnU-Net as the present one describes it."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nnU-Net's own reading of the plans shows it.
        try:
            manager = ConfigurationManager(copy.deepcopy(configuration))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"plans of an older nnU-Net, with {OLD_UNET}, must be ones that the present one "
                f"converts; it does not ({type(error).__name__}: {error}): {_REMAKE}"
            ) from error
    result: dict[str, Any] = manager.configuration
    return result


def architecture_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network that a configuration of plans describes, of classes that may be named.

    No network, or any other name, is a ValueError.
    """
    architecture: Any = configuration.get("architecture")
    kinds = {"network_class_name": str, "arch_kwargs": dict, "_kw_requires_import": list}
    for key, kind in kinds.items():
        found = architecture.get(key) if isinstance(architecture, dict) else None
        if not isinstance(found, kind):
            raise ValueError(
                f'plans must describe their network under "architecture"; its {key} is '
                f"{found!r}: {_REMAKE}"
            )
    require_named_classes(architecture)
    return architecture


def require_known_networks(plans: Any) -> None:
    """Check the networks of all configurations: which is built depends on a checkpoint as well."""
    for name in configurations_of(plans):
        configuration = configuration_of(plans, name)
        if "architecture" in configuration:
            architecture_of(configuration)


def require_trainable(configuration: Mapping[str, Any]) -> None:
    """Check that a configuration of plans has what is trained: data, batch, patch and network."""
    architecture_of(configuration)
    for key, kind in {"data_identifier": str, "batch_size": int, "patch_size": list}.items():
        if not isinstance(configuration.get(key), kind):
            raise ValueError(
                f"{key} of a configuration must be given; got {configuration.get(key)!r}: {_REMAKE}"
            )
    folder = configuration["data_identifier"]
    if Path(folder).name != folder:
        raise ValueError(
            f"data_identifier must be the plain name of a folder; got {folder!r}: {_REMAKE}"
        )


def dataset_number(name: str) -> int:
    """Return the number in nnU-Net's name of a data set, for example Dataset004_Hippocampus."""
    return int(name.removeprefix("Dataset").partition("_")[0])


def require_dataset_name(name: object) -> None:
    """Check that a data set's name is one of nnU-Net's and not a path."""
    if not isinstance(name, str) or not re.fullmatch(r"Dataset\d{3,}_[^/\\\x00-\x1f]+", name):
        raise ValueError(
            "the dataset_name of plans must be of the form Dataset004_Hippocampus; got "
            f"{name!r}: restore the plans, or plan again"
        )


def require_file_ending(ending: object) -> None:
    """Check that a data set's file ending cannot lead into another folder."""
    if not isinstance(ending, str) or not re.fullmatch(r"\.[^/\\]+", ending):
        raise ValueError(
            f"file_ending of dataset.json must be one such as .nii.gz; got {ending!r}: correct it"
        )


def channel_names(dataset: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels in a dataset.json, which older ones have as `modality`."""
    return [*dataset.get("channel_names", dataset.get("modality", {})).values()]


def labels_without_ignore(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels of a dataset.json that a network predicts, by name."""
    return {name: value for name, value in dataset["labels"].items() if name != IGNORE}


INPUT_KEYS = (
    *("spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name"),
    *("resampling_fn_data", "resampling_fn_data_kwargs"),
)
"""Keys of a configuration that decide what an image looks like to the network."""

INTENSITIES = "foreground_intensity_properties_per_channel"
"""Key of plans with the numbers by which CT is normalised."""


def network_input(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how images are preprocessed, by the keys of plans and configuration."""
    found = {key: configuration.get(key) for key in INPUT_KEYS}
    found["transpose_forward"] = plans.get("transpose_forward")
    if "CTNormalization" in (configuration.get("normalization_schemes") or ()):
        found[INTENSITIES] = plans.get(INTENSITIES)
    return found


def predicted_labels(dataset: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides a network's outputs: its labels, and of regions also their order.

    nnU-Net numbers the outputs of regions in the order of the labels in dataset.json.
    """
    order, given = dataset.get("regions_class_order"), labels_without_ignore(dataset)
    labels = [(name, {*map(int, _listed(value))}) for name, value in given.items()]
    if any(isinstance(value, list) for value in given.values()):
        return [label for label in labels if label[1] != {0}], order
    return dict(labels), order


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def require_identifier(name: object) -> None:
    """Check that nnU-Net can use a plans identifier in its folder names."""
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise ValueError(
            "a plans identifier must be a plain file name without '__' inside or '_' at an end, "
            f"since nnU-Net splits folder names there; got {name!r}: choose another"
        )
    if name in NAMES_OF_NNUNET:
        raise ValueError(
            "a plans identifier must not be the name of another file of nnU-Net's; got "
            f"{name!r}: choose another"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(
            f"a plans identifier must have at most {LONGEST_NAME} bytes, since names of files and "
            f"folders contain it; got {len(name.encode())} of {reprlib.repr(name)}: shorten it"
        )


def lineage(plans: Mapping[str, Any], configuration: str, folder: Path) -> list[str]:
    """Return the identifiers of plans that train a network alike: the own, then their sources.

    `folder` is where the plans of the data set lie.
    """
    own = configuration_of(plans, configuration)
    found = [plans["plans_name"]]
    while (source := plans.get("source_plans")) not in (None, *found):
        path = folder / f"{source}.json"
        if not path.is_file():
            return [*found, source]
        plans = read_json(path)
        with naming(path):
            if configuration not in configurations_of(plans):
                break
            theirs = configuration_of(plans, configuration)
        if any(theirs.get(key) != own.get(key) for key in LEARNED_WITH):
            break
        found.append(source)
    return found


def derived(
    plans: Mapping[str, Any], name: str, configuration: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of `plans` called `name` whose `configuration` carries the given settings.

    `source_plans` records where it came from; the data identifier, and so the preprocessed data,
    stay shared. Settings get their present names.
    """
    require_identifier(name)
    if name == plans["plans_name"]:
        raise ValueError(
            f"the new plans must have a name of their own; got {name!r}, the name of their source: "
            "choose another"
        )
    configuration_of(plans, configuration)
    result = copy.deepcopy({**plans, "plans_name": name, "source_plans": plans["plans_name"]})
    result["configurations"][configuration][SECTION] = dict(Settings.from_mapping(values).written)
    return result


def write_new(path: Path, plans: Mapping[str, Any]) -> bool:
    """Write a plans file; return whether that changed anything. Nothing is overwritten."""
    if path.exists():
        if read_json(path) == json.loads(json.dumps(plans)):
            return False
        raise ValueError(
            f"{path} exists with other content and is not overwritten; choose another identifier "
            "or remove the file"
        )
    write_json(path, plans)
    return True
