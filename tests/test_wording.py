"""The glossary: words that users and contributors must not read, and what to write instead.

`python tests/test_wording.py` prints all texts that the program shows, with their places.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for folder in ("nnunet_iac", "trainers", "docs") for path in (ROOT / folder).rglob("*.py")
)
TEMPLATES = sorted(
    path
    for pattern in ("*.j2", "*.js", "Snakefile", "*.schema.yaml")
    for path in (ROOT / "nnunet_iac").rglob(pattern)
)
NAMES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "README.md", "pyproject.toml")
PAGES = [ROOT / name for name in (*NAMES, "docs/example/about.md")]
PAGES += sorted((ROOT / "setup_scripts").glob("*.sh"))
PAGES += sorted(
    path
    for pattern in ("*.md", "*.jinja")
    for path in (ROOT / "docs").rglob(pattern)
    if "example" not in path.parts
)
PAGES += sorted(path for path in (ROOT / ".github").rglob("*") if path.is_file())

NEVER = {
    r"backbone continued(?! (training|by))": "continued backbone",
    r"frozen U-Net|planned network|given network": "backbone",
    r"plain net|further training": "plain U-Net, finetuning",
    r"recomput\w*( the)? cells": "checkpointing",
    r"(?<!was )(?<!were )(?<!are )(?<!be )trained on(?=[.,;:)]|$)": "continued",
    r"learn(s|ed|t|ing)? further": "continue training",
    r"go(es|ing)? on|went on": "resume, continue",
    r"gave|scored more than": "the score and its difference, as numbers",
    r"reckon(s|ed|ing)?": "estimate",
    r"tell(?! nnU-Net)|tells|telling|told|say(s|ing)?|said": "log, report, show, mean",
    r"mend(s|ed|ing)?": "fix",
    r"(stand|stands|stood|standing) in": "see, is in",
    r"(?-i:stable_checks|theta|kappa)": "patience, stability threshold, growth factor",
}
"""Patterns of whole words, and the words of the glossary."""

SHOWN = {
    r"(the|a|every|each|its|minus|than) references?"
    r"(?! (\(the backbone\)|page|section|genotype))": "backbone"
}
"""Further words for users; the name `reference` of a folder and a method may stay."""


def found_in(text: str, *glossaries: dict[str, str]) -> list[str]:
    """Return what a text has and must not have, each with what to write instead."""
    line = " ".join(text.split())
    return [
        f"{match[0]!r} in {line[max(0, match.start() - 60) : match.end() + 60]!r}: write {instead}"
        for glossary in glossaries
        for pattern, instead in glossary.items()
        if (match := re.search(rf"(?<![\w/`<>.-])(?:{pattern})(?![\w`]|</)", line, re.IGNORECASE))
    ]


def shown_by(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of all strings of a module with several words, but its docstrings."""
    tree, inside = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inside.add(id(node.value))
        text = ""
        if isinstance(node, ast.JoinedStr):
            inside |= set(map(id, node.values))
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = "" if id(node) in inside else node.value
        if " " in text.strip():
            yield getattr(node, "lineno", 0), text


def written_in(path: Path) -> Iterator[str]:
    """Yield docstrings and comments of a module."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def _lines(path: Path) -> list[str]:
    """Return the paragraphs of a page or template, without expressions, code and link targets."""
    left_out = r"\{[{%].*?[%}]\}|^```.*?^```|(?<=\])\([^)]*\)"
    text = re.sub(left_out, "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.split(r"\n\s*\n", text)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_messages_and_helps_have_the_words_of_the_glossary(path: Path) -> None:
    assert [found for _, text in shown_by(path) for found in found_in(text, NEVER, SHOWN)] == []


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_docstrings_and_comments_have_the_words_of_the_glossary(path: Path) -> None:
    assert [found for text in written_in(path) for found in found_in(text, NEVER)] == []


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_docstrings_begin_with_what_they_describe(path: Path) -> None:
    assert [text for text in written_in(path) if text.startswith(("What ", "Of "))] == []


@pytest.mark.parametrize("path", [*TEMPLATES, *PAGES], ids=_name)
def test_pages_and_their_templates_have_the_words_of_the_glossary(path: Path) -> None:
    assert [found for text in _lines(path) for found in found_in(text, NEVER, SHOWN)] == []


def test_names_of_tests_have_the_words_of_the_glossary() -> None:
    texts = (path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    names = [name for text in texts for name in re.findall(r"^def test_(\w+)", text, re.MULTILINE)]
    assert [found for name in names for found in found_in(name.replace("_", " "), NEVER)] == []


@pytest.mark.parametrize(
    "text",
    [
        "the U-Net trained on, for as many epochs",
        "the run goes on\nwhere it was",
        "the report tells why",
        "it needs theta",
        "Kappa stands in the record; said otherwise",
        "better than the reference",
    ],
)
def test_a_word_that_must_not_appear_is_found(text: str) -> None:
    assert found_in(text, NEVER, SHOWN)


@pytest.mark.parametrize(
    "text",
    [
        "the cases that the backbone was trained on",
        "trained on data set 4",
        "the folder iac/reference and the method `reference`",
        "`theta` is an old name; an essay on intelligence, a bookstand in a room",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert found_in(text, NEVER, SHOWN) == []


if __name__ == "__main__":
    for module in CODE:
        for line, text in shown_by(module):
            sys.stdout.write(f"{_name(module)}:{line}: {' '.join(text.split())}\n")
    for template in TEMPLATES:
        for paragraph in _lines(template):
            sys.stdout.write(f"{_name(template)}: {' '.join(paragraph.split())}\n")
