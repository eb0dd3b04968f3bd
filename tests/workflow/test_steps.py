"""The steps of a study, as far as they need no training."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.workflow import engine, steps
from nnunet_iac.workflow.estimate import plan_lines
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_file import read_study, study_of


def study(**changes: Any) -> Study:
    return study_of(
        {"name": "s", "datasets": [{"dataset": 4}], "methods": {"random": None}, **changes}
    )


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv(steps.GPUS, "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("locks")
def test_trainings_side_by_side_get_a_gpu_each(tmp_path: Path) -> None:
    on_gpus = study(device="cuda")
    with steps._a_gpu(on_gpus) as first, steps._a_gpu(on_gpus) as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})
        with (
            pytest.raises(RuntimeError, match="all of 0, 1 are taken"),
            steps._a_gpu(on_gpus),
        ):
            pass
    with steps._a_gpu(on_gpus) as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "0"}
    assert len([*(tmp_path / "studies").glob(".gpu-*")]) == 2


@pytest.mark.usefixtures("locks")
def test_the_gpus_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with steps._a_gpu(study(device="cuda")) as own:
        assert own == {"CUDA_VISIBLE_DEVICES": "3"}
    with steps._a_gpu(study()) as own:
        assert own == {}


def test_a_run_on_the_cpu_keeps_to_its_threads_unless_the_environment_sets_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert steps.processors(study(threads=3))["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert steps.processors(study(threads=3))["OMP_NUM_THREADS"] == "7"
    on_a_gpu = steps.processors(study(device="cuda"))
    assert (on_a_gpu["nnUNet_n_proc_DA"], on_a_gpu["nnUNet_def_n_proc"]) == ("8", "8")


def test_a_step_that_fails_states_why_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump({"name": "s", "datasets": [{"dataset": 4}], "methods": {"random": None}})
    )

    def broken(given: Study, run: Any) -> dict[str, Any]:
        raise RuntimeError("nnUNetv2_train must succeed")

    monkeypatch.setattr(steps, "train", broken)
    name = "4_2d_0_planned_random_default_0"
    to = tmp_path / "out.json"
    assert steps.main(["train", "--study", str(path), "--run", name, "--to", str(to)]) == 2
    assert "nnUNetv2_train must succeed" in capsys.readouterr().err
    assert not to.exists()


def test_a_training_on_other_cases_is_not_taken(tmp_path: Path) -> None:
    stock, ours, begun = (tmp_path / name for name in ("stock", "ours", "begun"))
    for fold in (stock, ours, begun):
        fold.mkdir()
    for cases in (["b"], ["a"]):  # Nothing has been trained yet.
        steps._require_own_cases(stock, cases, keeps=False)
        steps._require_own_cases(ours, cases, keeps=True)
    RunFolder.of_fold(ours).write_split({"training": ["a"], "validation": ["c"]})
    for fold, keeps in ((stock, False), (ours, True)):
        (fold / "checkpoint_latest.pth").touch()
        steps._require_own_cases(fold, ["a"], keeps)
        with pytest.raises(RuntimeError, match="on the training cases of the study's splits"):
            steps._require_own_cases(fold, ["b"], keeps)
    (begun / "checkpoint_latest.pth").touch()  # Of which it is not known.
    steps._require_own_cases(begun, ["a"], keeps=False)
    assert [path.name for path in begun.iterdir()] == ["checkpoint_latest.pth"]


@pytest.mark.usefixtures("locks")
def test_slurm_gives_every_job_its_gpu_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with steps._a_gpu(study(device="cuda")) as own, steps._a_gpu(study(device="cuda")) as other:
        assert own == other == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # An allocation that runs the study itself.
    with steps._a_gpu(study(device="cuda")) as own:
        assert own == {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_report_of_references_alone_has_results_and_no_table(tmp_path: Path) -> None:
    only = study(methods={})
    (run,) = only.runs
    results = tmp_path / "runs"
    results.mkdir()
    (results / "run.json").write_text(
        json.dumps({"run": run, "method": "reference", "dice": {"a": 0.5}})
    )
    steps.report(only, [results], tmp_path / "report.html")
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["dice"] == {"a": 0.5}
    assert (tmp_path / "tables.csv").read_text() == ""


def test_the_plan_adds_up_what_is_known_and_states_what_is_not() -> None:
    made = study(seeds=[0, 1])
    hours: dict[str, float | str] = dict.fromkeys(made.runs, 0.5)
    hours[next(iter(made.runs))] = "its data are not planned yet"
    lines = plan_lines(made, hours)
    assert "not planned yet" in lines[0]
    assert lines[-1].startswith("    1.00 h  3 trainings")
    assert "no estimate for 1 trainings" in lines[-1]


def test_the_splits_of_a_study_come_before_those_that_planning_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, beside, own = tmp_path / "Dataset004_Hippocampus", [{"train": []}], [{"train": ["a"]}]

    def plan(folder: Path, *_: Any) -> None:
        if not (folder / steps.SPLITS).is_file():
            (folder / steps.SPLITS).write_text(json.dumps(beside))

    monkeypatch.setattr(steps, "preprocessed_folder", lambda name: folder)
    monkeypatch.setattr(steps, "wanted_splits", lambda *_: own)
    monkeypatch.setattr(steps, "_preprocess", plan)
    monkeypatch.setattr(steps, "write_plans_of", lambda *_: None)
    made = study()
    steps.prepare(made, made.datasets[0])
    assert json.loads((folder / steps.SPLITS).read_text()) == own

    def fail(*_: Any) -> None:
        raise RuntimeError("killed")

    (folder / steps.SPLITS).unlink()
    monkeypatch.setattr(steps, "_preprocess", fail)
    with pytest.raises(RuntimeError, match="killed"):
        steps.prepare(made, made.datasets[0])
    assert json.loads((folder / steps.SPLITS).read_text()) == own  # So that it resumes.


def test_planning_sees_no_splits_and_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Dataset004_Hippocampus"
    folder.mkdir()
    for name in (steps.SPLITS, steps.FINGERPRINT):
        (folder / name).write_text(json.dumps("own"))
    content = {"configurations": {"2d": {"data_identifier": "data"}}}

    def command(words: list[str], **environment: str) -> None:
        beside = Path(environment["nnUNet_preprocessed"]) / folder.name
        assert [path.name for path in beside.iterdir()] == [steps.FINGERPRINT]
        for name in (steps.SPLITS, "nnUNetPlans.json"):
            (beside / name).write_text(json.dumps(content))

    monkeypatch.setattr(steps, "read_plans", lambda path: json.loads(path.read_text()))
    monkeypatch.setattr(steps, "raw_folder", lambda name: tmp_path)
    monkeypatch.setattr(steps, "raw_cases", lambda raw: [])
    steps._preprocess(folder, "nnUNetPlans", study().datasets[0], 1, command)
    assert json.loads((folder / steps.SPLITS).read_text()) == "own"
    assert json.loads((folder / "nnUNetPlans.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_studys_folder_finds_the_cells_and_models_that_its_file_names(tmp_path: Path) -> None:
    cells = {"as": "random", "settings": {"genotype": "cells/own_{seed}.json"}}
    document = {
        **{"name": "s", "datasets": [{"dataset": 4}], "methods": {"own": cells, "iac": None}},
        "backbones": {"small": {"adapt": "models/fold_0"}, "planned": None},
    }
    path, folder = tmp_path / "file" / "s.yaml", tmp_path / "results"
    for parent in (path.parent, folder):
        parent.mkdir()
    path.write_text(yaml.safe_dump(document))
    engine._lay_out(folder, path, read_study(path))
    copied = read_study(folder / engine.AS_RUN)
    genotype = copied.settings_of("own", 2).cell.genotype
    assert genotype == str(path.parent / "cells" / "own_2.json")
    assert copied.backbones["small"].adapt == str(path.parent / "models" / "fold_0")
    assert copied == read_study(path)
