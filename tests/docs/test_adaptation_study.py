"""The study of adaptation: who is drawn, what the simulated scanner changes, and its page."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import ModuleType

import numpy as np
import pytest
import SimpleITK

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.settings import ADAPTED_BACKBONE_LR, Settings
from nnunet_iac.training import backbone_trainers
from nnunet_iac.workflow.study_file import study_of

FOLDER = Path(__file__).parents[2] / "docs" / "evidence" / "adaptation"
DATA = Path(__file__).parents[2] / "nnunet_iac" / "data" / "Dataset004_Hippocampus"

Script = Callable[[str], ModuleType]
"""Loads a script by its place in docs."""


def test_nobody_of_the_test_is_drawn_or_chooses_a_learning_rate(script: Script) -> None:
    studies = script("evidence/adaptation/studies")
    pool, test = [f"pool_{i}" for i in range(12)], ["test_0", "test_1"]
    found = studies.folds(pool, test)
    measured, for_rates = found[: -studies.DRAWS_FOR_RATES], found[-studies.DRAWS_FOR_RATES :]
    sizes = [len(fold["train"]) for fold in measured]
    assert sizes == [k for k in studies.CASES for _ in range(studies.DRAWS)]
    assert all(fold["val"] == test and {*fold["train"]} <= {*pool} for fold in measured)
    for fold in for_rates:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(pool)
    drawn = [tuple(fold["train"]) for fold in found]
    assert len({*drawn}) == len(drawn)
    assert studies.folds(pool, test) == found


def test_the_methods_are_trained_for_equally_many_batches(script: Script) -> None:
    methods = script("evidence/adaptation/studies").Pair("hippocampus").methods()
    assert not any("finetune_epochs" in method["settings"] for method in methods.values())
    schedule = Settings(preset="adapt").schedule
    longest = Settings(preset="adapt").latest_end + schedule.finetune_epochs
    trainer = script("evidence/adaptation/studies").FROM_SCRATCH
    changes = getattr(backbone_trainers, trainer).changes
    batches = changes["num_epochs"] * changes["num_iterations_per_epoch"]
    assert batches == longest * schedule.iterations_per_epoch
    assert {*methods} == {*script("evidence/adaptation/page").NAMES}


@pytest.mark.parametrize("pair", ["heart", "hippocampus"])
def test_every_planned_study_is_valid(
    pair: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(folder, str(tmp_path))
    planned = script("evidence/adaptation/studies").Pair(pair).studies()
    for name, document in planned.items():
        assert study_of(document).name == f"adaptation-{pair}-{name}"


def test_defaults_have_the_rates_that_are_best_on_the_pool_of_the_real_site(
    script: Script,
) -> None:
    studies = script("evidence/adaptation/studies")
    methods = studies.Pair("heart").methods()
    assert methods["random"]["settings"]["finetune_lr"] == studies.PROPOSED_LR
    assert "proposed" not in methods  # It would be the same.
    pools = [
        studies.pool_dice(read_json(FOLDER / f"{pair}-rates.json")) for pair in studies.TARGETS
    ]
    mean = {r: fmean(p[studies.named("random", r)] for p in pools) for r in studies.RATES["random"]}
    assert methods["random-mean"]["settings"]["finetune_lr"] == max(mean, key=mean.__getitem__)
    methods = studies.Pair("hippocampus").methods()
    assert "finetune_lr" not in methods["proposed"]["settings"]
    assert methods["random"]["settings"]["finetune_lr"] != studies.PROPOSED_LR
    assert methods["continued"]["settings"]["finetune_lr"] == ADAPTED_BACKBONE_LR
    assert (
        methods["l2-sp"]["settings"]["retention_weight"] == Settings().optimisation.retention_weight
    )


def test_the_page_expects_what_the_studies_measure(script: Script) -> None:
    studies, page = script("evidence/adaptation/studies"), script("evidence/adaptation/page")
    assert {*page.PAIRS} == {*page.CASES} == {*studies.TARGETS}
    for pair, cases in page.CASES.items():
        assert {*studies.Pair(pair).cases} == {*cases}


def test_a_learning_rate_is_the_best_of_those_tried_on_the_pool(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = script("evidence/adaptation/studies")
    (tmp_path / "methods.yaml").write_text((FOLDER / "methods.yaml").read_text())
    monkeypatch.setattr(studies, "HERE", tmp_path)
    dice = {"continued-3e-4": 0.9, "continued-10e-4": 0.8, "random-100e-4": 0.7, "l2-sp-1e0": 0.6}
    runs = [
        {"method": method, "dice": {"case": value, "unscored": None}}
        for method, value in dice.items()
    ]
    methods = studies.Pair("heart").methods()
    assert methods["decoder"]["settings"]["finetune_lr"] == studies.RATES["continued"][0]
    (tmp_path / "heart-rates.json").write_text(json.dumps({"runs": runs}))
    methods = studies.Pair("heart").methods()
    assert methods["decoder"]["settings"]["finetune_lr"] == 3e-4
    assert methods["random-wide"]["settings"]["finetune_lr"] == 1e-2
    assert methods["l2-sp"]["settings"]["retention_weight"] == 1.0


def test_the_simulated_scanner_changes_an_image_the_same_every_time(
    script: Script,
) -> None:
    image = SimpleITK.ReadImage(str(next((DATA / "imagesTr").iterdir())))
    shift = script("evidence/adaptation/shift")
    changed = [shift.shifted(image) for _ in range(2)]
    before, after, again = map(SimpleITK.GetArrayFromImage, (image, *changed))
    assert (after == again).all()
    assert changed[0].GetSpacing() == image.GetSpacing()
    assert changed[0].GetSize() == image.GetSize()
    assert (after > 0).all()
    # Half of the resolution along the first axis: what is between two slices is their mean.
    inner = after[:, :, 1:-2]
    between = (inner[:, :, 0:-2:2] + inner[:, :, 2::2]) / 2
    shares = [np.abs(inner[:, :, i:-1:2][..., : between.shape[-1]] - between).max() for i in (0, 1)]
    assert min(shares) < 1e-5 < max(shares)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5
