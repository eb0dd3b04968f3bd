import os
import subprocess
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nnunet_iac.host import doctor
from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir


def test_our_own_metadata_names_the_supported_versions():
    checks = {check.name: check for check in doctor.package_checks()}
    assert {"nnunet-iac", "python", "torch", "nnunetv2"} <= set(checks)
    assert "<2.9" in checks["nnunetv2"].found
    assert "pytest" not in checks
    assert all(check.ok for check in checks.values())


@pytest.mark.parametrize(
    ("requirement", "found", "fix"),
    [
        ("packaging<1", "supported: <1", 'pip install "packaging<1"'),
        ("no-such-package>=2", "not installed", 'pip install "no-such-package>=2"'),
    ],
)
def test_a_missing_or_unsupported_package_comes_with_its_command(requirement, found, fix):
    check = doctor.requirement_check(Requirement(requirement))
    assert not check.ok
    assert found in check.found
    assert check.fix == fix


def test_an_unsupported_python_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    (python,) = (check for check in doctor.package_checks() if check.name == "python")
    assert not python.ok
    assert "3.9.1" in python.found
    assert ">=3.11" in python.fix


def test_what_nnunet_excludes_is_not_supported():
    allowed = {check.name: check.found for check in doctor.package_checks()}
    assert "!=2.9.*" in allowed["torch"]
    assert "<0.5" in allowed["dynamic-network-architectures"]


def test_a_tilde_that_no_shell_has_expanded_is_a_failure(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "~/raw")
    assert doctor.folder_check("nnUNet_raw").fix == 'export nnUNet_raw="$HOME/raw"'


def test_a_package_that_was_not_installed_has_the_command_as_its_fix(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", absent)
    (check,) = doctor.package_checks()
    assert not check.ok
    assert check.fix.startswith("pip install -e ")


@pytest.mark.parametrize("error", [ImportError("absent"), OSError("no file"), RuntimeError("nms")])
@pytest.mark.parametrize(
    ("checked", "fix"),
    [
        (doctor.torchvision_check, "torch and torchvision together"),
        (doctor.device_check, "install torch again"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_a_failure(monkeypatch, checked, fix, error):
    def broken(name):
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    check = checked()
    assert not check.ok
    assert str(error) in check.found
    assert fix in check.fix


def test_a_writable_folder_passes_and_is_left_empty(nnunet_folders):
    check = doctor.folder_check("nnUNet_results")
    assert check.ok
    assert list((nnunet_folders / "nnUNet_results").iterdir()) == []


def test_an_unset_variable_and_a_missing_folder_state_what_to_type(nnunet_folders, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    unset = doctor.folder_check("nnUNet_raw")
    assert not unset.ok
    assert unset.fix == "export nnUNet_raw=/path/to/nnUNet_raw"
    monkeypatch.setenv("nnUNet_raw", str(nnunet_folders / "gone"))
    missing = doctor.folder_check("nnUNet_raw")
    assert not missing.ok
    assert missing.fix == f"mkdir -p {nnunet_folders / 'gone'}"


def test_a_read_only_folder_is_a_failure(nnunet_folders, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    check = doctor.folder_check("nnUNet_results")
    assert not check.ok
    assert "Permission denied" in check.found
    assert "chmod" in check.fix
    raw = doctor.folder_check("nnUNet_raw")  # Shared raw data often are.
    assert raw.ok
    assert raw.found.endswith("read-only")


def test_a_full_disk_is_a_failure(nnunet_folders, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(doctor.FREE_BYTES))
    assert doctor.disk_check().ok
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(doctor.FREE_BYTES - 1))
    check = doctor.disk_check()
    assert not check.ok
    assert "5 GiB" in check.fix


def test_the_trainer_variable_may_list_our_folder_among_others(nnunet_folders, monkeypatch):
    check = doctor.external_trainers_check()
    assert (check.ok, check.found) == (False, "not set")
    assert check.fix == doctor.EXPORT_TRAINERS
    mine = nnunet_folders / "my_trainers"
    mine.mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", f"{mine}{os.pathsep}{trainers_dir()}")
    assert doctor.external_trainers_check().ok
    assert doctor.shadowing_check().ok


def _repository_root(folder: Path) -> None:
    (folder / "nnunet_iac").mkdir()
    (folder / "nnunet_iac" / "__init__.py").touch()


def _other_copy(folder: Path) -> None:
    (folder / "iac.py").write_text("from nnunet_iac.training import nnUNetTrainerIACLTH\n")


def _broken_module(folder: Path) -> None:
    (folder / "broken.py").write_text("def")


def test_the_command_that_leaves_a_folder_out_keeps_the_others(tmp_path, monkeypatch):
    copy, mine = tmp_path / "copy", tmp_path / "my trainers"
    for folder in (copy, mine):
        folder.mkdir()
    _other_copy(copy)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(map(str, (copy, mine))))
    kept = f"{mine}{os.pathsep}{trainers_dir()}"
    assert doctor.shadowing_check().fix == f"leave them out: export nnUNet_extTrainer='{kept}'"


@pytest.mark.parametrize("fill", [_repository_root, _other_copy, _broken_module])
def test_a_folder_that_leads_to_second_copies_is_named(tmp_path, monkeypatch, fill):
    fill(tmp_path)
    monkeypatch.setenv("nnUNet_extTrainer", f"{trainers_dir()}{os.pathsep}{tmp_path}")
    check = doctor.shadowing_check()
    assert not check.ok
    assert str(tmp_path) in check.found
    assert check.fix == f"leave them out: export nnUNet_extTrainer={trainers_dir()}"


def test_the_package_itself_is_no_folder_of_trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(doctor.PACKAGE))
    assert not doctor.shadowing_check().ok


def test_a_second_copy_on_the_path_is_a_failure(tmp_path, monkeypatch):
    assert doctor.copies_check().ok
    _repository_root(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.copies_check()
    assert not check.ok
    assert str(tmp_path) in check.found
    assert "PYTHONPATH" in check.fix


def test_a_second_installation_is_a_failure(tmp_path, monkeypatch):
    installed = tmp_path / "nnunet_iac-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: nnunet-iac\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.copies_check()
    assert not check.ok
    assert str(tmp_path) in check.found


@pytest.mark.parametrize("available", [True, False])
def test_a_machine_without_a_gpu_is_no_failure(monkeypatch, available):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    check = doctor.device_check()
    assert check.ok
    assert check.found.startswith("cuda, Some GPU" if available else "no CUDA")


def test_without_our_folder_in_the_variable_no_trainer_is_looked_up(nnunet_folders):
    (check,) = doctor.trainer_checks()
    assert not check.ok
    assert check.fix == doctor.EXPORT_TRAINERS


def test_a_look_up_that_dies_shows_its_last_words(monkeypatch):
    def died(command, **arguments):
        return subprocess.CompletedProcess(command, 1, "", "Traceback …\nImportError: no torch\n")

    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    monkeypatch.setattr(doctor.subprocess, "run", died)
    (check,) = doctor.trainer_checks()
    assert not check.ok
    assert "ImportError: no torch" in check.found


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        ({"error": "ModuleNotFoundError: No module named 'timm'"}, "No module named 'timm'"),
        ({"file": "/elsewhere/nnunet_iac/training/trainers.py"}, "comes from /elsewhere"),
    ],
)
def test_a_trainer_that_is_not_ours_or_not_found_is_a_failure(outcome, found):
    check = doctor.trainer_check("nnUNetTrainerIAC", outcome)
    assert not check.ok
    assert found in check.found


@pytest.mark.slow
def test_another_folder_that_cannot_be_imported_is_named_once(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    broken = tmp_path / "mine" / "broken.py"
    broken.write_text("import nowhere_to_be_found")
    folders = f"{tmp_path / 'mine'}{os.pathsep}{trainers_dir()}"
    monkeypatch.setenv("nnUNet_extTrainer", folders)
    monkeypatch.setattr(doctor, "exported_trainers", lambda _: ("nnUNetTrainerIAC",) * 2)
    (check,) = doctor.trainer_checks()
    assert not check.ok
    assert f"{broken} cannot be imported" in check.found
    assert check.fix.endswith(
        f"leave {broken.parent} out: export nnUNet_extTrainer={trainers_dir()}"
    )


def test_a_relative_path_is_reported_to_depend_on_the_current_folder(nnunet_folders, monkeypatch):
    monkeypatch.chdir(nnunet_folders)
    assert "current folder" not in doctor.folder_check("nnUNet_raw").found
    monkeypatch.setenv("nnUNet_raw", "nnUNet_raw")
    check = doctor.folder_check("nnUNet_raw")
    assert check.ok
    assert check.found.endswith("nnUNet_raw depends on the current folder: use an absolute path")
    monkeypatch.setenv("nnUNet_extTrainer", f"mine{os.pathsep}{trainers_dir()}")
    assert "; mine depends on the current folder" in doctor.external_trainers_check().found


@pytest.mark.slow
def test_nnunets_own_look_up_finds_every_trainer_in_a_fresh_process(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    checks = list(doctor.trainer_checks())
    assert tuple(check.name for check in checks) == exported_trainers(trainers_dir())
    assert all(check.ok for check in checks), [check.found for check in checks if not check.ok]


def test_on_a_machine_that_was_never_set_up_only_the_set_up_fails(nnunet_folders, monkeypatch):
    for variable in doctor.DATA_VARIABLES:
        monkeypatch.delenv(variable)
    failed = {check.name for check in doctor.all_checks() if not check.ok}
    assert failed == {
        "nnUNet_raw",
        "nnUNet_preprocessed",
        "nnUNet_results",
        "free disk in nnUNet_results",
        "nnUNet_extTrainer",
        "trainers",
    }


def test_a_foreign_copy_of_a_trainer_is_taken_off_the_variable_and_other_folders_stay(
    monkeypatch, tmp_path
):
    own, copy = tmp_path / "my_trainers", tmp_path / "copy" / "trainers"
    monkeypatch.setenv(doctor.TRAINER_VARIABLE, os.pathsep.join(map(str, (own, copy))))
    outcome = {"file": str(tmp_path / "copy" / "nnunet_iac" / "training" / "trainers.py")}
    check = doctor.trainer_check("nnUNetTrainerIAC", outcome)
    assert str(own) in check.fix
    assert str(copy) not in check.fix
