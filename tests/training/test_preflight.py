"""The checks before long work, and what is logged of settings that a run does not use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_iac.search.settings import Settings, keys
from nnunet_iac.training import preflight, trainers
from nnunet_iac.training.method import IAC, IAC_DISCRETE, IAC_LTH
from nnunet_iac.training.preflight import Preflight
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer
from nnunet_iac.training.setting_checks import require_usable, with_defaults_of

OTHER: dict[str, Any] = {
    "preset": "paper",
    "warmup_epochs": 4,
    "search_epochs": 100,
    "finetune_epochs": 7,
    "iterations_per_epoch": 9,
    "val_iterations_per_epoch": 9,
    "patience": 3,
    "stability_threshold": 0.5,
    "threshold_growth": 3.0,
    "reset_threshold": True,
    "importance": "raw",
    "edge_transform": "tan",
    "tan_clamp": 1.0,
    "channel_ratio": 0.5,
    "min_channels": 8,
    "partial_channels": 2,
    "output_nodes": 2,
    "max_parameter_ratio": 9.0,
    "max_mac_ratio": 9.0,
    "skip": "attention",
    "norm": "batch",
    "residual": "none",
    "activation_checkpointing": True,
    "weights_lr": 0.02,
    "weights_lr_min": 1e-5,
    "annealing_power": 3.0,
    "architecture_lr": 0.1,
    "architecture_betas": [0.5, 0.9],
    "architecture_weight_decay": 0.1,
    "finetune_patience": 3,
    "finetune_optimizer": "sgd",
    "finetune_lr": 0.1,
    "finetune_schedule": "constant",
    "ema_decay": 0.9,
    "retention": "l2-sp",
    "retention_weight": 0.5,
    "rehearsal_cases": 2,
    "trainable_part": "decoder",
    "deep_supervision": False,
    "compile_cells": True,
    "seed": 1,
    "deterministic": False,
    "patient_pattern": "x",
    "backbone_trainer": "Other",
    "backbone_plans": "other",
    "backbone_checkpoint": "other.pth",
    "genotype": "identity",
    "allow_leakage": True,
    "score_source": False,
}
"""Another value than the default of every setting."""

ALWAYS = {
    *("finetune_epochs", "finetune_patience"),
    *("iterations_per_epoch", "val_iterations_per_epoch", "finetune_optimizer"),
    *("finetune_lr", "finetune_schedule", "deep_supervision", "seed", "deterministic"),
    *("patient_pattern", "backbone_trainer", "backbone_plans", "backbone_checkpoint"),
    *("allow_leakage", "trainable_part", "ema_decay"),
}
RETROFIT = {"norm", "residual", "activation_checkpointing", "skip", "genotype"}
CELL = {"channel_ratio", "min_channels", "partial_channels", "output_nodes"}
CELLS_ALONE = {"max_parameter_ratio", "max_mac_ratio", "compile_cells"}
SEARCH = {
    *("warmup_epochs", "search_epochs", "importance", "edge_transform"),
    *("weights_lr", "weights_lr_min", "annealing_power", "architecture_lr", "architecture_betas"),
    "architecture_weight_decay",
}
PRUNING = {
    "preset",
    "patience",
    "stability_threshold",
    "threshold_growth",
    "reset_threshold",
}

ALL = [
    value
    for value in vars(trainers).values()
    if isinstance(value, type) and issubclass(value, RetrofitTrainer)
    if value is not RetrofitTrainer
]


def _used_by(trainer: type[RetrofitTrainer], given: dict[str, Any]) -> set[str]:
    if trainer.method is IAC_LTH:
        return ALWAYS | RETROFIT | CELL | CELLS_ALONE | SEARCH | PRUNING
    if trainer.method is IAC:
        return ALWAYS | RETROFIT | CELL | CELLS_ALONE | SEARCH
    if trainer.method is IAC_DISCRETE:
        cell = set() if "skip" in given else CELL | CELLS_ALONE
        return ALWAYS | RETROFIT | cell
    return ALWAYS | {"retention"}


def _preflight(
    trainer: type[RetrofitTrainer], section: dict[str, Any], folder: Path = Path(), fold: Any = 0
) -> tuple[Preflight, list[str]]:
    """Return the checks of a run under plans with a section of settings, and what they log."""
    log: list[str] = []
    plans = {
        "plans_name": "Mine",
        "dataset_name": "Dataset004_Hippocampus",
        "configurations": {"2d": {"iac": section}},
    }
    settings = Settings.from_mapping({**section, **trainer.overrides})
    chosen = (settings, trainer.method, trainer.sibling_trainer, plans, "2d", fold)
    return Preflight(*chosen, folder / "data" / "2d", folder / f"fold_{fold}", log.append), log


def _warnings(trainer: type[RetrofitTrainer], device: str = "cuda", **section: Any) -> list[str]:
    checks, log = _preflight(trainer, section)
    checks.log_ignored(trainer.__name__, trainer.overrides, torch.device(device))
    return log


@pytest.mark.parametrize(
    ("trainer", "section", "rate", "epochs"),
    [
        (trainers.nnUNetTrainerIACLTH, {}, 1e-3, 8),
        (trainers.nnUNetTrainerIACLTH, {"trainable_part": "cells+norms"}, 1e-3, 8),
        (trainers.nnUNetTrainerIACDiscrete, {"trainable_part": "all"}, 3e-4, 16),
        (trainers.nnUNetTrainerIACDiscrete, {}, 1e-3, 16),
        (trainers.nnUNetTrainerContinue, {}, 3e-4, 16),
        (trainers.nnUNetTrainerContinue, {"retention": "l2-sp"}, 3e-4, 16),
        (trainers.nnUNetTrainerContinue, {"trainable_part": "decoder"}, 3e-4, 16),
        (trainers.nnUNetTrainerContinue, {"trainable_part": "norms"}, 1e-3, 16),
        (trainers.nnUNetTrainerContinue, {"finetune_lr": 1e-3, "finetune_epochs": 4}, 1e-3, 4),
    ],
)
def test_what_trains_the_backbone_is_adapted_at_a_rate_of_its_own(
    trainer: type[RetrofitTrainer], section: dict[str, Any], rate: float, epochs: int
) -> None:
    given = Settings.from_mapping({"preset": "adapt", **section})
    settings = with_defaults_of(trainer.method, given)
    assert settings.optimisation.finetune_lr == rate
    assert settings.schedule.finetune_epochs == epochs
    own = Settings.from_mapping(section)
    assert with_defaults_of(trainer.method, own).optimisation == own.optimisation


def test_every_setting_has_another_value_here() -> None:
    assert set(keys()) == set(OTHER)


@pytest.mark.parametrize("trainer", ALL, ids=lambda trainer: trainer.__name__)
def test_every_written_setting_that_a_trainer_does_not_use_is_named(
    trainer: type[RetrofitTrainer],
) -> None:
    for key, value in OTHER.items():
        needed = {"genotype": "random:0"} if trainer.method is IAC_DISCRETE else {}
        section = {**({} if key == "skip" else needed), key: value}
        named = [line for line in _warnings(trainer, **section) if f" {key}=" in line]
        if key not in _used_by(trainer, section):
            assert named == [
                f"WARNING: {key}={value} is ignored; {trainer.__name__} does not use it"
            ]
        elif key in trainer.overrides:
            assert "fixes it at" in named[0]
        else:
            assert named == []


@pytest.mark.parametrize("trainer", ALL, ids=lambda trainer: trainer.__name__)
def test_no_warning_is_of_a_value_that_no_user_set(trainer: type[RetrofitTrainer]) -> None:
    needed = {"genotype": "random:0"} if trainer.method is IAC_DISCRETE else {}
    assert _warnings(trainer, **needed) == []
    decided_by_presets = dict.fromkeys(("patience", "stability_threshold"))
    assert _warnings(trainer, **needed, **decided_by_presets) == []


@pytest.mark.parametrize(
    ("trainer", "section", "named"),
    [
        (trainers.nnUNetTrainerIACDiscrete, {"skip": "nested", "channel_ratio": 0.5}, "channel"),
        (trainers.nnUNetTrainerIACDiscrete, {"genotype": "conv", "min_channels": 8}, None),
        (trainers.nnUNetTrainerIACLTH, {"edge_transform": "tan", "tan_clamp": 1.0}, None),
        (trainers.nnUNetTrainerIAC, {"preset": "swift"}, None),
        (trainers.nnUNetTrainerContinue, {"retention": "ewc", "retention_weight": 2.0}, None),
        (trainers.nnUNetTrainerContinue, {"retention": "rehearsal", "rehearsal_cases": 2}, None),
        (trainers.nnUNetTrainerContinue, {"retention": "lwf", "rehearsal_cases": 2}, "rehearsal"),
        (trainers.nnUNetTrainerIACLTH, {"retention": "rehearsal", "rehearsal_cases": 2}, None),
        (trainers.nnUNetTrainerIAC, {"retention": "rehearsal"}, "retention"),
        (trainers.nnUNetTrainerIACDiscrete, {"retention": "lwf", "retention_weight": 2.0}, None),
        (trainers.nnUNetTrainerIACLTH, {"retention": "lwf"}, "retention"),
        (trainers.nnUNetTrainerIAC, {"stability_threshold": None, "patience": None}, None),
        (trainers.nnUNetTrainerIACDiscrete, {"skip": "attention", "norm": "batch"}, "norm"),
        (trainers.nnUNetTrainerIACDiscrete, {"skip": "nested", "norm": "batch"}, None),
        (trainers.nnUNetTrainerIACLTH, {"score_source": False}, "score_source"),
        (
            trainers.nnUNetTrainerIACLTH,
            {"backbone_checkpoint": "model.pth", "score_source": False},
            None,
        ),
        (
            trainers.nnUNetTrainerContinue,
            {"backbone_checkpoint": "model.pth", "backbone_plans": "other"},
            "backbone_plans",
        ),
    ],
)
def test_whether_a_setting_is_used_may_depend_on_others(
    trainer: type[RetrofitTrainer], section: dict[str, Any], named: str | None
) -> None:
    lines = _warnings(trainer, **section)
    assert [line.split(" ")[1].startswith(str(named)) for line in lines] == [True] * bool(named)


def test_a_trainer_logs_an_old_name_of_a_setting_and_uses_its_value() -> None:
    checks, log = _preflight(trainers.nnUNetTrainerIACLTH, {"theta": 0.5})
    checks.log_ignored("T", {}, torch.device("cpu"))
    assert log == ["WARNING: the setting theta is deprecated: write stability_threshold"]
    assert checks.settings.stability.stability_threshold == 0.5


def test_compiling_is_declined_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_compile", "true")
    (line,) = _warnings(trainers.nnUNetTrainerIACLTH)
    assert line == "WARNING: nnUNet_compile is ignored; the U-Net is not compiled for training"


def test_cells_that_are_to_be_compiled_on_a_cpu_are_not_with_a_warning() -> None:
    trainer = trainers.nnUNetTrainerIACLTH
    (line,) = _warnings(trainer, "cpu", compile_cells=True)
    assert line.startswith(
        "WARNING: compile_cells=True is ignored; cells are compiled on CUDA only"
    )
    assert _warnings(trainer, "cuda", compile_cells=True) == []


@pytest.mark.parametrize(
    ("trainer", "settings", "message"),
    [
        (trainers.nnUNetTrainerIAC, {"iterations_per_epoch": 1}, r">= 2.*got 1"),
        (trainers.nnUNetTrainerIACLTH, {"search_epochs": 20}, "to 21 or more"),
        (trainers.nnUNetTrainerIACLTH, {"genotype": "identity"}, "use nnUNetTrainerIACDiscrete"),
        (trainers.nnUNetTrainerIAC, {"skip": "nested"}, "use nnUNetTrainerIACDiscrete"),
        (
            trainers.nnUNetTrainerIACLTH,
            {"trainable_part": "decoder"},
            r"of a retrofit must be one of cells, cells\+norms, cells\+decoder, all; got decoder",
        ),
        (
            trainers.nnUNetTrainerContinue,
            {"trainable_part": "cells+decoder"},
            r"of nnUNetTrainerContinue must be one of network, decoder, norms; got cells\+decoder",
        ),
    ],
)
def test_settings_with_which_a_method_cannot_run_are_refused(
    trainer: type[RetrofitTrainer], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        require_usable(trainer.method, Settings(**settings))


def test_missing_data_are_an_error_with_the_command_that_makes_them(tmp_path: Path) -> None:
    checks, _ = _preflight(trainers.nnUNetTrainerIACLTH, {}, tmp_path)
    (tmp_path / "data" / "2d").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="nnUNetv2_preprocess -d 4 -plans_name Mine -c 2d"):
        checks.preprocessed_cases()


def test_a_patient_on_both_sides_of_a_split_is_refused_unless_that_is_asked_for(
    tmp_path: Path,
) -> None:
    sides = (["a_1", "b_1"], ["a_2"])
    section: dict[str, Any] = {"patient_pattern": "^[a-z]"}
    cases = ["a_1", "a_2", "b_1", "c_1", "d_1"]
    for extra, fold in (({"allow_leakage": True}, 0), ({}, "all")):
        checks, _ = _preflight(trainers.nnUNetTrainerIAC, section | extra, tmp_path, fold)
        assert checks.split(cases, lambda: sides) == sides
    checks, _ = _preflight(trainers.nnUNetTrainerIAC, section, tmp_path)
    with pytest.raises(ValueError, match="fold 0 has a on both"):
        checks.split(cases, lambda: sides)


def test_a_fold_that_nnunet_cannot_split_is_refused(tmp_path: Path) -> None:
    checks, _ = _preflight(trainers.nnUNetTrainerIAC, {}, tmp_path)
    with pytest.raises(ValueError, match="needs 5 cases to split them for fold 0, and 1 is prep"):
        checks.split(["a"], lambda: (["a"], []))


def test_all_cases_have_an_order_of_their_own(tmp_path: Path) -> None:
    checks, _ = _preflight(trainers.nnUNetTrainerIAC, {}, tmp_path)
    checks = replace(checks, number="all")
    assert checks.split("abc", lambda: (["b", "a"], ["b", "a"])) == (["a", "b"], ["a", "b"])


def test_a_fold_without_validation_cases_is_scored_on_its_training_cases(tmp_path: Path) -> None:
    checks, log = _preflight(trainers.nnUNetTrainerIAC, {}, tmp_path)
    assert checks.split("abcde", lambda: (["a", "b"], [])) == (["a", "b"], ["a", "b"])
    assert log[0].startswith("WARNING: fold 0 has no validation cases")


@pytest.mark.parametrize(("decay", "copies"), [(0.0, 2), (0.9, 3)])
def test_the_disk_must_have_room_for_four_checkpoints_with_their_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: float, copies: int
) -> None:
    wanted: list[Any] = []
    monkeypatch.setattr(preflight, "require_space", lambda *given: wanted.append(given))
    checks, _ = _preflight(trainers.nnUNetTrainerContinue, {"ema_decay": decay}, tmp_path)
    checks.fold.mkdir()
    (checks.fold / "checkpoint_best.pth").write_bytes(bytes(10))
    network = nn.Linear(3, 1)  # Four numbers of four bytes, of which three learn.
    network.bias.requires_grad_(False)
    (checks.fold / "checkpoint_latest.pth").hardlink_to(checks.fold / "checkpoint_best.pth")
    for resumes in (True, False):  # Those of an earlier run are kept.
        checks.require_space(network, resumes)
    whole = 4 * (16 + copies * 12)
    assert wanted == [(checks.fold, whole - 10), (checks.fold, whole)]
