"""The plans and folders of a study's runs."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.host.folders import results_folder
from nnunet_iac.host.planning import Network as Planned
from nnunet_iac.host.planning import preprocessed_folder, source_plans
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.plans import (
    SECTION,
    architecture_of,
    configuration_of,
    derived,
    write_new,
)
from nnunet_iac.width.candidates import FEATURES, capped, features_of
from nnunet_iac.workflow.study import REFERENCE, DataSet, Network, Run, Study


def plans_name(study: Study, run: Run) -> str:
    """Return the identifier of a run's plans; the network's own is shared by all studies."""
    network = study.backbones[run.backbone]
    if run.method == REFERENCE:
        if network.is_planned:
            return network.plans
        first = run.configuration == run.dataset.configurations[0]
        return run.backbone if first else f"{run.backbone}_{run.configuration}"
    own = (study.name, run.configuration, run.backbone, run.method, run.augmentation, run.seed)
    return "_".join(map(str, own)).replace("_default_", "_")


def fold_folder(study: Study, run: Run) -> Path:
    """Return nnU-Net's folder of a run.

    Raises:
        RuntimeError: nnUNet_results is not set.
    """
    model = f"{study.trainer_of(run)}__{plans_name(study, run)}__{run.configuration}"
    dataset = preprocessed_folder(run.dataset.dataset).name
    return results_folder() / dataset / model / f"fold_{run.fold}"


def write_study_plans(study: Study, dataset: DataSet) -> list[Path]:
    """Write the plans of all networks and runs on a data set; those that are there stay.

    Raises:
        FileNotFoundError: plans to start from are not there.
        ValueError: plans of such a name with other content, or an impossible network.
    """
    folder = preprocessed_folder(dataset.dataset)
    written = []
    for run in study.runs.values():
        path = folder / f"{plans_name(study, run)}.json"
        plans = plans_of(study, run, folder) if run.dataset == dataset else None
        if plans is not None:
            write_new(path, plans)
            written.append(path)
    return list(dict.fromkeys(written))


def plans_of(study: Study, run: Run, folder: Path) -> dict[str, Any] | None:
    """Return the plans that a run needs written, or None where it takes those that are there."""
    if run.method != REFERENCE:
        return run_plans(study, run, folder)
    network = study.backbones[run.backbone]
    name = plans_name(study, run)
    return None if network.is_planned else network_plans(folder, run.configuration, name, network)


def network_plans(folder: Path, configuration: str, name: str, network: Network) -> dict[str, Any]:
    """Return the plans of a backbone that differs from the plans it starts from."""
    plans = copy.deepcopy(source_plans(folder, configuration, network.plans))
    if name == network.plans:
        raise ValueError(f"backbone {name!r} must have another name than its plans: rename it")
    plans.update(plans_name=name, source_plans=network.plans)
    described = configuration_of(plans, configuration)
    plans["configurations"][configuration] |= _changes(described, network)
    return plans


def run_plans(study: Study, run: Run, folder: Path) -> dict[str, Any]:
    """Return the plans of a run: those of its backbone with the settings of the method."""
    backbone = plans_name(study, run.reference)
    source = study.source_of(run)
    cells = "" if source is None else str(fold_folder(study, source).with_name("fold_{fold}"))
    assert run.seed is not None
    values = study.values_of(run.method, run.seed, cells)
    values |= {"backbone_trainer": study.trainer_of(run.reference), "backbone_plans": backbone}
    if run.dataset.patients is not None:
        values["patient_pattern"] = run.dataset.patients
    plans = source_plans(folder, run.configuration, backbone)
    return derived(plans, plans_name(study, run), run.configuration, values)


def require_own_results(study: Study, run: Run) -> None:
    """Check that what was trained under a run's name was trained with its plans.

    Raises:
        ValueError: with others.
    """
    model = fold_folder(study, run).parent
    wanted = preprocessed_folder(run.dataset.dataset) / f"{plans_name(study, run)}.json"
    if not (model / "plans.json").is_file() or not wanted.is_file():
        return
    ours, theirs = (
        configuration_of(read_json(path), run.configuration)
        for path in (wanted, model / "plans.json")
    )
    unused = dict.fromkeys([SECTION]) if run.method == REFERENCE else {}
    if ours | unused != theirs | unused:
        raise ValueError(
            f"{model} must have been trained with the plans {wanted.stem} as they are now, and was "
            "trained with others: move it elsewhere, or give the study another name"
        )


def _changes(described: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """Return the keys of a configuration that a backbone has of its own."""
    changes = Planned(network.encoder, network.skip).changed(dict(described))
    architecture = architecture_of({**described, **changes})
    if network.cap is not None:
        changes["architecture"] = architecture = capped(architecture, network.cap)
    if network.features_per_stage is not None:
        stages = len(features_of(architecture))
        if len(network.features_per_stage) < stages:
            raise ValueError(
                f"features_per_stage must have a number for each of the {stages} stages of the "
                f"plans; got {list(network.features_per_stage)}"
            )
        changes["architecture"] = copy.deepcopy(dict(architecture))
        own = changes["architecture"]["arch_kwargs"]
        own[FEATURES] = list(network.features_per_stage[:stages])
    if network.batch_size is not None:
        changes["batch_size"] = network.batch_size
    return changes
