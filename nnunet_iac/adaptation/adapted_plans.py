"""The plans of a target: those of a source model, moved, with the settings of an adaptation."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.adaptation.target import Target, reader_under
from nnunet_iac.host.planning import trainer_for, with_absolute_paths
from nnunet_iac.host.plans import SECTION, read_plans, write_new
from nnunet_iac.runs.fold import EXPORTED_FROM
from nnunet_iac.search.patients import patient_of
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.search.settings import Settings

NOT_MOVED = (SECTION, "inherits_from", "next_stage")
"""Keys of the source's configuration that name what the target's plans do not have."""

ADAPT = {"preset": "adapt"}
"""Settings of an adaptation, unless others are given."""


def adapted_plans(
    source: SourceModel, target: Target, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the source's plans moved to the target, with the settings of an adaptation.

    As nnU-Net's move_plans_between_datasets, which needs the source's preprocessed data.
    """
    plans = copy.deepcopy({**source.plans, "dataset_name": target.name, "plans_name": name})
    for key in ("source_plans", EXPORTED_FROM):
        plans.pop(key, None)
    config = {key: value for key, value in source.config.items() if key not in NOT_MOVED}
    before, own = source.plans["plans_name"], config["data_identifier"]
    suffix = own[len(before) :] if own.startswith(before) else f"_{own}"
    config["data_identifier"] = f"{name}{suffix}"
    if "backbone_checkpoint" in values:
        raise ValueError(
            "backbone_checkpoint is the source's, and is not to be set; got "
            f"{values['backbone_checkpoint']!r}: name the source with -s"
        )
    settings = {**ADAPT, **values, "backbone_checkpoint": str(source.checkpoint)}
    trainer_for(Settings.from_mapping(settings))  # Raises where none takes them.
    config[SECTION] = dict(Settings.from_mapping(with_absolute_paths(settings)).written)
    plans["configurations"] = {source.configuration: config}
    plans["image_reader_writer"] = reader_under(source.plans, target)
    return plans


def joined_plans(path: Path, plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans with what else a file of theirs has: configurations adapted earlier.

    Any other content is a ValueError, since nothing is overwritten.
    """
    new = json.loads(json.dumps(plans))
    if not path.exists():
        return dict(new)
    known = read_plans(path)
    joined = {**new, "configurations": {**known["configurations"], **new["configurations"]}}
    added = joined["configurations"].keys() - known["configurations"].keys()
    before = {k: c for k, c in joined["configurations"].items() if k not in added}
    if {**joined, "configurations": before} != known:
        began, own = (
            {c.get(SECTION, {}).get("backbone_checkpoint") for name, c in each if name not in added}
            for each in (known["configurations"].items(), new["configurations"].items())
        )
        if own - began and began - {None}:
            raise ValueError(
                f"plans are of one model and fold; {path} adapts {min(began - {None})}, not "
                f"{min(own)}: name the former with -s and -f, or choose another identifier with -o"
            )
        write_new(path, plans)  # Raises.
    return joined


def require_settings(
    source: SourceModel, target: Target, name: str, values: Mapping[str, Any]
) -> DataConfig:
    """Check settings, and that their pattern finds a patient in every case, before any work.

    Returns those of the data.
    """
    adapted_plans(source, target, name, values)
    data = Settings.from_mapping({**ADAPT, **values}).data
    for case in target.cases:
        patient_of(case, data.patient_pattern)
    return data
