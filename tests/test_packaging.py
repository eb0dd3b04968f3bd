"""The wheel and what is in it."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_whole_package_and_the_trainers_inside_it(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {f"nnunet_iac/{name}" for name in _files(ROOT / "nnunet_iac")}
    trainers = {f"nnunet_iac/trainers/{name}" for name in _files(ROOT / "trainers")}
    assert trainers
    assert packed == package | trainers


def test_the_wheel_carries_the_licence_and_the_command(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"nnunet-iac = nnunet_iac.cli:main" in zipfile.ZipFile(wheel).read(entry_points)
