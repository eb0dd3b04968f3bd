"""A reference that is not the network that was frozen is refused."""

import math

import pytest
from scored_folders import write_run_fold, write_stock_fold, write_summary

from nnunet_iac.analysis.scores.case_scores import read_case_scores
from nnunet_iac.analysis.scores.frozen_backbone import require_frozen
from nnunet_iac.analysis.vocabulary import BASELINES, RANDOM_CELL, TRAINS_BACKBONE
from nnunet_iac.search.controls import OF_KIND, OF_RETENTION, OF_SKIP, OF_TRAINED_PART

STOCK, RUN = "nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainerIACLTH__nnUNetPlans__2d"
BEFORE, AFTER = {"a": 0.5, "b": 0.6}, {"a": 0.7, "b": 0.8}


def _checked(a, b):
    return require_frozen(read_case_scores(a), read_case_scores(b))


@pytest.fixture
def run(tmp_path):
    """A retrofit that froze the weights 1, with the backbone's own scores."""
    return write_run_fold(tmp_path / RUN / "fold_0", AFTER, frozen=1.0, reference=BEFORE)


def test_controls_with_a_rule_of_their_own_have_the_names_that_records_have():
    names = {f"{part}{kept}" for part in OF_TRAINED_PART.values() for kept in OF_RETENTION.values()}
    assert names == TRAINS_BACKBONE.keys()
    assert {*OF_SKIP.values(), *OF_KIND.values()} <= BASELINES.keys()
    assert OF_KIND["random"] == RANDOM_CELL


@pytest.mark.parametrize(
    ("checkpoints", "proof"), [({"final": 1.0, "best": 2.0}, "final"), ({"best": 1.0}, "best")]
)
def test_the_network_that_was_frozen_is_known_by_its_hash(tmp_path, run, checkpoints, proof):
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", BEFORE, **checkpoints)
    said = f"its checkpoint_{proof}.pth has the recorded hash"
    assert _checked(stock, run) == (f"A is the network that B froze: {said}",)
    assert _checked(run, stock) == (f"B is the network that A froze: {said}",)


def test_another_network_is_refused(tmp_path, run):
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", BEFORE, final=2.0, best=3.0)
    message = (
        rf"{STOCK}/fold_0 must be the network that {RUN}/fold_0 froze, frozen\.pth; none of its "
        r"checkpoint_final\.pth and checkpoint_best\.pth has the recorded hash .*"
        r"fold_0/iac/reference, or pass --unrelated"
    )
    with pytest.raises(ValueError, match=message):
        _checked(stock, run)


def test_the_scores_of_another_checkpoint_than_the_frozen_one_are_refused(tmp_path, run):
    # The best checkpoint was frozen, and nnU-Net validated the final one.
    dice = {**BEFORE, "b": 0.65}
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", dice, final=2.0, best=1.0)
    with pytest.raises(ValueError, match=r"as checkpoint_best\.pth, but the Dice of b .* 0\.0500"):
        _checked(stock, run)


def test_the_best_checkpoints_scores_are_accepted_where_they_are_its_own(tmp_path, run):
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", BEFORE, final=2.0, best=1.0)
    assert "its checkpoint_best.pth has the recorded hash" in _checked(stock, run)[0]


def test_the_frozen_network_with_scores_that_are_not_quite_its_own_is_remarked(tmp_path, run):
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", {**BEFORE, "a": 0.49}, final=1.0)
    remarks = _checked(stock, run)
    assert "its checkpoint_final.pth has the recorded hash" in remarks[0]
    assert (
        "A was validated under other circumstances: the Dice of a differs by 0.0100" in remarks[1]
    )


def test_without_checkpoints_the_dice_of_every_case_decides(tmp_path, run):
    near = write_summary(tmp_path / "near", {"a": 0.5005, "b": 0.6})
    assert _checked(near, run)[0].startswith("A is the network that B froze, to judge by the Dice")
    far = write_summary(tmp_path / "far", {"a": 0.502, "b": 0.6})
    with pytest.raises(ValueError, match=r"no checkpoints, and the Dice of a differs by 0\.0020"):
        _checked(far, run)
    lacking = write_summary(tmp_path / "lacking", {"a": math.nan, "b": 0.6})
    with pytest.raises(ValueError, match=r"the Dice of a differs by 1\.0000"):
        _checked(lacking, run)


def test_a_case_without_a_dice_on_either_side_is_the_same(tmp_path):
    known = {"a": 0.5, "b": math.nan}
    run = write_run_fold(tmp_path / "fold_0", AFTER, reference=known)
    stock = write_summary(tmp_path / "stock", known)
    assert "to judge by the Dice" in _checked(stock, run)[0]


def test_without_checkpoints_and_without_known_scores_nothing_can_be_known(tmp_path):
    run = write_run_fold(tmp_path / "fold_0", AFTER)
    stock = write_summary(tmp_path / "predictions", BEFORE)
    with pytest.raises(ValueError, match="record lacks the backbone's own Dice"):
        _checked(stock, run)


def test_the_frozen_networks_own_validation_is_known_by_the_record(run):
    said = ("A and B have one backbone: their records have the same hash",)
    assert _checked(run / "iac" / "reference", run) == said


def test_runs_of_one_frozen_network_are_compared_and_of_two_refused(tmp_path, run):
    same = write_run_fold(tmp_path / "other" / "fold_0", AFTER, frozen=1.0)
    assert len(_checked(run, same)) == 1
    other = write_run_fold(tmp_path / "another" / "fold_0", AFTER, frozen=2.0)
    with pytest.raises(ValueError, match=r"same backbone; .* froze frozen\.pth \(\w{12}\)"):
        _checked(run, other)


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("continued", "the continued backbone"),
        ("continued decoder", "the backbone with a continued decoder"),
        ("continued norms", "the backbone with continued norms"),
        ("continued with L2-SP", "the continued backbone with L2-SP"),
    ],
)
def test_a_control_may_have_changed_what_it_started_from(tmp_path, run, method, what):
    control = write_run_fold(tmp_path / "control" / "fold_0", AFTER, method=method, after="changed")
    assert _checked(control, run) == (
        f"A is a control: {what}",
        "A and B have one backbone: their records have the same hash",
    )
    stock = write_stock_fold(tmp_path / STOCK / "fold_0", BEFORE, final=1.0)
    assert _checked(stock, control)[0] == f"B is a control: {what}"


def test_a_retrofit_whose_backbone_changed_is_refused(tmp_path, run):
    changed = write_run_fold(tmp_path / "changed" / "fold_0", AFTER, after="f" * 64)
    with pytest.raises(ValueError, match=r"that of changed/fold_0, fold_0, .* and f{12} after"):
        _checked(run, changed)


def test_a_retrofit_that_trained_its_backbone_is_compared_with_a_remark(tmp_path, run):
    changed = {"after": "f" * 64, "trained": "decoder"}
    retrofit = write_run_fold(tmp_path / "changed" / "fold_0", AFTER, **changed)
    assert _checked(run, retrofit)[0] == (
        "B trained its backbone with the cells (trainable part: decoder)"
    )


def test_folders_without_any_record_are_not_checked_and_a_remark_states_it(tmp_path):
    folders = [write_summary(tmp_path / name, BEFORE) for name in "ab"]
    assert _checked(*folders)[0].startswith("neither A nor B has the record of a run")


def test_models_are_checked_fold_by_fold(tmp_path):
    for number, case in enumerate("ab"):
        fold = f"fold_{number}"
        write_stock_fold(tmp_path / STOCK / fold, {case: 0.5}, final=float(number))
        write_run_fold(tmp_path / RUN / fold, {case: 0.6}, frozen=float(number))
    assert len(_checked(tmp_path / STOCK, tmp_path / RUN)) == 1
    write_stock_fold(tmp_path / STOCK / "fold_1", {"b": 0.5}, final=7.0)
    with pytest.raises(ValueError, match=r"none of its checkpoint_final\.pth has the recorded"):
        _checked(tmp_path / STOCK, tmp_path / RUN)


def test_models_of_other_folds_are_refused(tmp_path):
    for number in (0, 1):
        write_stock_fold(tmp_path / STOCK / f"fold_{number}", {f"{number}": 0.5}, final=1.0)
        write_run_fold(tmp_path / RUN / f"fold_{number + 1}", {f"{number}": 0.6})
    with pytest.raises(ValueError, match=r"has fold_0, fold_1 and .* fold_1, fold_2"):
        _checked(tmp_path / STOCK, tmp_path / RUN)


def test_one_folder_of_predictions_is_held_against_all_folds(tmp_path):
    for number, case in enumerate("ab"):
        write_run_fold(tmp_path / RUN / f"fold_{number}", {case: 0.6}, reference={case: 0.5})
    pooled = write_summary(tmp_path / "crossval", {"a": 0.5, "b": 0.5})
    assert "to judge by the Dice" in _checked(pooled, tmp_path / RUN)[0]
    pooled = write_summary(tmp_path / "crossval", {"a": 0.5, "b": 0.9})
    with pytest.raises(ValueError, match=r"the Dice of b differs by 0\.4000"):
        _checked(pooled, tmp_path / RUN)
