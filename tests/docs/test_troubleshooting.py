"""docs/troubleshooting.md: its messages are those of the code, and it has every warning."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nnunet_iac.analysis.report import summary

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [row.split("|")[1] for row in PAGE.splitlines() if row.startswith("| ")]
ELSEWHERE = re.compile(r"FAIL  |Could not find requested|--adapter ")
"""Words of doctor's checks, of nnU-Net, and an option."""
QUOTED = [text for row in ROWS for text in re.findall(r"`([^`]+)`", row) if " " in text]
QUOTED = [text for text in QUOTED if not ELSEWHERE.match(text)]


def _texts_of(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of code, with an ellipsis for what is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def _texts() -> tuple[str, ...]:
    """Return the texts of the package."""
    paths = sorted((ROOT / "nnunet_iac").rglob("*.py"))
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    return tuple(text for tree in trees for text in _texts_of(tree))


def _fragments(text: str) -> list[str]:
    words = (part.strip(" ,.;:'") for part in text.split("…"))
    return [part for part in words if " " in part]


@pytest.mark.parametrize("text", dict.fromkeys(QUOTED))
def test_the_code_has_every_message_of_the_page(text: str) -> None:
    for fragment in _fragments(text):
        assert any(fragment in known for known in _texts()), fragment


def test_the_page_has_every_warning_of_the_code() -> None:
    page = " ".join(PAGE.split())
    texts = [text.partition("WARNING: ")[2] for text in _texts() if "WARNING: " in text]
    assert len(texts) > 10
    for text in texts:
        for fragment in _fragments(text.partition(";")[0])[:1]:
            assert fragment in page, fragment


def test_the_page_has_every_alarm_of_a_report() -> None:
    alarms = ast.parse(textwrap.dedent(inspect.getsource(summary.alarms)))
    texts = [text for text in _texts_of(alarms) if " " in text.strip(" :.")]
    assert len(texts) > 5
    for fragment in {part for text in texts for part in _fragments(text)[:1]}:
        assert fragment in PAGE or fragment.startswith("Return"), fragment
