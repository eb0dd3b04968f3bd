"""Checks of a run's settings and of the plans that have them, before its trainer is made."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_results

from nnunet_iac.host.plans import (
    SECTION,
    configuration_of,
    require_dataset_name,
    require_file_ending,
    require_identifier,
    require_trainable,
)
from nnunet_iac.runs.fold import require_writable
from nnunet_iac.search.settings import ADAPTED_BACKBONE_LR, PRESETS, Settings, present_names
from nnunet_iac.training.loggers import tensorboard_wanted
from nnunet_iac.training.method import Method

PRETRAINED = "-pretrained_weights"
"""nnUNetv2_train's option to start from the weights of another network."""


def checked_settings(
    plans: Mapping[str, Any],
    configuration: str,
    fold: object,
    dataset_json: Mapping[str, Any],
    trainer: str,
    method: Method,
    overrides: Mapping[str, Any],
) -> Settings:
    """Return the settings of a run after checking all that a trainer is made from.

    That is what nnU-Net gives it, the name, method and fixed settings of its class, and nnU-Net's
    folder of results, if it is set.
    """
    config = configuration_of(plans, configuration)
    require_trainable(config)
    _require_no_pretrained_weights(trainer)
    if fold != "all" and (type(fold) is not int or fold < 0):
        raise ValueError(f"the fold must be all or an integer >= 0; got {fold!r}: give another")
    written, _ = present_names(config.get(SECTION, {}))
    settings = with_defaults_of(method, Settings.from_mapping({**written, **overrides}))
    require_usable(method, settings)
    require_identifier(plans.get("plans_name"))
    require_dataset_name(plans.get("dataset_name"))
    require_file_ending(dataset_json.get("file_ending"))
    if nnUNet_results.is_set():
        model = f"{trainer}__{plans['plans_name']}__{configuration}"
        require_writable(Path(f"{nnUNet_results}") / plans["dataset_name"] / model / f"fold_{fold}")
    tensorboard_wanted()
    return settings


def _require_no_pretrained_weights(trainer: str) -> None:
    """Check that nnUNetv2_train is not to load weights, of which it would demand cells as well."""
    # As argparse reads it: the name may be shortened, but -p is another option.
    words = [word.partition("=")[0] for word in sys.argv[1:]]
    if any(len(word) > 2 and PRETRAINED.startswith(word) for word in words):
        raise ValueError(
            f"the backbone of {trainer} is named by a setting and not by {PRETRAINED}, which "
            "nnUNetv2_train was given: leave it out, and train with plans that nnunet-iac plan … "
            "--set backbone_checkpoint=FILE has written"
        )


def with_defaults_of(method: Method, settings: Settings) -> Settings:
    """Return the settings with a method's own values for what they leave open.

    A random cell of the seed is finetuned where they name nothing. With `adapt`, a method without
    a search has the epochs of one with it, and a backbone or decoder a rate of its own.
    """
    own: dict[str, Any] = {}
    given = settings.cell.genotype is not None or settings.cell.skip != "cell"
    if method.retrofits and not method.searches and not given:
        own["genotype"] = f"random:{settings.optimisation.seed}"
    if settings.schedule.preset == "adapt":
        if not method.searches:
            own["finetune_epochs"] = settings.latest_end + settings.schedule.finetune_epochs
        if method.trained_backbone(settings.cell) in ("decoder", "all"):
            own["finetune_lr"] = ADAPTED_BACKBONE_LR
    return settings.replace(**{k: v for k, v in own.items() if k not in settings.written})


def require_usable(method: Method, settings: Settings) -> None:
    """Check that a method can run with valid settings; a search must not be given its result."""
    if method.searches and (settings.cell.genotype, settings.cell.skip) != (None, "cell"):
        raise ValueError(
            "a search finds its cells by itself; the settings have "
            f"genotype={settings.cell.genotype}, skip={settings.cell.skip}: use "
            "nnUNetTrainerIACDiscrete, which does not search, or leave them out"
        )
    if (part := method.trained_part(settings.cell)) not in method.parts:
        what = "a retrofit" if method.retrofits else "nnUNetTrainerContinue"
        raise ValueError(
            f"trainable_part of {what} must be one of {', '.join(method.parts)}; got {part}: "
            "choose another, in plans of its own"
        )
    if method.prunes:
        settings.require_prunable()
    if method.bilevel and settings.schedule.iterations_per_epoch < 2:
        raise ValueError(
            "the full search needs iterations_per_epoch >= 2, one batch for the weights and "
            f"one for the architecture; got {settings.schedule.iterations_per_epoch}: set it to 2 "
            "or more"
        )


def used_settings(method: Method, settings: Settings) -> set[str]:
    """Return the names of the settings that a run of the method uses with these settings."""
    cell, retrofits = settings.cell, method.retrofits
    is_file = settings.data.backbone_checkpoint is not None
    searches, prunes = method.searches, method.prunes
    retention = method.retention(settings.optimisation)
    uses = {
        "finetune_epochs finetune_patience finetune_optimizer finetune_lr finetune_schedule "
        "iterations_per_epoch val_iterations_per_epoch deep_supervision seed deterministic "
        "patient_pattern backbone_checkpoint allow_leakage trainable_part ema_decay": True,
        "backbone_trainer backbone_plans": not is_file,
        "score_source": is_file,
        "retention": not retrofits or retention != "none",
        "retention_weight": retention in ("l2-sp", "ewc", "lwf"),
        "rehearsal_cases": retention == "rehearsal",
        "skip genotype residual activation_checkpointing": retrofits,
        "norm": retrofits and cell.implant != "attention",
        "channel_ratio min_channels partial_channels output_nodes": retrofits
        and cell.implant in ("cell", "convolution"),
        "max_parameter_ratio max_mac_ratio compile_cells": retrofits and cell.implant == "cell",
        "warmup_epochs search_epochs importance edge_transform weights_lr "
        "weights_lr_min annealing_power architecture_lr architecture_betas "
        "architecture_weight_decay": searches,
        "tan_clamp": searches and cell.edge_transform == "tan",
        "patience stability_threshold threshold_growth reset_threshold": prunes,
    }
    used = {name for names, used in uses.items() if used for name in names.split()}
    # A preset sets the stability test, and some of them lengths and rates.
    return used | {"preset"} if prunes or used & set(PRESETS[settings.schedule.preset]) else used
