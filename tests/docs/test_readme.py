"""The README's commands, read from the README."""

import re
import shlex
from pathlib import Path

import pytest

from nnunet_iac import cli
from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir
from nnunet_iac.search.settings import keys

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in re.findall(r"^    (\S.*)$", README, re.MULTILINE)]


def test_the_scripts_it_names_exist_and_ci_calls_its_test_command() -> None:
    scripts = {shlex.split(line)[1] for line in COMMANDS if line.startswith("bash ")}
    assert scripts == {"setup_scripts/demo.sh", "setup_scripts/test.sh"}
    assert all((ROOT / script).is_file() for script in scripts)
    assert "bash setup_scripts/test.sh" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("nnunet-iac ")])
def test_the_verbs_it_types_are_understood(command: str) -> None:
    words = shlex.split(command.partition(" #")[0])[1:]
    assert cli._parser().parse_args(words).verb


def test_every_trainer_it_types_exists() -> None:
    typed = {m for c in COMMANDS for m in re.findall(r"-tr (\S+)", c)}
    assert typed
    assert typed <= set(exported_trainers(trainers_dir()))


def test_its_settings_are_all_settings() -> None:
    table = README.partition("## Settings")[2].partition("Old names of settings")[0]
    named = set(
        re.findall(
            r"`(\w+)`", "\n".join(r.split("|")[1] for r in table.splitlines() if r.startswith("|"))
        )
    )
    assert named == set(keys())


@pytest.mark.parametrize(
    "name", re.findall(r"`(nnunet_iac\.[\w.]+)`", README.partition("## Faithfulness")[0])
)
def test_the_functions_of_its_table_exist(name: str) -> None:
    import importlib

    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
