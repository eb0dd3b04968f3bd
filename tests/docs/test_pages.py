"""Every page of docs is what its script writes from the committed result files."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_iac.workflow.study_file import read_study

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    str(path.parent.relative_to(DOCS))
    for path in DOCS.glob("evidence/*/page.py")
    if path.parent.with_suffix(".md").is_file()
)
STUDIES = sorted(
    path
    for path in DOCS.glob("evidence/*/*.yaml")
    if path.parent.name not in ("adaptation", "search")
)  # Those of adaptation are written by its studies.py.


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_script_writes(name: str, script: Callable[[str], ModuleType]) -> None:
    assert (DOCS / f"{name}.md").read_text() == script(f"{name}/page").page()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_valid_and_called_like_its_file_and_names_its_splits(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert all(dataset.splits is not None for dataset in study.datasets)
