"""New plans with an `iac` section or another network, beside the preprocessed data set's own."""

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import (
    find_candidate_datasets,
    maybe_convert_to_dataset_name,
)

from nnunet_iac.host import plans
from nnunet_iac.host.architectures import PAPER_SETTINGS, with_encoder, with_protocol, with_skip
from nnunet_iac.runs.atomic import naming, read_json
from nnunet_iac.search.controls import CellSource
from nnunet_iac.search.setting_parts import ControlPart, RetrofitPart
from nnunet_iac.search.settings import Settings, present_names

CONTINUE_TRAINER, DISCRETE_TRAINER = "nnUNetTrainerContinue", "nnUNetTrainerIACDiscrete"
LTH_TRAINER, FULL_TRAINER = "nnUNetTrainerIACLTH", "nnUNetTrainerIAC"
SEARCHING = (LTH_TRAINER, FULL_TRAINER)

PLANNERS = {
    "nnUNetPlans": (),
    **{
        f"nnUNetResEncUNet{size}Plans": ("-pl", f"nnUNetPlannerResEnc{size}")
        for size in ("M", "L", "XL")
    },
}
"""Options of nnUNetv2_plan_and_preprocess for the plans that it makes, by their identifiers."""

TRUTHS = "gt_segmentations"
"""nnU-Net's folder of label files beside preprocessed data, written last."""


@dataclass(frozen=True)
class NetworkChanges:
    """Changes of the new plans' network; None leaves it as the source plans describe it.

    `encoder` and `skip` are named as in `architectures`, the only `protocol` is `paper`.
    """

    encoder: str | None = None
    skip: str | None = None
    protocol: str | None = None

    def changed(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """Return the keys of a configuration that differ, with what they are to be."""
        changes: dict[str, Any] = {}
        choices = (self.encoder, self.skip, self.protocol)
        kinds = (with_encoder, with_skip, with_protocol)
        for choice, change in zip(choices, kinds, strict=True):
            if choice is not None:
                changes |= change({**configuration, **changes}, choice)
        return changes


OF_A_BACKBONE = ("backbone_checkpoint", "backbone_plans")
"""Settings that name a backbone, which another network cannot have."""


def write_plans(
    dataset: str,
    configuration: str,
    source: str,
    name: str,
    values: Mapping[str, Any],
    network: NetworkChanges = NetworkChanges(),
) -> tuple[Path, bool]:
    """Write the plans `name`; return their file, and whether that changed anything.

    Args:
        dataset: id or name.
        configuration: the one that gets the settings.
        source: identifier of the plans to start from, and from their settings if they have any.
        name: the new identifier.
        values: settings to set.
        network: what is to differ in it.
    """
    plans.require_identifier(name)
    given, _ = present_names(values)
    folder = preprocessed_folder(dataset)
    original = source_plans(folder, configuration, source)
    config = plans.configuration_of(original, configuration)
    protocol = {} if network.protocol is None else PAPER_SETTINGS
    changes = network.changed(config)
    inherited = {**plans.settings_of(config).written, **protocol}
    if changes:  # It needs another backbone.
        inherited = {k: v for k, v in inherited.items() if k not in OF_A_BACKBONE}
    trainer_for(Settings.from_mapping({**inherited, **given}))  # Raises where none takes them.
    given = with_absolute_paths(given)
    new = plans.derived(original, name, configuration, {**inherited, **given})
    new["configurations"][configuration] |= changes
    new_file = folder / f"{name}.json"
    return new_file, plans.write_new(new_file, new)


def with_absolute_paths(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return valid settings whose files do not depend on the folder the plans are made in."""
    found = dict(given)
    checkpoint, genotype = given.get("backbone_checkpoint"), given.get("genotype")
    if checkpoint is not None:
        found["backbone_checkpoint"] = _absolute(checkpoint)
    if genotype is not None and (cell := CellSource.of(genotype)).path is not None:
        found["genotype"] = cell.moved(_absolute(cell.path))
    return found


def source_plans(folder: Path, configuration: str, source: str) -> dict[str, Any]:
    """Return the plans `source` in a preprocessed data set's folder, with the configuration."""
    source_file = folder / f"{source}.json"
    if not source_file.is_file():
        raise FileNotFoundError(
            f"the source plans must exist; {source_file} does not: "
            f"{_cure(folder, configuration, source)}"
        )
    original: dict[str, Any] = read_json(source_file)
    with naming(source_file):
        plans.architecture_of(plans.configuration_of(original, configuration))
    found = {"dataset_name": folder.name, **original}
    for key, wanted in {"plans_name": source, "dataset_name": folder.name}.items():
        if found.get(key) != wanted:
            raise ValueError(
                f"{key} in {source_file} must be {wanted!r}, as file and folder are called; got "
                f"{found.get(key)!r}: correct it, since nnU-Net names its folders after it"
            )
    return original


def next_commands(plans_file: Path, configuration: str, pretrained: Path | None) -> list[str]:
    """Return lines on new plans: what was changed, and how to train, from a checkpoint if any."""
    new = read_json(plans_file)
    config = plans.configuration_of(new, configuration)
    source = read_json(plans_file.with_name(f"{new['source_plans']}.json"))
    before = plans.configuration_of(source, configuration)
    settings = plans.settings_of(config)
    number = spelled(plans_file.parent.name)
    train = shlex.join(["nnUNetv2_train", number, configuration, "FOLD"])
    under = shlex.join(["-p", new["plans_name"]])
    lines = [
        f"{key}: {config[key]}, was {before[key]}"
        for key in ("patch_size", "batch_size")
        if config.get(key) != before.get(key)
    ]
    of_its_own = "skip" in config.get("architecture", {}).get("arch_kwargs", {})
    same = config.get("architecture") == before.get("architecture")
    if not lines and same and not of_its_own:
        trainers, ours = proposed_trainers(settings), trainer_for(settings)
        no_cell = settings.cell.genotype is None and settings.cell.skip == "cell"
        if no_cell and settings.cell.trainable_part is None and ours != CONTINUE_TRAINER:
            trainers["or, as the control"] = CONTINUE_TRAINER
        return [f"{what}: {train} -tr {trainer} {under}" for what, trainer in trainers.items()]
    trainer = settings.data.backbone_trainer
    words = [] if trainer is None else ["-tr", trainer]
    words += ["-p", new["plans_name"]]
    words += [] if pretrained is None else ["-pretrained_weights", str(pretrained)]
    lines.append(f"next: {train} {shlex.join(words)}")
    if not of_its_own:
        lines.append(f"then: {train} -tr {proposed_trainers(settings)['next']} {under}")
    return lines


def proposed_trainers(settings: Settings) -> dict[str, str]:
    """Return the trainers of retrofits that take settings, after words on each; the best first.

    A random cell comes before a search, whose cells were no better, unless the length of a search
    is set.
    """
    ours, written = trainer_for(settings), settings.written
    of_search = {"warmup_epochs", "search_epochs"} & set(written)
    if ours not in SEARCHING or of_search or written.get("preset", "adapt") != "adapt":
        return {"next": ours}
    return {"next": DISCRETE_TRAINER, "or, to search the cell": ours}


def trainer_for(settings: Settings) -> str:
    """Return the trainer that settings are for; those that any takes are for a search.

    Settings that no trainer takes together are a ValueError.
    """
    part, retention = settings.cell.trainable_part, settings.optimisation.retention
    given = settings.cell.genotype is not None or settings.cell.skip != "cell"
    of_control = part in get_args(ControlPart)
    if given and of_control:
        raise ValueError(
            f"trainable_part of a retrofit must be one of {', '.join(get_args(RetrofitPart))}; got "
            f"{part} with genotype={settings.cell.genotype} and skip={settings.cell.skip}: leave "
            "one of them out"
        )
    of_retrofit = given or (part is not None and not of_control)
    if of_retrofit and retention in ("l2-sp", "ewc"):
        raise ValueError(
            f"retention={retention} is for {CONTINUE_TRAINER}; got trainable_part={part}, "
            f"genotype={settings.cell.genotype} and skip={settings.cell.skip}, which are for a "
            "retrofit: leave them out, or set retention to lwf or rehearsal"
        )
    if of_control or retention in ("l2-sp", "ewc"):
        return CONTINUE_TRAINER
    if given or retention == "lwf":  # Searches do not take it.
        return DISCRETE_TRAINER
    epochs, soonest = settings.schedule.search_epochs, settings.soonest_end
    if epochs < soonest and retention == "rehearsal":
        raise ValueError(
            f"a search with retention=rehearsal must prune; search_epochs={epochs} leaves no time "
            f"for it: set search_epochs to {soonest} or more, or leave it out"
        )
    return LTH_TRAINER if epochs >= soonest else FULL_TRAINER


def preprocessed_folder(dataset: str) -> Path:
    """Return nnU-Net's folder of a preprocessed data set, given by id or name."""
    if not nnUNet_preprocessed.is_set():
        raise RuntimeError(
            "the environment variable nnUNet_preprocessed must name nnU-Net's folder of "
            "preprocessed data and is not set; run `export nnUNet_preprocessed=/path/to/it`"
        )
    try:
        name = maybe_convert_to_dataset_name(dataset)
        plans.dataset_number(name)
        if Path(name).name != name:
            raise ValueError(f"{name} is a path")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "the data set must be an id or a full name such as Dataset004_Hippocampus, and be "
            f"unique and present in nnU-Net's folders; got {dataset!r}: check it and "
            f"nnUNet_raw, nnUNet_preprocessed (now {nnUNet_preprocessed}) and nnUNet_results"
        ) from error
    return Path(nnUNet_preprocessed) / name


def _absolute(path: str) -> str:
    """Return a path that does not depend on the folder the plans are made in."""
    # Unlike Path.expanduser, os.path's leaves an unknown user as it is.
    return str(Path(os.path.expanduser(path)).absolute())


def preprocess_command(dataset: str, identifier: str, configuration: str) -> str:
    """Return the command that preprocesses a data set, given by name, under plans."""
    words = ["nnUNetv2_preprocess", "-d", str(plans.dataset_number(dataset))]
    return shlex.join([*words, "-plans_name", identifier, "-c", configuration])


def _cure(folder: Path, configuration: str, source: str) -> str:
    """Return what to do where plans are missing: nnU-Net's own are made by a command."""
    if folder.name not in _called_alike(folder.name):
        return f"no data set is called {folder.name}: correct the name"
    if spelled(folder.name) == folder.name:
        return "another data set has its number, so nnU-Net cannot plan it: give it another one"
    if source in PLANNERS:
        words = ["nnUNetv2_plan_and_preprocess", "-d", spelled(folder.name), "-c", configuration]
        return f"make them with\n  {shlex.join([*words, *PLANNERS[source]])}"
    known = ", ".join(path.stem for path in sorted(folder.glob("*.json")) if _is_plans(path))
    return f"name others with -p, of which there are {known or 'none'}"


def _is_plans(path: Path) -> bool:
    with suppress(ValueError):
        content = read_json(path)
        return isinstance(content, dict) and "configurations" in content
    return False


def spelled(dataset: str) -> str:
    """Return a data set's number for commands, or its name where others have that number."""
    return str(plans.dataset_number(dataset)) if len(_called_alike(dataset)) < 2 else dataset


def _called_alike(dataset: str) -> set[str]:
    """Return the data sets in nnU-Net's folders that have the number of one given by name."""
    return {*map(str, find_candidate_datasets(plans.dataset_number(dataset)))}
