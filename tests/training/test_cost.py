import subprocess

import pytest

import nnunet_iac
from nnunet_iac.training.cost import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a source checkout that the package seems to lie in."""
    package = tmp_path / "nnunet_iac" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(nnunet_iac, "__file__", str(package))
    return package


def _git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", str(folder), *names, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_installed_package_has_no_commit(checkout):
    assert provenance().commit is None


def test_the_commit_says_whether_code_differed_from_it(checkout):
    root = checkout.parents[1]
    (root / "results.json").write_text("1")
    _git(root, "init")
    _git(root, "add", ".")
    _git(root, "commit", "-m", "x")
    head = _git(root, "rev-parse", "HEAD")
    (root / "results.json").write_text("2")
    assert provenance().commit == head
    (checkout.parent / "new.py").write_text("")
    assert provenance().commit == f"{head}-dirty"
