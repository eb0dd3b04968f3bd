"""Paths and headings that scripts and pages name: they exist."""

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


def _slug(heading: str) -> str:
    """Return the anchor that code hosts and the site give a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")


def _anchors(page: str) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return {_slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def _missing_anchors(page: Path) -> list[str]:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", page.read_text())
    return [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in _anchors((page.parent / target if target else page).read_text())
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_of_the_repository_that_a_text_names_exists(path: Path) -> None:
    assert _missing(path.read_text(), path.parent) == []


def test_a_path_that_does_not_exist_is_found() -> None:
    known, unknown = "docs/index.md, $X/docs/x.md", "python absent.py; [a](b.md)"
    text = f"pytest tests/runs/test_{{fold,gone}}.py; {known}; {unknown}"
    assert _missing(text, ROOT / "docs") == ["tests/runs/test_gone.py", "absent.py", "b.md"]


PAGES = [path for path in TEXTS if path.suffix == ".md" and "example" not in path.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_heading_that_a_page_links_to_exists(page: Path) -> None:
    assert _missing_anchors(page) == []


def test_a_heading_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c\n[1](#a-b-c), [2](page.md#d)\n```\n# d\n```\n")
    assert _missing_anchors(page) == ["page.md#d"]


def test_the_overview_links_to_every_page() -> None:
    docs = ROOT / "docs"
    linked = re.findall(r"\]\(([\w/-]+\.md)", (docs / "index.md").read_text())
    found = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    evidence = {name for name in found if name.startswith("evidence/")}
    assert found - set(linked) - evidence == {"index.md", "example/about.md", *_example_pages(docs)}


def _example_pages(docs: Path) -> set[str]:
    pages = (docs / "example").rglob("*.md")
    return {str(page.relative_to(docs)) for page in pages if page.name != "about.md"}
