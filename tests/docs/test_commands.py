"""Commands, trainers and functions that the pages name."""

import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_iac import cli
from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "example" not in page.parts]


def _typed(text: str) -> Iterator[str]:
    """Yield the lines of a page that are to be typed: indented, or between fences."""
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


COMMANDS = [line for page in PAGES for line in _typed(page.read_text())]
OURS = dict.fromkeys(c for c in COMMANDS if c.startswith("nnunet-iac "))


@pytest.mark.parametrize("command", OURS)
def test_a_command_that_a_page_types_is_understood(command: str) -> None:
    words = shlex.split(command.partition(" #")[0])[1:]
    arguments, more = cli._parser().parse_known_args(words)
    assert arguments.verb
    assert not more or hasattr(arguments, "more")


def test_every_trainer_that_a_page_types_exists() -> None:
    typed = {name for command in COMMANDS for name in re.findall(r"-tr (nnUNet\S+)", command)}
    assert typed
    assert typed <= set(exported_trainers(trainers_dir()))


def test_the_page_on_trainers_has_all_of_them_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "trainers.md").read_text()
    named = set(re.findall(r"`(nnUNetTrainer\w+)`", page))
    stock = {f"nnUNetTrainer{suffix}" for suffix in ("DA5", "NoDA", "NoMirroring")}
    assert named - stock == set(exported_trainers(trainers_dir()))


NAMED = {name for page in PAGES for name in re.findall(r"`(nnunet_iac\.[\w.]+)`", page.read_text())}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_functions_that_a_page_names_exist(name: str) -> None:
    pkgutil.resolve_name(name)
