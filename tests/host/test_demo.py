"""The demo, whole, as the README starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.genotype import Genotype

pytestmark = pytest.mark.slow


def _demo(folder: Path) -> str:
    program = Path(sys.executable).parent / "nnunet-iac"
    done = subprocess.run([program, "demo", "-o", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    _demo(folder)
    return folder


def test_the_demo_shows_the_method_really_working(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["reference_dice"] >= 0.75
    assert summary["iac_dice"] >= summary["reference_dice"] - 0.01
    assert 0 < summary["continued_dice"] <= 1
    assert len(summary["per_case"]) == 6
    assert summary["backbone_unchanged"]
    assert summary["stopped_by"] == "criterion"
    assert summary["edges_that_waited"] >= 1
    epochs = summary["epochs"]
    assert summary["search_epochs"] == epochs["warmup"] + epochs["search"]
    assert epochs["continued"] == summary["search_epochs"] + epochs["finetune"]
    run = RunFolder(demo / summary["run_folder"])
    assert Genotype.from_document(summary["genotype"]) == run.read_genotype()
    assert run.read_settings().schedule.preset == "adaptive"


def test_the_demos_report_is_one_file_without_a_network(demo: Path) -> None:
    page = (demo / "report" / "index.html").read_text()
    assert len(page) < 5_000_000
    assert 'src="http' not in page
    assert page.count("<svg") >= 1


def test_the_demo_reports_its_run_with_the_control_beside_it(demo: Path) -> None:
    numbers = json.loads((demo / "report" / "run" / "report.json").read_text())
    assert [run["method"] for run in numbers["runs"]] == ["IAC-LTH", "continued"]
    assert {made["against"] for made in numbers["comparisons"] if made["equal_budget"]} == {
        "the U-Net trained on"
    }


def test_a_second_demo_finds_everything_done(demo: Path) -> None:
    before = (demo / "summary.json").read_text()
    assert _demo(demo).count("done before") == 6
    assert (demo / "summary.json").read_text() == before
