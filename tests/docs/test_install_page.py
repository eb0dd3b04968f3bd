"""docs/install.md has every extra, and the pages name settings that exist."""

import re
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata

from nnunet_iac.search.settings import FORMER_SETTING, keys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CHANGELOG.md", ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def test_its_extras_are_those_of_the_project() -> None:
    extras = ProjectMetadata(str(ROOT), None).core.optional_dependencies
    table = (ROOT / "docs" / "install.md").read_text().split("## Extras")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert sorted(named) == sorted(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_settings_with_values_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![-\w.])`([a-z]+_[a-z_]+)=[\w.*]+`", page.read_text()))
    assert named <= {*keys(), FORMER_SETTING}
