import subprocess

import pytest

from nnunet_iac.training import provenance as tested
from nnunet_iac.training.provenance import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a source checkout that the package seems to lie in."""
    module = tmp_path / "nnunet_iac" / "training" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(tested, "__file__", str(module))
    return tmp_path


def _git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", str(folder), *names, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_installed_package_has_no_commit(checkout):
    assert provenance().commit is None


def test_the_commit_shows_whether_code_differed_from_it(checkout):
    (checkout / "results.json").write_text("1")
    _git(checkout, "init")
    _git(checkout, "add", ".")
    _git(checkout, "commit", "-m", "x")
    head = _git(checkout, "rev-parse", "HEAD")
    (checkout / "results.json").write_text("2")
    assert provenance().commit == head
    (checkout / "nnunet_iac" / "new.py").write_text("")
    assert provenance().commit == f"{head}-dirty"
