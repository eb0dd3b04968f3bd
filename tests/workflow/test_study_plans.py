"""Plans of runs whose length another run decides."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from planned_unets import architecture

from nnunet_iac.host.planning import CONTINUE_TRAINER, LTH_TRAINER
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.workflow import serial
from nnunet_iac.workflow.serial import steps_of
from nnunet_iac.workflow.study import DataSet, Study, StudyMethod
from nnunet_iac.workflow.study_plans import (
    fold_folder,
    plans_name,
    untrained_settings,
    write_plans_of,
)

DATASET = "Dataset900_Frames"
STUDY = Study(
    name="s",
    datasets=(DataSet(DATASET, folds=(0, 1)),),
    methods={
        "equal": StudyMethod(CONTINUE_TRAINER, epochs_of="iac-lth"),
        "iac-lth": StudyMethod(LTH_TRAINER),
    },
)


def test_a_method_with_the_epochs_of_another_ends_no_earlier() -> None:
    study = replace(STUDY, settings={"finetune_patience": 5})
    assert study.settings_of("iac-lth", 0).schedule.finetune_patience == 5
    assert study.settings_of("equal", 0).schedule.finetune_patience is None


def test_plans_wait_for_the_epochs_of_another_run_and_differ_from_fold_to_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "architecture": architecture(2, (4, 8, 8), 1),
            }
        },
    }
    write_json(tmp_path / DATASET / "nnUNetPlans.json", plans)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setattr(
        "nnunet_iac.workflow.study_plans.preprocessed_folder", lambda name: tmp_path / name
    )
    cost = SimpleNamespace(
        phases={name: SimpleNamespace(epochs=k) for name, k in (("search", 20), ("finetune", 3))}
    )
    monkeypatch.setattr(RunFolder, "read_cost", lambda self: cost)
    equal = [run for run in STUDY.runs.values() if run.method == "equal"]
    assert [write_plans_of(STUDY, run) for run in equal] == [None, None]
    search = STUDY.sources_of(equal[1])[1]
    write_json(fold_folder(STUDY, search) / "validation" / "summary.json", {})
    path = write_plans_of(STUDY, equal[1])
    assert path is not None
    assert path.stem == plans_name(STUDY, equal[1]) == "s_2d_planned_equal_0_fold1"
    assert read_json(path)["configurations"]["2d"]["iac"]["finetune_epochs"] == 23
    assert write_plans_of(STUDY, equal[0]) is None


def test_a_run_comes_after_those_it_takes_epochs_from() -> None:
    order = [file for file, _, _ in steps_of(STUDY)]
    for fold in (0, 1):
        names = [f"runs/{DATASET}_2d_{fold}_planned_{m}_default_0" for m in ("iac-lth", "equal")]
        assert order.index(names[0]) < order.index(names[1])


def test_a_study_decides_for_its_untrained_reference_whether_the_source_is_scored() -> None:
    assert untrained_settings(STUDY, STUDY.datasets[0]) == {"finetune_epochs": 0}
    silent = replace(STUDY, settings={"score_source": False, "finetune_epochs": 5})
    own = replace(STUDY.datasets[0], patients="p")
    assert untrained_settings(silent, own) == {
        **{"finetune_epochs": 0, "score_source": False, "patient_pattern": "p"},
    }


def test_an_interrupted_study_states_how_far_it_is(monkeypatch, tmp_path):
    def interrupted(command):
        raise KeyboardInterrupt

    planned = [("a", "first", lambda command: {}), ("b", "second", interrupted)]
    for name, result in {"import_nnunet": None, "require_ready": None}.items():
        monkeypatch.setattr(serial, name, lambda *_, result=result: result)
    monkeypatch.setattr(serial, "study_folder", lambda study: tmp_path)
    monkeypatch.setattr(serial, "steps_of", lambda study: planned)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 steps are done; run the same command"):
        serial.run_serially(STUDY, print)
    assert (tmp_path / "a.json").is_file()
