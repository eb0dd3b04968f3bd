import dataclasses
import json
import math
import re

import pytest

from nnunet_iac.search.setting_parts import STRUCTURAL, StabilityTest
from nnunet_iac.search.settings import REMOVED, RENAMED, Settings, keys, parse_assignment

DEFAULTS = {
    "preset": "literal",
    "warmup_epochs": 15,
    "search_epochs": 200,
    "finetune_epochs": 200,
    "iterations_per_epoch": 250,
    "val_iterations_per_epoch": 50,
    "patience": 1,
    "stability_threshold": 1.0,
    "threshold_growth": 2.0,
    "reset_threshold": False,
    "importance": "softmax",
    "edge_transform": "tanh",
    "tan_clamp": 1.5,
    "channel_ratio": 0.25,
    "min_channels": 16,
    "partial_channels": 4,
    "output_nodes": 4,
    "max_parameter_ratio": None,
    "max_mac_ratio": None,
    "skip": "cell",
    "norm": "plans",
    "residual": "zero",
    "activation_checkpointing": False,
    "weights_lr": 0.01,
    "weights_lr_min": 1e-4,
    "annealing_power": 2.0,
    "architecture_lr": 1e-3,
    "architecture_betas": [0.9, 0.999],
    "architecture_weight_decay": 0.0,
    "finetune_patience": None,
    "finetune_optimizer": "adam",
    "finetune_lr": 1e-3,
    "finetune_schedule": "poly",
    "ema_decay": 0.0,
    "retention": "none",
    "retention_weight": 0.1,
    "rehearsal_cases": 10,
    "trainable_part": None,
    "deep_supervision": True,
    "compile_cells": False,
    "seed": 0,
    "deterministic": True,
    "patient_pattern": None,
    "backbone_trainer": None,
    "backbone_plans": None,
    "backbone_checkpoint": None,
    "genotype": None,
    "allow_leakage": False,
    "score_source": True,
}
"""Section 9 of the method."""

OTHERS = {
    "preset": "adaptive",
    "warmup_epochs": 0,
    "search_epochs": 16,
    "finetune_epochs": 0,
    "iterations_per_epoch": 1,
    "val_iterations_per_epoch": 1,
    "patience": 2,
    "stability_threshold": 1e-5,
    "threshold_growth": 1.5,
    "reset_threshold": True,
    "importance": "raw-strict",
    "edge_transform": "tan",
    "tan_clamp": 1.57,
    "channel_ratio": 1.0,
    "min_channels": 4,
    "partial_channels": 1,
    "output_nodes": 1,
    "max_parameter_ratio": 0.05,
    "max_mac_ratio": 0.1,
    "skip": "nested",
    "norm": "batch",
    "residual": "none",
    "activation_checkpointing": True,
    "weights_lr": 0.1,
    "weights_lr_min": 0.0,
    "annealing_power": 1.0,
    "architecture_lr": 0.5,
    "architecture_betas": [0.0, 0.5],
    "architecture_weight_decay": 0.1,
    "finetune_patience": 1,
    "finetune_optimizer": "sgd",
    "finetune_lr": 1e-5,
    "finetune_schedule": "constant",
    "ema_decay": 0.999,
    "retention": "ewc",
    "retention_weight": 100.0,
    "rehearsal_cases": 1,
    "trainable_part": "decoder",
    "deep_supervision": False,
    "compile_cells": True,
    "seed": 7,
    "deterministic": False,
    "patient_pattern": r"^p\d+",
    "backbone_trainer": "nnUNetTrainer",
    "backbone_plans": "nnUNetPlans",
    "backbone_checkpoint": "fold_{fold}/checkpoint_best.pth",
    "genotype": "genotype.json",
    "allow_leakage": True,
    "score_source": False,
}
"""Another allowed value for every setting, at the end of its range where it has one."""

IMPOSSIBLE = {
    "preset": ["papers", 1, None],
    "warmup_epochs": [-1, 1.0, "15", True, None],
    "search_epochs": [0, 1.5, None],
    "finetune_epochs": [-1, "200"],
    "iterations_per_epoch": [0, 250.0],
    "val_iterations_per_epoch": [0, [50]],
    "patience": [0, 1.0, "1"],
    "stability_threshold": [0, -1.0, math.nan, math.inf, "1", True],
    "threshold_growth": [0.5, math.nan, "2"],
    "reset_threshold": [0, 1, "true"],
    "importance": ["Softmax", 0],
    "edge_transform": ["atan", None],
    "tan_clamp": [0, 1.571, -1.5, None],
    "channel_ratio": [0, 1.01, "1/4"],
    "min_channels": [0, 16.0],
    "partial_channels": [0, -4, 4.0],
    "output_nodes": [0, 5, "4"],
    "max_parameter_ratio": [0, -0.1, "5%", math.nan],
    "max_mac_ratio": [0, -0.1, "5%", math.inf],
    "skip": ["gate", None],
    "norm": ["instance", None],
    "residual": ["rezero", False],
    "activation_checkpointing": [1, "yes", None],
    "weights_lr": [0, -0.1, math.nan, None],
    "weights_lr_min": [-1e-4, "0"],
    "annealing_power": [0.99, None],
    "architecture_lr": [0, -1, math.inf],
    "architecture_betas": [(0.9,), (0.9, 1.0), (-0.1, 0.9), 0.9, [0.9, "0.999"], None],
    "architecture_weight_decay": [-0.1, None],
    "finetune_patience": [0, 1.0, "2"],
    "finetune_optimizer": ["adamw", None],
    "finetune_lr": [0, math.nan],
    "finetune_schedule": ["cosine", None],
    "ema_decay": [-0.1, 1, "0.9", None],
    "retention": ["l2", None],
    "retention_weight": [0, math.nan],
    "rehearsal_cases": [0, 1.5],
    "trainable_part": ["encoder", "none", True, ["all"]],
    "deep_supervision": [0, "off", None],
    "compile_cells": [1, "yes", None],
    "deterministic": [1, "yes", None],
    "seed": [-1, 0.0, None, "0"],
    "patient_pattern": ["(", 3, ""],
    "backbone_trainer": [3, ""],
    "backbone_plans": [3, ""],
    "backbone_checkpoint": [3, ""],
    "genotype": [3, "", "random:x", "conv:"],
    "allow_leakage": [0, "false", None],
    "score_source": [0, "false", None],
}

KEYS = list(keys())
BAD_VALUES = [(key, value) for key, values in IMPOSSIBLE.items() for value in values]


def test_every_setting_of_the_method_exists_with_its_default():
    assert Settings().to_mapping() == DEFAULTS


def test_the_tables_of_this_file_know_every_setting():
    assert set(OTHERS) == set(IMPOSSIBLE) == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_takes_another_value_and_keeps_it_through_json(key):
    settings = Settings.from_mapping({key: OTHERS[key]})
    document = json.loads(json.dumps(settings.to_mapping(), allow_nan=False))
    assert document[key] != DEFAULTS[key]
    assert document[key] == OTHERS[key]
    assert Settings.from_mapping(document) == settings


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_an_impossible_value_is_refused_by_name(key, value):
    shown = re.escape(repr(value))
    with pytest.raises(ValueError, match=f"^setting '{key}' must be .+; got {shown}"):
        Settings.from_mapping({key: value})


def test_integers_become_floats_and_lists_become_tuples():
    settings = Settings(stability_threshold=1, architecture_betas=[0, 0.5])
    assert (
        settings.stability.stability_threshold,
        type(settings.stability.stability_threshold),
    ) == (1.0, float)
    assert settings.optimisation.architecture_betas == (0.0, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_channels": 4, "partial_channels": 8}, "min_channels=4, partial_channels=8"),
        ({"weights_lr": 1e-5}, "weights_lr_min=0.0001, weights_lr=1e-05"),
        ({"search_epochs": 15}, "search_epochs=15, warmup_epochs=15"),
    ],
)
def test_values_that_exclude_each_other_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_an_unknown_setting_is_refused_with_the_closest_known_one():
    with pytest.raises(ValueError, match="'warm_up_epochs'; did you mean 'warmup_epochs'"):
        Settings.from_mapping({"warm_up_epochs": 3})


def test_an_unknown_setting_like_no_other_is_refused_with_all_that_exist():
    with pytest.raises(ValueError, match=r"'xyz'; allowed are preset, warmup_epochs, .*leakage$"):
        Settings.from_mapping({"xyz": 3})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        Settings().seed = 1


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "literal",
            StabilityTest(
                patience=1,
                stability_threshold=1.0,
                threshold_growth=2.0,
                reset_threshold=False,
            ),
        ),
        (
            "paper",
            StabilityTest(
                patience=6,
                stability_threshold=1.0,
                threshold_growth=2.0,
                reset_threshold=False,
            ),
        ),
        # 3e-4 (1e-3 x 250)^2 = 3e-4 / 16
        (
            "adaptive",
            StabilityTest(
                patience=1,
                stability_threshold=1.875e-5,
                threshold_growth=2.0,
                reset_threshold=True,
            ),
        ),
    ],
)
def test_a_preset_decides_the_stability_test(preset, expected):
    found, wanted = vars(Settings(preset=preset).stability), vars(expected)
    assert found == {**wanted, "stability_threshold": pytest.approx(expected.stability_threshold)}


@pytest.mark.parametrize(("lr", "iterations"), [(3e-4, 250), (1e-3, 20), (2e-3, 1000)])
def test_the_adaptive_threshold_follows_the_reach_of_alpha_in_an_epoch(lr, iterations):
    settings = Settings(preset="adaptive", architecture_lr=lr, iterations_per_epoch=iterations)
    assert settings.stability.stability_threshold == pytest.approx(3e-4 * (lr * iterations) ** 2)


@pytest.mark.parametrize("preset", ["literal", "paper", "adaptive", "swift"])
def test_a_setting_goes_before_its_preset(preset):
    settings = Settings(
        preset=preset,
        patience=3,
        stability_threshold=0.2,
        threshold_growth=4,
        reset_threshold=False,
    )
    assert settings.stability == StabilityTest(
        patience=3, stability_threshold=0.2, threshold_growth=4.0, reset_threshold=False
    )
    assert (
        Settings(preset=preset, threshold_growth=9).stability.stability_threshold
        == Settings(preset=preset).stability.stability_threshold
    )


@pytest.mark.parametrize("preset", ["literal", "paper", "adaptive", "swift"])
def test_a_mapping_spells_out_what_the_preset_decided(preset):
    settings = Settings(preset=preset)
    values = settings.to_mapping()
    assert StabilityTest(**{key: values[key] for key in vars(settings.stability)}) == (
        settings.stability
    )
    assert settings.written == {"preset": preset}


def test_a_changed_preset_decides_anew_and_written_values_stay():
    settings = Settings(preset="paper", threshold_growth=4.0).replace(preset="swift")
    assert settings.stability.patience == 1
    assert settings.stability.threshold_growth == 4.0
    assert settings.schedule.warmup_epochs == 3


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_still_works_and_is_logged_as_deprecated(old, new):
    settings = Settings.from_mapping({old: OTHERS[new]})
    assert settings.to_mapping()[new] == OTHERS[new]
    assert settings.written == {new: OTHERS[new]}
    assert settings.deprecations == (f"the setting {old} is deprecated: write {new}",)
    assert parse_assignment(f"{old}={json.dumps(OTHERS[new]).strip(chr(34))}")[0] == old


def test_tuned_norms_are_a_trainable_part_by_an_old_name():
    settings = Settings.from_mapping({"decoder_norms": "tuned"})
    assert settings.written == {"trainable_part": "cells+norms"}
    assert settings.cell.structure["decoder_norms"] == "tuned"
    note = "the setting decoder_norms is deprecated: write trainable_part=cells+norms"
    assert settings.deprecations == (note,)
    assert parse_assignment("decoder_norms=tuned") == ("decoder_norms", "tuned")


def test_frozen_norms_have_no_effect_any_more():
    settings = Settings.from_mapping({"decoder_norms": "frozen"})
    assert settings == Settings()
    assert settings.deprecations == (
        "the setting decoder_norms has no effect any more: leave it out",
    )


@pytest.mark.parametrize(
    ("norms", "part", "meant"),
    [
        ("frozen", "network", None),
        ("tuned", "network", "cells+norms"),
        ("frozen", "decoder", "decoder"),
    ],
)
def test_a_record_of_an_earlier_release_has_both_and_means_what_it_did(norms, part, meant):
    earlier = {"decoder_norms": norms, "trained_on": part}
    assert Settings.from_mapping(earlier).cell.trainable_part == meant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_norms": "thawed"}, "'decoder_norms' must be one of frozen, tuned; got 'thawed'"),
        ({"decoder_norms": ["tuned"]}, r"must be one of frozen, tuned; got \['tuned'\]"),
        (
            {"decoder_norms": "tuned", "trainable_part": "all"},
            "the old form of trainable_part=cells.norms; got trainable_part=all as well: leave one",
        ),
    ],
)
def test_an_old_setting_of_norms_that_cannot_be_read_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


@pytest.mark.parametrize(
    ("part", "backbone"),
    [(None, "none"), ("cells+norms", "none"), ("cells+decoder", "decoder"), ("all", "all")],
)
def test_a_trainable_part_decides_what_a_retrofit_trains_of_its_backbone(part, backbone):
    cell = Settings(trainable_part=part).cell
    assert cell.network_arguments()["trained_backbone"] == backbone


def test_an_old_name_beside_its_new_one_is_refused():
    with pytest.raises(ValueError, match="theta is the old name of stability_threshold; got both"):
        Settings(theta=1.0, stability_threshold=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pruning_score", "importance"),
        ("stability_test", "js"),
        ("beta_decay", 0),
        ("held_back", 0.2),
        ("score_batches", 4),
    ],
)
def test_a_removed_setting_without_effect_is_left_out(key, value):
    settings = Settings.from_mapping({key: value})
    assert settings == Settings()
    assert key not in settings.to_mapping()
    assert settings.deprecations == (f"the setting {key} has no effect any more: leave it out",)


def test_the_value_of_a_removed_setting_is_that_of_plans_on_the_command_line():
    assert parse_assignment("beta_decay=0.0") == ("beta_decay", 0.0)
    assert parse_assignment("pruning_score=importance") == ("pruning_score", "importance")
    assert parse_assignment("max_identity=null") == ("max_identity", None)


@pytest.mark.parametrize(
    ("key", "value"), [("pruning_score", "perturbation"), ("beta_decay", 50.0), ("max_identity", 2)]
)
def test_a_removed_setting_that_would_have_an_effect_is_refused(key, value):
    with pytest.raises(ValueError, match=f"{key}={value!r} was removed"):
        Settings(**{key: value})


def test_a_former_schedule_is_a_threshold_that_no_divergence_reaches():
    settings = Settings(preset="adaptive", stability_test="schedule", stability_threshold=0.1)
    assert settings.stability.stability_threshold == 1.0
    assert not settings.can_wait
    assert "write stability_threshold=1.0" in settings.deprecations[0]


def test_the_tests_above_know_every_removed_setting():
    known = {"pruning_score", "stability_test", "beta_decay", "max_identity"}
    assert set(REMOVED) == known | {"held_back", "score_batches"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"preset": "paper", "search_epochs": 51},
        {"preset": "literal", "search_epochs": 21},
        {"patience": 30},
    ],
)
def test_a_search_with_time_for_six_prunes_is_prunable(values):
    Settings(**values).require_prunable()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"preset": "paper", "search_epochs": 50},
            "at least 36 epochs .* leaves 35: set search_epochs to 51",
        ),
        ({"preset": "literal", "search_epochs": 20}, "at least 6 epochs .* leaves 5: .* to 21 or"),
        ({"patience": 31}, "at least 186 epochs .* leaves 185: set search_epochs to 201"),
    ],
)
def test_a_search_too_short_for_six_prunes_is_refused_with_the_length_it_needs(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values).require_prunable()


def test_structural_settings_exist():
    derived = {"implant", "decoder_norms"}  # From skip and genotype, and from trainable_part.
    assert set(STRUCTURAL) - derived <= set(KEYS)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=3", ("seed", 3)),
        ("stability_threshold=1", ("stability_threshold", 1.0)),
        ("stability_threshold=1e-5", ("stability_threshold", 1e-5)),
        ("stability_threshold=null", ("stability_threshold", None)),
        ("reset_threshold=True", ("reset_threshold", True)),
        ("allow_leakage=false", ("allow_leakage", False)),
        ("patience=None", ("patience", None)),
        ("architecture_betas=[0.5, 0.9]", ("architecture_betas", (0.5, 0.9))),
        ("preset=literal", ("preset", "literal")),
        ("genotype=null", ("genotype", None)),
        ("genotype=7", ("genotype", "7")),
        ("patient_pattern=^a=b", ("patient_pattern", "^a=b")),
    ],
)
def test_an_assignment_is_read_as_the_type_of_its_setting(assignment, expected):
    key, value = parse_assignment(assignment)
    assert (key, value, type(value)) == (*expected, type(expected[1]))
    assert Settings(**{key: value}).written == {key: value}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "form key=value; got 'seed'"),
        ("sed=3", "unknown setting 'sed'; did you mean 'seed'"),
        ("seed=three", r"setting 'seed' must be an integer; got 'three' \(str\)"),
        ("seed=3.0", r"setting 'seed' must be an integer; got 3\.0 \(float\)"),
        (
            "stability_threshold=NaN",
            r"setting 'stability_threshold' must be a finite number; got nan",
        ),
        ("allow_leakage=yes", "setting 'allow_leakage' must be true or false; got 'yes'"),
        ("architecture_betas=0.9", "'architecture_betas' must be a list of two numbers; got 0.9"),
    ],
)
def test_an_assignment_that_cannot_be_read_is_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        parse_assignment(assignment)


@pytest.mark.parametrize("values", [{"skip": "nested"}, {"genotype": "conv"}])
def test_a_budget_for_cells_is_refused_where_there_are_none(values):
    with pytest.raises(ValueError, match=r"implant none but .*; got 0.1 and None: leave"):
        Settings(**values, max_parameter_ratio=0.1)


def test_the_swift_preset_brings_a_short_warmup_unless_one_is_given():
    assert Settings.from_mapping({"preset": "swift"}).schedule.warmup_epochs == 3
    assert (
        Settings.from_mapping({"preset": "swift", "warmup_epochs": 5}).schedule.warmup_epochs == 5
    )
    assert Settings.from_mapping({"preset": "literal"}).schedule.warmup_epochs == 15


def test_the_swift_preset_prunes_as_literal_does():
    assert Settings(preset="swift").stability == Settings(preset="literal").stability
