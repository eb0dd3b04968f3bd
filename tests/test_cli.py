import io
import json
import os
import re
import shlex

import pytest
import torch
from planned_unets import architecture

import nnunet_iac
from nnunet_iac.cli import main
from nnunet_iac.host import doctor
from nnunet_iac.host.terminal import HarmlessStream
from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import TrajectoryRow
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import Observation, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import Edge
from nnunet_iac.workflow import demo

PLANS = {
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d", "architecture": architecture(2, (4, 8, 8), 1)}
    },
}


@pytest.fixture
def preprocessed(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset004_Hippocampus"
    write_json(folder / "nnUNetPlans.json", PLANS)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return folder


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{nnunet_iac.__version__}\n"


@pytest.mark.parametrize(("wanted", "found"), [(None, "passive"), ("active", "active")])
def test_threads_wait_passively_unless_the_user_wants_something_else(monkeypatch, wanted, found):
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": wanted} if wanted else {})
    assert main(["trainers-dir"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == found


def test_without_a_verb_the_help_lists_them_all(capsys):
    assert main([]) == 2
    usage = capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out == usage
    for verb in ("demo", "plan", "xtiny", "pareto", "show", "replay", "doctor", "trainers-dir"):
        assert f"\n    {verb}" in usage


def test_trainers_dir_prints_nothing_but_the_folder(capsys):
    assert main(["trainers-dir"]) == 0
    assert capsys.readouterr().out == f"{trainers_dir()}\n"


def test_plan_takes_settings_from_every_set_and_names_the_next_command(preprocessed, capsys):
    words = ["plan", "-d", "4", "-c", "2d", "-o", "Mine", "--set", "seed=3", "preset=adaptive"]
    words += ["--set", "residual=zero"]
    assert main(words) == 0
    section = read_json(preprocessed / "Mine.json")["configurations"]["2d"]["iac"]
    assert section == {"seed": 3, "preset": "adaptive", "residual": "zero"}
    first = capsys.readouterr().out
    assert f"wrote {preprocessed / 'Mine.json'}" in first
    assert "nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerIACLTH -p Mine" in first
    assert main(words) == 0
    assert f"unchanged: {preprocessed / 'Mine.json'}" in capsys.readouterr().out


def test_a_command_to_paste_is_quoted(preprocessed, capsys):
    assert main(["plan", "-d", "4", "-c", "2d", "-o", "x;touch y"]) == 0
    (command,) = re.findall("next: (.*)", capsys.readouterr().out)
    assert shlex.split(command)[-2:] == ["-p", "x;touch y"]


@pytest.mark.parametrize("name", ["../../x", "a__b", "..\x00", "a/b"])
def test_a_configuration_whose_name_leads_elsewhere_is_refused(preprocessed, capsys, name):
    plans = read_json(preprocessed / "nnUNetPlans.json")
    plans["configurations"][name] = plans["configurations"]["2d"]
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert main(["plan", "-d", "4", "-c", name, "-o", "Mine"]) == 2
    assert "the configuration must be a plain file name" in capsys.readouterr().err
    assert not (preprocessed / "Mine.json").exists()


def test_an_identifier_that_is_too_long_for_files_is_refused_before_any_is_written(
    preprocessed, capsys
):
    before = sorted(preprocessed.iterdir())
    for length in (181, 300, 5000):
        assert main(["plan", "-d", "4", "-c", "2d", "-o", "x" * length]) == 2
        message = capsys.readouterr().err
        assert "must have at most 180 bytes" in message
        assert f"got {length} of" in message
    assert sorted(preprocessed.iterdir()) == before
    assert main(["plan", "-d", "4", "-c", "2d", "-o", "x" * 180]) == 0


def test_what_an_encoding_lacks_is_spelled_out():
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="latin-1")
    HarmlessStream(stream).write("Größe … \u03b1")
    stream.flush()
    assert written.getvalue().decode("latin-1") == r"Größe \u2026 \u03b1"


@pytest.mark.parametrize("stream", ["out", "err"])
def test_text_of_files_cannot_control_the_terminal(tmp_path, random_genotype, capsys, stream):
    evil = "\x1b]0;title\x07\x1b[2J\u202e\x9b"
    run = RunFolder.of_fold(tmp_path)
    run.write_settings(Settings())
    if stream == "out":
        run.write_genotype(random_genotype(0))
        run.write_health((HealthEvent(1, evil, None, f"φ {evil}"),))
    assert main(["show", str(tmp_path if stream == "out" else tmp_path / evil)]) in (0, 2)
    text = getattr(capsys.readouterr(), stream)
    assert r"\x1b]0;title\x07\x1b[2J\u202e\x9b" in text
    assert not set("\x1b\x07\u202e\x9b") & set(text)


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        (["skip=attention"], "IACDiscrete"),
        (["genotype=random:1"], "IACDiscrete"),
        (["trainable_part=decoder"], "Continue"),
        (["retention=l2-sp"], "Continue"),
        (["retention=lwf"], "IACDiscrete"),
        (["retention=lwf"], "Continue"),
        (["search_epochs=20", "patience=5"], "IAC"),
        (["trainable_part=cells+norms"], "IACLTH"),
    ],
)
def test_plan_names_a_trainer_that_takes_the_settings(preprocessed, capsys, settings, trainer):
    assert main(["plan", "-d", "4", "-c", "2d", "-o", "Mine", "--set", *settings]) == 0
    assert f" -tr nnUNetTrainer{trainer} -p Mine" in capsys.readouterr().out


def test_plan_logs_an_old_name_of_a_setting_and_writes_its_present_one(preprocessed, capsys):
    words = "plan -d 4 -c 2d -o Mine --set stable_checks=2"
    assert main(words.split()) == 0
    note = "the setting stable_checks is deprecated: write patience"
    assert f"warning: {note}" in capsys.readouterr().err
    assert read_json(preprocessed / "Mine.json")["configurations"]["2d"]["iac"] == {"patience": 2}


def test_plan_starts_from_the_plans_it_is_given(preprocessed):
    assert main(["plan", "-d", "4", "-c", "2d", "-o", "First", "--set", "seed=3"]) == 0
    assert main(["plan", "-d", "4", "-c", "2d", "-p", "First", "-o", "Second"]) == 0
    assert read_json(preprocessed / "Second.json")["source_plans"] == "First"


def test_show_prints_a_cell_and_draws_it_only_where_asked(tmp_path, random_genotype, capsys):
    genotype = random_genotype(0)
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_genotype(genotype)
    assert main(["show", str(tmp_path / "fold_0")]) == 0
    assert capsys.readouterr().out == f"{genotype}\n"
    assert main(["show", str(run.genotype_file), "-o", str(tmp_path / "cell.svg")]) == 0
    assert "<svg" in (tmp_path / "cell.svg").read_text(encoding="utf-8")
    assert str(tmp_path / "cell.svg") in capsys.readouterr().out


def test_show_shows_the_health_of_the_search_that_found_the_cell(tmp_path, random_genotype, capsys):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_genotype(random_genotype(0))
    run.write_settings(Settings())
    assert main(["show", str(tmp_path / "fold_0")]) == 0
    assert capsys.readouterr().out == f"{random_genotype(0)}\n\nHealth:\n  not recorded\n"
    run.write_health(())
    assert main(["show", str(tmp_path / "fold_0")]) == 0
    assert capsys.readouterr().out == f"{random_genotype(0)}\n\nHealth:\n  nothing to report\n"
    run.write_health(
        (
            HealthEvent(17, "dead edge", Edge(1, 3), "no gradient moved its alpha"),
            HealthEvent(40, "plateau", None, "the training loss does not fall"),
        )
    )
    assert main(["show", str(run.genotype_file)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "Health:",
        "  epoch 17, edge 1->3: dead edge, no gradient moved its alpha",
        "  epoch 40: plateau, the training loss does not fall",
    ]


def test_show_shows_the_health_of_a_search_that_has_found_nothing_yet(tmp_path, capsys):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_settings(Settings())
    run.write_health((HealthEvent(17, "non-finite", Edge(1, 3), "gradients must be finite"),))
    assert main(["show", str(tmp_path / "fold_0")]) == 2
    printed = capsys.readouterr()
    assert "epoch 17, edge 1->3: non-finite" in printed.out
    assert "error: the folder must be a fold whose search has ended" in printed.err


def test_replay_takes_fold_or_record_and_its_status_states_whether_they_agree(tmp_path, capsys):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    seen = Observation(1, torch.zeros(14, 7), torch.zeros(14))
    decision = idle(seen, Settings().cell)
    arrays = (seen.alpha, seen.beta, decision.importance, decision.divergence)
    row = TrajectoryRow(
        1, *(array.numpy() for array in (*arrays, decision.threshold, decision.active))
    )
    run.write_settings(Settings())
    run.write_trajectory([row])
    run.write_events(())
    for path in (run.path.parent, run.path):
        assert main(["replay", str(path)]) == 0
        printed = capsys.readouterr().out
        assert printed == "recomputed 1 epochs, 0 prunes and no genotype\nagrees\n"
    row.active[0, 0] = False
    run.write_trajectory([row])
    assert main(["replay", str(run.path)]) == 1
    printed = capsys.readouterr().out
    assert "epoch 1, edge 0->2: active of identity is False" in printed
    assert "agrees" not in printed


def test_an_error_is_one_message_without_a_traceback(preprocessed, capsys):
    assert main(["plan", "-d", "4", "-c", "2d", "-o", "Mine", "--set", "tetha=1"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "unknown setting 'tetha'" in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(("ok", "status", "last"), [(True, 0, "all well"), (False, 1, "1 failed")])
def test_the_doctors_status_is_one_if_anything_failed(monkeypatch, capsys, ok, status, last):
    checks = [
        doctor.Check("python", "3.11"),
        doctor.Check("torch", "9.9", "" if ok else "pip install torch"),
    ]
    monkeypatch.setattr(doctor, "all_checks", lambda: iter(checks))
    assert main(["doctor"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert ("      fix: pip install torch" in lines) is not ok


@pytest.mark.parametrize("words", [[], ["--quick"]])
def test_demo_runs_on_the_given_device_and_names_its_report(monkeypatch, tmp_path, capsys, words):
    calls = []

    def run_demo(folder, device, quick, report):
        report("[1/7] a step")
        calls.append((folder, device, quick))
        return folder / "report" / "index.html"

    monkeypatch.setattr(demo, "run_demo", run_demo)
    assert main(["demo", "-o", str(tmp_path), "-device", "cpu", *words]) == 0
    assert calls == [(tmp_path, "cpu", bool(words))]
    printed = capsys.readouterr().out
    assert "[1/7] a step" in printed
    assert str(tmp_path / "report" / "index.html") in printed


def test_an_error_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    def broken():
        raise KeyError("a fault of ours")

    monkeypatch.setattr(doctor, "all_checks", broken)
    with pytest.raises(KeyError, match="a fault of ours"):
        main(["doctor"])


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (KeyboardInterrupt(), "interrupted: run the same command again\n"),
        (KeyboardInterrupt("3 of 9 steps are done"), "interrupted: 3 of 9 steps are done\n"),
    ],
)
def test_an_interrupted_verb_ends_with_one_line(monkeypatch, capsys, raised, line):
    def interrupted():
        raise raised

    monkeypatch.setattr(doctor, "all_checks", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == line
