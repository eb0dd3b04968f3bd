"""Citation, metadata, changelog and templates of the repository."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nnunet_iac

ROOT = Path(__file__).parents[1]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = ProjectMetadata(str(ROOT), None).core
COMPUTING = sorted(
    [
        *(ROOT / "docs").rglob("m*.sh"),
        *(ROOT / "setup_scripts" / f"{name}.sh" for name in ("demo", "gpu", "test")),
    ]
)
"""Scripts that train, predict or measure."""
EXTRAS = ("completion", "surface", "tensorboard", "study", "onnx")
"""What users install; the others are for contributors, or add to these."""
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version_and_licence() -> None:
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["title"] == PROJECT.name
    assert CITATION["version"] == nnunet_iac.__version__
    assert CITATION["license"] == PROJECT.license_expression
    assert [author["name"] for author in CITATION["authors"]] == [
        author["name"] for author in PROJECT.authors
    ]


def test_the_citation_names_the_papers_that_are_to_be_cited() -> None:
    for work in CITATION["references"]:
        assert {"type", "title", "authors", "year"} <= work.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in work["authors"])
    places = [work.get("url") or work.get("doi") for work in CITATION["references"]]
    arxiv = "https://arxiv.org/abs/"
    papers = [f"{arxiv}2405.03420", f"{arxiv}2604.14849", "10.1038/s41592-020-01008-z"]
    assert places == [*papers, f"{arxiv}2605.09639"]


@pytest.mark.parametrize("path", ["CITATION.cff", "CONTRIBUTING.md"])
def test_the_statement_of_what_it_is_not_is_made(path: str) -> None:
    text = " ".join((ROOT / path).read_text().split())
    assert "esearch software, not a medical device" in text


def test_the_classifiers_are_known() -> None:
    assert "Intended Audience :: Science/Research" in PROJECT.classifiers  # Refused if unknown.


def test_every_import_is_of_a_declared_dependency_or_of_an_extra() -> None:
    extras = {name: PROJECT.optional_dependencies[name] for name in EXTRAS}
    declared = {
        canonicalize_name(Requirement(text).name)
        for texts in (PROJECT.dependencies, *extras.values())
        for text in texts
    }
    distributions = packages_distributions()
    files = [path for name in ("nnunet_iac", "trainers") for path in (ROOT / name).rglob("*.py")]
    undeclared = {
        (str(path.relative_to(ROOT)), module)
        for path in files
        for module in _imports(path)
        if not declared.intersection(map(canonicalize_name, distributions[module]))
    }
    assert undeclared == set()


def _imports(path: Path) -> set[str]:
    """Return the packages of others that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"nnunet_iac"}


def test_the_oldest_versions_allowed_have_what_is_used() -> None:
    allowed = {r.name: r.specifier for r in map(Requirement, PROJECT.dependencies)}
    assert "1.24.4" not in allowed["numpy"]  # Without numpy.dtypes.
    assert "3.20.0" not in allowed["filelock"]  # Follows links when it opens a lock.


def test_an_unreleased_first_version_only_adds() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    (version,) = re.findall(r"^## \[(.*)\] - Unreleased$", text, re.MULTILINE)
    assert version == nnunet_iac.__version__
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["Added"]


@pytest.mark.parametrize("path", COMPUTING, ids=lambda path: str(path.relative_to(ROOT)))
def test_threads_of_our_scripts_sleep_while_they_wait(path: Path) -> None:
    assert re.search(r"^export .*\bOMP_WAIT_POLICY=passive\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_a_code_host_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea")
        assert part["type"] == "markdown" or (part["id"] and part["attributes"]["label"])
