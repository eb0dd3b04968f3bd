"""The benchmark of a user's own plans, typed."""

import json
from pathlib import Path
from typing import Any

from nnunet_iac.host.planning import Network, write_plans
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import read_json


def test_a_step_of_given_plans_is_timed_and_a_run_estimated(planned: Any, tmp_path: Path) -> None:
    plans = planned.write_plans("timed", iterations_per_epoch=10, min_channels=8)
    result = tmp_path / "step.json"
    words = ("-d", 4, "-c", "2d", "-p", plans, "--repeats", 1, "--json", result)
    printed = planned.run("nnunet-iac", "benchmark", "step", *words)
    measured = json.loads(result.read_text())
    described = read_json(planned.preprocessed / "timed.json")["configurations"]["2d"]
    assert measured["workload"]["batch_size"] == described["batch_size"]
    assert measured["workload"]["patch_size"] == described["patch_size"]
    assert measured["workload"]["features"] == [4, 8, 8, 8]
    assert measured["workload"]["min_channels"] == 8
    assert measured["estimate"]["fits"] is True
    assert measured["estimate"]["lth_search_h"] < measured["estimate"]["iac_search_h"]
    assert "estimate.lth_search_h" in printed


def test_plans_with_a_timm_encoder_are_a_workload(planned: Any, monkeypatch: Any) -> None:
    for name, value in planned.environment.items():
        monkeypatch.setenv(name, value)
    (planned.preprocessed / "mobile.json").unlink(missing_ok=True)
    write_plans("4", "2d", "small", "mobile", [], Network("mobilenetv3_large"))
    workload = Workload.of_plans("4", "2d", "mobile", "cpu").resized(2, None, None, None)
    assert workload.features == (4, 16, 24, 40, 112, 960)
    images, targets = workload.batch()
    assert images.shape == (2, 1, 64, 64)
    assert len(targets) == 5


def test_plans_and_configurations_that_do_not_exist_are_named(planned: Any) -> None:
    typed = ("nnunet-iac", "benchmark", "step", "-d", 4)
    missing = planned.command(*typed, "-p", "nobody")
    assert missing.returncode == 2
    assert "nobody.json does not: check -d and -p" in missing.stderr
    unknown = planned.command(*typed, "-c", "4d", "-p", "small")
    assert unknown.returncode == 2
    assert "got 4d, has 2d" in unknown.stderr
