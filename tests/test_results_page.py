"""docs/results.md is what its script writes from the committed result files."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.workflow.study_file import read_study

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def page() -> Any:
    specification = importlib.util.spec_from_file_location("results_page", RESULTS / "page.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_the_page_is_what_its_script_writes() -> None:
    assert (RESULTS.parent / "results.md").read_text() == page().page()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_valid_and_called_like_its_file(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert all(dataset.splits is not None for dataset in study.datasets)
