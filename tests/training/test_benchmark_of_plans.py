"""The benchmark of a user's own plans, typed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from variants_of_data import REGIONS, write_regions

from nnunet_iac.host.planning import NetworkChanges, write_plans
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import read_json, write_json


def test_a_run_of_given_plans_is_timed_with_its_loading(planned: Any, tmp_path: Path) -> None:
    plans = planned.write_plans("timed_run", min_channels=4)
    result = tmp_path / "run.json"
    words = ("-d", 4, "-p", plans, "--repeats", 1, "--cells", 1, "--json", result)
    before = sorted(planned.preprocessed.iterdir())
    planned.run("nnunet-iac", "benchmark", "run", *words)
    measured = json.loads(result.read_text())
    assert measured["loading_s"] > 0
    assert measured["workers_that_hide_loading"] >= 1
    assert sorted(planned.preprocessed.iterdir()) == before
    assert not (planned.path / "results" / "Dataset004_Hippocampus" / "nnUNetTrainer").exists()


def test_the_hours_of_a_second_stage_are_not_estimated(planned: Any) -> None:
    content = read_json(planned.preprocessed / f"{planned.write_plans('second')}.json")
    content["configurations"]["2d"]["previous_stage"] = "3d_lowres"
    write_json(planned.preprocessed / "second.json", content)
    words = ("nnunet-iac", "benchmark", "run", "-d", 4, "-p", "second", "--repeats", 1)
    assert "second stage are not estimated" in planned.command(*words).stderr


def test_a_step_of_given_plans_is_timed_and_a_run_estimated(planned: Any, tmp_path: Path) -> None:
    plans = planned.write_plans("timed", iterations_per_epoch=10, min_channels=8)
    result = tmp_path / "step.json"
    words = ("-d", 4, "-c", "2d", "-p", plans, "--repeats", 1, "--json", result)
    printed = planned.run("nnunet-iac", "benchmark", "step", *words)
    measured = json.loads(result.read_text())
    config = read_json(planned.preprocessed / "timed.json")["configurations"]["2d"]
    assert measured["workload"]["batch_size"] == config["batch_size"]
    assert measured["workload"]["patch_size"] == config["patch_size"]
    assert measured["workload"]["features"] == [4, 8, 8]
    assert measured["workload"]["min_channels"] == 8
    assert measured["estimate"]["fits"] is True
    assert measured["estimate"]["lth_search_h"] < measured["estimate"]["iac_search_h"]
    assert "estimate.lth_search_h" in printed


def test_plans_with_a_timm_encoder_are_a_workload(planned: Any, monkeypatch: Any) -> None:
    for name, value in planned.environment.items():
        monkeypatch.setenv(name, value)
    (planned.preprocessed / "mobile.json").unlink(missing_ok=True)
    write_plans("4", "2d", "small", "mobile", {}, NetworkChanges("mobilenetv3_large"))
    workload = Workload.of_plans("4", "2d", "mobile", "cpu").resized(2, None, None, None)
    assert workload.features == (4, 16, 24, 40, 112, 960)
    images, targets = workload.batch()
    assert images.shape == (2, 1, 64, 64)
    assert len(targets) == 5


@pytest.fixture
def regions(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a preprocessed folder, without data, of regions with small plans and a cascade."""
    write_regions(tmp_path / "raw")
    folder = tmp_path / "preprocessed" / REGIONS
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "raw" / REGIONS / "dataset.json", folder)
    plans = read_json(planned.preprocessed / "small.json")
    plans["configurations"]["2d_cascade"] = {"inherits_from": "2d", "previous_stage": "2d"}
    write_json(folder / "small.json", {**plans, "dataset_name": REGIONS})
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    return folder


def test_regions_are_heads_and_a_cascade_sees_a_mask_for_every_label(regions: Path) -> None:
    workload = Workload.of_plans(REGIONS, "2d_cascade", "small", "cpu").resized(2, None, None, None)
    assert (workload.input_channels, workload.classes, workload.regions) == (2 + 2, 2, True)
    assert Workload.of_plans(REGIONS, "2d", "small", "cpu").input_channels == 2
    images, targets = workload.batch()
    outputs = workload.unet()(images)
    assert images.shape[1] == 4
    assert [output.shape for output in outputs] == [target.shape for target in targets]
    loss = workload.loss()
    right = [50.0 * (2 * target - 1) for target in targets]
    assert float(loss(right, targets)) == pytest.approx(-1, abs=1e-3)
    assert torch.isfinite(loss(outputs, targets))


def test_one_region_alone_is_timed(regions: Path) -> None:
    dataset = read_json(regions / "dataset.json")
    dataset.update(labels={"background": 0, "whole": [1, 2]}, regions_class_order=[1])
    write_json(regions / "dataset.json", dataset)
    workload = Workload.of_plans(REGIONS, "2d", "small", "cpu").resized(2, None, None, None)
    assert workload.classes == 1
    images, targets = workload.batch()
    assert torch.isfinite(workload.loss()(workload.unet()(images), targets))


def test_labels_that_nnunet_cannot_learn_are_named(regions: Path) -> None:
    dataset = read_json(regions / "dataset.json")
    write_json(regions / "dataset.json", {**dataset, "regions_class_order": None})
    with pytest.raises(ValueError, match=r"Regions/dataset\.json must be .* regions_class_order"):
        Workload.of_plans(REGIONS, "2d", "small", "cpu")
