"""The demo through the command: quick in CI, and in full length with --full-demo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.genotype import Genotype

WITHOUT_THE_EXTRA = """
import sys
for name in ("snakemake", "yaml", "jsonschema"):
    sys.modules[name] = None
import nnunet_iac.workflow.demo
"""


def _demo(folder: Path, *words: str) -> str:
    program = Path(sys.executable).parent / "nnunet-iac"
    command = [program, "demo", "-o", folder, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    _demo(folder, "--quick")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    _demo(folder)
    return folder


def _require_structure(folder: Path) -> None:
    """Check what holds for a demo of any length."""
    summary = _summary(folder)
    assert 0 <= summary["continued_dice"] <= 1
    assert len(summary["per_case"]) == 6
    assert summary["backbone_unchanged"]
    epochs = summary["epochs"]
    assert summary["search_epochs"] == epochs["warmup"] + epochs["search"]
    assert epochs["continued"] == summary["search_epochs"] + epochs["finetune"]
    run = RunFolder(folder / summary["run_folder"])
    assert Genotype.from_document(summary["genotype"]) == run.read_genotype()
    assert run.read_settings().schedule.preset == "adaptive"
    page = (folder / "report" / "index.html").read_text()
    assert "creativecommons.org/licenses/by-sa" in (folder / "report" / "LICENSE.md").read_text()
    assert len(page) < 5_000_000
    assert 'src="http' not in page
    assert page.count("<svg") >= 1
    numbers = json.loads((folder / "report" / "report.json").read_text())
    assert [run["method"] for run in numbers["runs"]] == ["IAC-LTH", "continued"]
    assert len([made for made in numbers["comparisons"] if made["equal_budget"]]) == 1
    (results_file,) = folder.glob("nnUNet_results/studies/*/results.json")
    results = json.loads(results_file.read_text())
    assert [run["method"] for run in results["runs"]] == ["reference", "iac-lth", "continued"]


@pytest.mark.slow
def test_the_quick_demo_runs_every_step_and_its_epochs_add_up(quick: Path) -> None:
    _require_structure(quick)
    assert _summary(quick)["epochs"]["backbone"] == 1


@pytest.mark.slow
def test_a_second_demo_finds_everything_done(quick: Path) -> None:
    before = _summary(quick)
    assert _demo(quick, "--quick").count("done before") == 7
    assert _summary(quick) == before


@pytest.mark.full_demo
def test_the_demo_shows_the_method_really_working(full: Path) -> None:
    _require_structure(full)
    summary = _summary(full)
    assert summary["reference_dice"] >= 0.75
    assert summary["iac_dice"] >= summary["reference_dice"] - 0.01
    assert summary["continued_dice"] > 0
    assert summary["stopped_by"] == "criterion"
    assert summary["edges_that_waited"] >= 1
    assert _demo(full).count("done before") == 7


def test_the_demo_needs_nothing_of_the_extra_study() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_EXTRA], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
