"""Every page of docs is what its script writes from the committed result files."""

import re
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

NUMBER = r"[+-]\d\.\d{4}"
IN_TABLES = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\] \| (<?\d\.\d{{4}})")
IN_SENTENCES = re.compile(
    rf"\(({NUMBER}), 95 % CI ({NUMBER}) to ({NUMBER}), p = (<?\d\.\d{{4}}) after Holm over \d+ "
)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_script_writes(name: str, script: Callable[[str], ModuleType]) -> None:
    assert (DOCS / f"{name}.md").read_text() == script(f"{name}/page").page()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_valid_and_called_like_its_file_and_names_its_splits(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert all(dataset.splits is not None for dataset in study.datasets)


@pytest.mark.parametrize("page", sorted(DOCS.glob("evidence/*.md")), ids=lambda page: page.stem)
def test_a_difference_has_one_p_on_its_page_and_every_p_names_its_family(page: Path) -> None:
    text, found = page.read_text(), dict[tuple[str, ...], set[str]]()
    for *difference, p in (*IN_TABLES.findall(text), *IN_SENTENCES.findall(text)):
        found.setdefault(tuple(difference), set()).add(p)
    assert {difference: ps for difference, ps in found.items() if len(ps) > 1} == {}
    assert "p (Holm)" not in text


UNMEASURED = {
    "README.md": ("no GPU has been measured yet", "gpu/*.json"),
    "docs/project/contributing.md": ("not run on a GPU yet", "gpu/*.json"),
    "docs/evidence/performance/page.md.jinja": ("No GPU has been measured yet", "gpu/*.json"),
    "docs/guide/resume-and-safety.md": ("it has not been measured", "gpu/*.json"),
    "docs/guide/width.md": ("has not been measured on converged", "width/dice_*.json"),
}
"""Pages that state by hand what has not been measured, and the results that would change that."""


@pytest.mark.parametrize("page", UNMEASURED)
def test_what_has_not_been_measured_has_no_results(page: str) -> None:
    stated, results = UNMEASURED[page]
    is_stated = stated in (DOCS.parent / page).read_text()
    assert is_stated != any((DOCS / "evidence").glob(results))


def test_every_table_follows_an_empty_line_without_which_it_is_none() -> None:
    found = []
    for page in (DOCS.parent / "README.md", *DOCS.rglob("*.md")):
        lines = page.read_text().splitlines()
        rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\|(:?-+:?\|)+", line)]
        found += [f"{page.name}:{i}" for i in rules if i > 1 and lines[i - 2]]
    assert found == []
