import json

import pytest
import torch

from nnunet_iac.cli import main
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import settings_of
from nnunet_iac.runs.records import CostRecord, NetworkCost, PhaseCost
from nnunet_iac.workflow import pareto
from nnunet_iac.workflow.pareto import Pareto, train
from nnunet_iac.workflow.pareto_figure import draw_pareto, pareto_figure
from nnunet_iac.workflow.pareto_points import Point, points, table

DICE = {"reference": 0.5, "continued": 0.55, "iac-lth": 0.7, "random": 0.6}
WORDS = ["pareto", "-d", "4", "-c", "2d", "--caps", "8,4"]


def _scored(name, dice):
    metrics = {"1": {"Dice": dice, "n_ref": 9}}
    return {"prediction_file": name, "reference_file": name, "metrics": metrics}


@pytest.fixture
def trained(source, monkeypatch):
    """Return the commands that were run; each leaves what nnU-Net would leave."""
    commands = []

    def run(command, log, device):
        commands.append(command)
        folder = log.parent
        method = command[command.index("-p") + 1].rpartition("_")[2]
        value = DICE.get(method, DICE["reference"])
        cases = [_scored(f"case_{k}.nii.gz", value + k / 100) for k in range(4)]
        (folder / "validation").mkdir(parents=True)
        summary = {"metric_per_case": cases}
        (folder / "validation" / "summary.json").write_text(json.dumps(summary))
        if method in DICE:
            networks = {"backbone": NetworkCost(100, 1000), "final": NetworkCost(130, 1700)}
            phases = {"search": PhaseCost(3, 1.0), "finetune": PhaseCost(2, 1.0)}
            RunFolder.of_fold(folder).write_cost(CostRecord(phases, networks))

    monkeypatch.setattr(pareto, "_run", run)
    return commands


@pytest.fixture
def study(source):
    return Pareto(source(), (8, 4), ("reference", "iac-lth", "random"))


def test_every_reference_is_trained_before_what_starts_from_it(study):
    assert [(run.cap, run.method, run.trainer, run.plans) for run in study.runs()] == [
        (8, "reference", "nnUNetTrainer", "nnUNetPlans_xtiny8"),
        (8, "iac-lth", "nnUNetTrainerIACLTH", "nnUNetPlans_xtiny8_iac-lth"),
        (8, "random", "nnUNetTrainerIACDiscrete", "nnUNetPlans_xtiny8_random"),
        (4, "reference", "nnUNetTrainer", "nnUNetPlans_xtiny4"),
        (4, "iac-lth", "nnUNetTrainerIACLTH", "nnUNetPlans_xtiny4_iac-lth"),
        (4, "random", "nnUNetTrainerIACDiscrete", "nnUNetPlans_xtiny4_random"),
    ]


def test_the_reference_is_trained_even_where_only_retrofits_are_asked_for(source):
    assert [run.method for run in Pareto(source(), (8,), ("random",)).runs()] == [
        "reference",
        "random",
    ]


def test_plans_of_retrofits_come_from_their_references_and_carry_settings(source):
    study = Pareto(source(), (8,), ("random",), settings={"finetune_epochs": 3})
    study.write_plans()
    content = json.loads((study.source.folder / "nnUNetPlans_xtiny8_random.json").read_text())
    configuration = content["configurations"]["2d"]
    assert content["source_plans"] == "nnUNetPlans_xtiny8"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 8, 8]
    settings = settings_of(configuration)
    assert settings.genotype == "random:0"
    # As many as a search, 200 at most, and the finetuning of its cell take together.
    assert settings.finetune_epochs == 203


def test_retrofits_start_from_the_trainer_of_the_references(source):
    class Short(source().trainer):
        pass

    study = Pareto(source(trainer=Short), (8,), ("random",))
    study.write_plans()
    content = json.loads((study.source.folder / "nnUNetPlans_xtiny8_random.json").read_text())
    assert content["configurations"]["2d"]["iac"]["backbone_trainer"] == "Short"


def test_what_is_finished_is_not_trained_again(study, trained):
    lines = []
    train(study, "cpu", lines.append)
    assert len(trained) == 6
    assert lines[0] == (
        "[1/6] nnUNetv2_train 4 2d 0 -tr nnUNetTrainer -p nnUNetPlans_xtiny8 -device cpu"
    )
    train(study, "cpu", lines.append)
    assert len(trained) == 6
    assert lines[-1] == "[6/6] done before"


def test_what_was_interrupted_goes_on(study):
    run = study.runs()[0]
    assert "--c" not in study.command(run, "cpu")
    folder = study.folder(run)
    folder.mkdir(parents=True)
    (folder / "checkpoint_latest.pth").touch()
    assert study.command(run, "cpu")[-1] == "--c"


def test_a_point_has_the_cost_of_width_and_cells_and_the_mean_over_cases(study, trained):
    train(study, "cpu", lambda line: None)
    found = {(point.cap, point.method): point for point in points(study)}
    assert len(found) == 6
    width = study.source.cost(8)
    reference, searched = found[8, "reference"], found[8, "iac-lth"]
    assert (reference.parameters, reference.macs) == (width.parameters, width.macs)
    # The cells cost 130 - 100 parameters and 1700 - 1000 products.
    assert (searched.parameters, searched.macs) == (width.parameters + 30, width.macs + 700)
    # Cases 0.70 0.71 0.72 0.73.
    assert searched.dice == pytest.approx(0.715)
    assert searched.low < 0.715 < searched.high
    assert (searched.patients, searched.cases) == (4, 4)
    # Three epochs of search and two of finetuning.
    assert (reference.epochs, searched.epochs) == (0, 5)


def test_the_interval_is_over_patients(source, trained):
    one = Pareto(source(), (8,), ("reference",), settings={"patient_pattern": "case"})
    train(one, "cpu", lambda line: None)
    (point,) = points(one)
    assert (point.patients, point.cases, point.low) == (1, 4, None)
    assert point.dice == pytest.approx(0.515)


def test_unfinished_trainings_have_no_point(study, trained):
    assert points(study) == []


def test_the_command_trains_tabulates_and_draws(preprocessed, trained, tmp_path, capsys):
    assert main([*WORDS, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "     8  iac-lth" in printed
    document = json.loads((tmp_path / "out" / "pareto.json").read_text())
    assert [(p["cap"], p["method"]) for p in document["points"]][:3] == [
        (8, "reference"),
        (8, "continued"),
        (8, "iac-lth"),
    ]
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_prints_the_trainings_and_writes_nothing(preprocessed, trained, capsys):
    before = sorted(path.name for path in preprocessed.iterdir())
    assert main([*WORDS, "--methods", "random", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("-tr nnUNetTrainer -p nnUNetPlans_xtiny8 -device cpu")
    assert not trained
    assert sorted(path.name for path in preprocessed.iterdir()) == before


def test_trainings_that_do_not_start_from_a_failed_one_go_on(
    preprocessed, trained, monkeypatch, tmp_path, capsys
):
    succeed = pareto._run

    def run(command, log, device):
        if "nnUNetPlans_xtiny8" in command:
            raise RuntimeError("the disk is full")
        succeed(command, log, device)

    monkeypatch.setattr(pareto, "_run", run)
    assert main([*WORDS, "--methods", "reference,random", "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "[2/4] left out" in told.out
    assert "error: the disk is full" in told.out
    assert "1 failed" in told.err
    points = json.loads((tmp_path / "out" / "pareto.json").read_text())["points"]
    assert [(point["cap"], point["method"]) for point in points] == [
        (4, "reference"),
        (4, "random"),
    ]


def test_what_was_trained_with_other_plans_is_refused(source, trained):
    first = Pareto(source(), (8,), ("random",), settings={"finetune_epochs": 3})
    train(first, "cpu", lambda line: None)
    plans_file = first.source.folder / "nnUNetPlans_xtiny8_random.json"
    model = first.folder(first.runs()[1]).parent
    (model / "plans.json").write_text(plans_file.read_text())
    plans_file.unlink()
    second = Pareto(source(), (8,), ("random",), settings={"finetune_epochs": 5})
    with pytest.raises(ValueError, match=rf"{model} must have been trained with the plans"):
        train(second, "cpu", lambda line: None)


def test_settings_of_the_source_plans_lead_to_no_other_backbone(source):
    foreign = {"backbone_trainer": "Other", "backbone_plans": "other", "finetune_epochs": 7}
    study = Pareto(source(iac=foreign), (8,), ("random",))
    study.write_plans()
    content = json.loads((study.source.folder / "nnUNetPlans_xtiny8_random.json").read_text())
    settings = settings_of(content["configurations"]["2d"])
    assert (settings.backbone_trainer, settings.backbone_plans) == ("nnUNetTrainer", None)
    assert settings.finetune_epochs == 207


def test_a_trainer_that_ignores_the_widths_of_plans_is_refused(source):
    class Stubborn(source().trainer):
        @staticmethod
        def build_network_architecture(*arguments, **named):
            return torch.nn.Conv2d(2, 2, 1)

    with pytest.raises(ValueError, match="the network of Stubborn has 6 parameters"):
        Pareto(source(trainer=Stubborn), (8, 4))


def test_a_training_that_fails_is_an_error_with_the_end_of_its_output(preprocessed):
    log = preprocessed / "output.log"
    with pytest.raises(RuntimeError, match=r"exited with 2; .*output\.log ends(.|\n)*usage"):
        pareto._run(["nnUNetv2_train", "--absent"], log, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods reference,darts", "reference, continued, iac-lth, iac, random; got darts"),
        ("--methods random,random", "named once; got random, random"),
        ("-f 0,0", "named once; got 0, 0"),
        ("--set skip=nested", "skip is what the methods differ in"),
        ("--caps 8,64", "32 channels; got 64"),
        ("--set tetha=1", "'tetha'"),
        ("-p Absent", "-overwrite_plans_name Absent"),
        ("-c stage_two", "also takes the labels of 3d_lowres"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(preprocessed, capsys, options, message):
    before = sorted(path.name for path in preprocessed.iterdir())
    assert main([*WORDS, *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in preprocessed.iterdir()) == before


def test_without_a_folder_of_results_the_variable_is_named(source, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(RuntimeError, match="nnUNet_results must name"):
        Pareto(source(), (8,))


@pytest.mark.parametrize(("caps", "folds"), [((), (0,)), ((8,), ())])
def test_nothing_to_compare_is_refused(source, caps, folds):
    with pytest.raises(ValueError, match=f"got {len(caps)} caps and {len(folds)} folds"):
        Pareto(source(), caps, folds=folds)


def _point(cap, method, **changes):
    values = {"parameters": 10.0 * cap, "macs": 100.0 * cap, "dice": 0.8, "low": 0.7, "high": 0.9}
    return Point(cap, method, **{**values, **changes}, patients=3, cases=6, epochs=5)


def test_the_figure_has_a_line_per_method_in_each_panel_and_bars_where_there_are_intervals():
    points = [_point(8, "reference"), _point(16, "reference"), _point(8, "random", low=None)]
    for axes, costs in zip(pareto_figure(points).axes, ([80, 160], [800, 1600]), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["reference"].get_xdata()) == costs
        assert list(lines["random"].get_xdata()) == costs[:1]
        assert len(axes.get_lines()) == 2 + 2  # methods, and intervals of the reference


def test_a_figure_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got none"):
        draw_pareto([], tmp_path / "pareto.png")


def test_the_table_says_where_there_is_no_interval():
    lines = table([_point(8, "reference"), _point(8, "random", low=None)]).splitlines()
    assert lines[1].split()[2:] == ["80", "800", "5", "0.800", "0.700", "to", "0.900", "3"]
    assert lines[2].split()[2:] == ["80", "800", "5", "0.800", "-", "3"]
