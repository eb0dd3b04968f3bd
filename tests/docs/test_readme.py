"""The README: its length, its numbers, and its scripts."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.search.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_is_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_the_scripts_it_names_exist_and_ci_calls_its_test_command() -> None:
    lines = [line.strip() for line in README.splitlines()]
    scripts = {shlex.split(line)[1] for line in lines if line.startswith("bash ")}
    assert scripts == {"setup_scripts/demo.sh", "setup_scripts/test.sh"}
    assert all((ROOT / script).is_file() for script in scripts)
    assert "bash setup_scripts/test.sh" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_its_hours_are_those_that_were_measured() -> None:
    hours = read_json(ROOT / "docs/evidence/performance/run.json")["hours"]
    searched = hours["literal"]
    assert f"a random cell takes {hours['discrete']['whole']:.1f} hours" in README
    assert f"its control {hours['continued']['whole']:.1f} hours" in README
    assert f"a retrofit takes {searched['whole']:.1f} hours" in README
    assert f"the search takes {searched['search']:.1f} hours" in README


def test_its_memory_is_what_was_measured() -> None:
    steps = read_json(ROOT / "docs/evidence/performance/memory.json")["steps"]
    for configuration in ("2d", "3d_fullres"):
        own = [step for step in steps if step["configuration"] == configuration]
        for phase in ("search", "finetuning"):
            first = next(step for step in own if step["phase"] == phase)
            assert re.search(rf"\b{first['peak_mb']:.0f} (MiB|or)", README)


@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/guide/compare.md"])
def test_a_control_has_as_many_epochs_as_a_default_search_and_its_finetuning(page: str) -> None:
    default = Settings()
    epochs = default.latest_end + default.schedule.finetune_epochs
    assert f"finetune_epochs={epochs}" in (ROOT / page).read_text()


def test_its_quickstart_has_as_many_epochs_as_are_finetuned_by_default() -> None:
    epochs = Settings().schedule.finetune_epochs
    assert f"{epochs} epochs for a random cell" in README
    assert f"{epochs} epochs more for the backbone" in README


@pytest.fixture(scope="module")
def evidence(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("evidence/index/page")


def test_its_numbers_are_those_of_the_result_files(evidence: ModuleType) -> None:
    assert evidence.box(list(evidence.claims())) in README


def test_a_run_that_trains_its_backbone_is_not_counted_as_frozen(evidence: ModuleType) -> None:
    run = {"trainer": "nnUNetTrainerIACLTHNoDA", "settings": {"trainable_part": "cells+norms"}}
    assert evidence.is_frozen(run)
    assert not evidence.is_frozen({**run, "settings": {"trainable_part": "cells+decoder"}})
    assert not evidence.is_frozen({**run, "trainer": "nnUNetTrainerContinueNoDA"})
