import pytest

from nnunet_iac.host.trainer_lookup import exported_trainers, find_trainer, trainers_dir


def test_the_trainers_folder_exports_the_three_methods():
    methods = {"nnUNetTrainerIAC", "nnUNetTrainerIACLTH", "nnUNetTrainerIACDiscrete"}
    assert methods <= set(exported_trainers(trainers_dir()))


def test_exported_trainers_are_read_without_running_the_modules(tmp_path):
    (tmp_path / "module.py").write_text(
        "from absent_package import Other, nnUNetTrainerOne\n"
        "from absent_package import Two as nnUNetTrainerTwo\n"
        "raise SystemExit\n"
    )
    assert exported_trainers(tmp_path) == ("nnUNetTrainerOne", "nnUNetTrainerTwo")


def test_a_broken_module_among_the_trainers_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("from nothing import (")
    with pytest.raises(ValueError, match=r"broken\.py must be a Python module"):
        exported_trainers(tmp_path)


def test_nnunets_look_up_finds_a_trainer_without_talking(monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    trainer = find_trainer("nnUNetTrainerIACLTH")
    assert trainer.__module__.startswith("nnunet_iac.")
    assert capsys.readouterr().out == ""


def test_a_trainer_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    with pytest.raises(RuntimeError, match="nnUNetTrainerNowhere"):
        find_trainer("nnUNetTrainerNowhere")
