"""Paths of the repository that scripts and pages name: they exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [path for folder in (".ci", "docs", "setup_scripts") for path in (ROOT / folder).rglob("*")]
TEXTS = sorted(path for path in [*ROOT.glob("*.md"), *TEXTS] if path.suffix in (".sh", ".md"))
NAMED = re.compile(
    r"(?<![\w/.$}-])(?:docs|nnunet_iac|setup_scripts|tests|trainers)/[\w{},./*=-]*"
    r"|(?<=python )[\w./-]+\.py|(?<=\]\()(?!\w+:)[\w./-]+"  # Beside the script or page, too.
)


def _expanded(path: str) -> Iterator[str]:
    """Return what bash makes of a path with braces: one for each alternative."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if braces is None:
        yield path
        return
    for choice in braces[1].split(","):
        yield from _expanded(path[: braces.start()] + choice + path[braces.end() :])


def _missing(text: str, folder: Path) -> list[str]:
    named = (path for found in NAMED.findall(text) for path in _expanded(found.rstrip(".,")))
    return [path for path in named if not any([*ROOT.glob(path), *folder.glob(path)])]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_of_the_repository_that_a_text_names_exists(path: Path) -> None:
    assert _missing(path.read_text(), path.parent) == []


def test_a_path_that_does_not_exist_is_found() -> None:
    known, unknown = "docs/reference/api.md, $X/docs/x.md", "python absent.py; [a](b.md)"
    text = f"pytest tests/runs/test_{{fold,gone}}.py; {known}; {unknown}"
    assert _missing(text, ROOT / "docs") == ["tests/runs/test_gone.py", "absent.py", "b.md"]
