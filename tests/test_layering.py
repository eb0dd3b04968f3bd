"""What import-linter cannot see: what an import really loads."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_iac


def _modules(package: str) -> list[str]:
    folder = Path(nnunet_iac.__file__).parent / package
    return [f"nnunet_iac.{package}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]


def _loaded_by(statement: str) -> list[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_no_module_of_the_lower_packages_loads_nnunet():
    packages = ("search", "nn", "runs", "analysis")
    modules = [module for package in packages for module in _modules(package)]
    loaded = _loaded_by(f"import {', '.join(modules)}")
    assert set(modules) <= set(loaded)
    assert "nnunetv2" not in loaded


def test_no_module_below_the_command_imports_the_root_package():
    package = Path(nnunet_iac.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent in (package, package / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert "nnunet_iac" not in names, path


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import nnunet_iac", {"nnunet_iac.search", "nnunet_iac.nn", "torch", "numpy"}),
        ("import nnunet_iac.cli", {"nnunetv2", "torch", "matplotlib"}),
        ("from nnunet_iac.cli import main; main(['trainers-dir'])", {"nnunetv2", "torch"}),
        ("import nnunet_iac.runs.genotype_source", {"nnunetv2", "matplotlib"}),
        ("import nnunet_iac.host.doctor", {"nnunetv2", "torch"}),
        ("import nnunet_iac.width.consensus", {"nnunetv2", "torch", "matplotlib"}),
    ],
)
def test_the_command_loads_no_more_than_a_verb_needs(statement, absent):
    assert absent.isdisjoint(_loaded_by(statement))


def _public_names(path: Path) -> set[str]:
    """Return the classes and constants that a module defines."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [n for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]
        found |= {name.id for name in names if name.id.isupper()}
    return {name for name in found if not name.startswith("_")}


def test_a_class_or_constant_of_one_name_is_defined_once():
    package = Path(nnunet_iac.__file__).parent
    modules: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for name in _public_names(path):
            modules.setdefault(name, []).append(path.relative_to(package).as_posix())
    assert {name: places for name, places in modules.items() if len(places) > 1} == {}


def test_the_one_trainer_with_behaviour_stays_short():
    trainer = Path(nnunet_iac.__file__).parent / "training" / "retrofit_trainer.py"
    assert len(trainer.read_text().splitlines()) <= 300
