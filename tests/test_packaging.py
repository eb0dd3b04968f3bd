"""The wheel: what is in it, and that nnU-Net finds our trainers in it."""

import os
import subprocess
import sys
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


def test_nnunet_finds_the_trainers_of_an_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def output(code: str) -> str:
        command = [sys.executable, "-c", code]
        finished = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    folder = output("from nnunet_iac.cli import main; main(['trainers-dir'])")
    assert folder == str(tmp_path / "nnunet_iac" / "trainers")
    environment["nnUNet_extTrainer"] = folder
    found = output(
        "import inspect\n"
        "from nnunet_iac.host.trainer_lookup import find_trainer\n"
        "print(inspect.getfile(find_trainer('nnUNetTrainerIACLTH')))"
    )
    assert found == str(tmp_path / "nnunet_iac" / "training" / "trainers.py")
