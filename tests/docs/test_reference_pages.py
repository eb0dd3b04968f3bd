"""The reference pages are what their script writes from the code."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_iac.search.settings import keys

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture(scope="module")
def pages(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("reference/pages")


@pytest.mark.parametrize("name", ["commands", "messages", "settings"])
def test_a_page_is_what_the_code_has(pages: ModuleType, name: str) -> None:
    made = pages.PAGES[name]()
    assert (REFERENCE / f"{name}.md").read_text() == made, "run python docs/reference/pages.py"


def test_every_setting_has_a_meaning_and_no_other_has(pages: ModuleType) -> None:
    assert set(pages.MEANINGS) == set(keys())


def test_a_message_keeps_its_words_and_hides_what_is_filled_in(pages: ModuleType) -> None:
    code = 'raise ValueError(f"the fold must be {a}; got {b!r}" + c)\nraise KeyError("not ours")'
    assert list(pages.messages(pages.ast.parse(code))) == ["the fold must be …; got ……"]
