import json

import pytest
import torch

from nnunet_iac.cli import main
from nnunet_iac.host.plans import settings_of
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.settings import PRESETS, Settings
from nnunet_iac.workflow.pareto import (
    Pareto,
    ParetoPoint,
    draw_pareto,
    pareto_figure,
    points,
    study_name,
    table,
)
from nnunet_iac.workflow.study_file import read_study
from nnunet_iac.workflow.study_plans import fold_folder, plans_file, plans_name, write_plans_of

DICE = {"reference": 0.5, "continued": 0.55, "iac-lth": 0.7, "random": 0.6}
WORDS = ["pareto", "-d", "4", "-c", "2d", "--caps", "8,4"]


def results(pareto):
    """Return the results that the runs of a study would have."""
    study = pareto.study()
    found = []
    for run in study.runs.values():
        run_results = {
            "dataset": run.dataset.dataset,
            "configuration": run.configuration,
            "backbone": run.backbone,
            "method": run.method,
            "fold": run.fold,
            "patient_pattern": run.dataset.patients,
            "dice": {f"case_{k}": DICE[run.method] + k / 100 for k in range(4)},
        }
        if run.method != "reference":
            run_results["epochs"] = 5
            run_results["parameters"] = {"backbone": 100, "final": 130}
            run_results["macs"] = {"backbone": 1000, "final": 1700}
        found.append(run_results)
    return found


@pytest.fixture
def study(source):
    return Pareto(source(), (8, 4), ("reference", "iac-lth", "random"))


def test_every_reference_is_trained_before_what_starts_from_it(study):
    made = study.study()
    assert [
        (run.backbone, run.method, made.trainer_of(run), plans_name(made, run))
        for run in made.runs.values()
    ] == [
        ("cap8", "reference", "nnUNetTrainer", "nnUNetPlans_xtiny8"),
        ("cap8", "iac-lth", "nnUNetTrainerIACLTH", "pareto_2d_cap8_iac-lth_0"),
        ("cap8", "random", "nnUNetTrainerIACDiscrete", "pareto_2d_cap8_random_0"),
        ("cap4", "reference", "nnUNetTrainer", "nnUNetPlans_xtiny4"),
        ("cap4", "iac-lth", "nnUNetTrainerIACLTH", "pareto_2d_cap4_iac-lth_0"),
        ("cap4", "random", "nnUNetTrainerIACDiscrete", "pareto_2d_cap4_random_0"),
    ]


def test_the_reference_is_trained_even_where_only_retrofits_are_asked_for(source):
    made = Pareto(source(), (8,), ("random",)).study()
    assert [run.method for run in made.runs.values()] == ["reference", "random"]


def written(pareto, name):
    """Return the plans of a run, written as a study writes them."""
    pareto.write_study(pareto.source.folder / "study")
    study = pareto.study()
    for run in study.runs.values():
        write_plans_of(study, run)
    run = next(run for run in study.runs.values() if plans_name(study, run) == name)
    return json.loads(plans_file(study, run).read_text())


def test_plans_of_retrofits_come_from_their_references_and_carry_settings(source):
    content = written(
        Pareto(source(), (8,), ("random",), settings={"finetune_epochs": 3}),
        "pareto_2d_cap8_random_0",
    )
    configuration = content["configurations"]["2d"]
    assert content["source_plans"] == "nnUNetPlans_xtiny8"
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 8, 8]
    settings = settings_of(configuration)
    assert settings.cell.genotype == "random:0"
    # As many as a search, 21 with the preset literal, and the finetuning of its cell take together.
    assert settings.schedule.finetune_epochs == 24


@pytest.mark.parametrize("preset", [name for name in PRESETS if PRESETS[name]])
def test_a_preset_brings_its_values_along(source, preset):
    pareto = Pareto(source(), (8,), ("iac-lth",), settings={"preset": preset})
    settings = settings_of(written(pareto, "pareto_2d_cap8_iac-lth_0")["configurations"]["2d"])
    expected = Settings(preset=preset).to_mapping()
    assert {key: settings.to_mapping()[key] for key in PRESETS[preset]} == PRESETS[preset]
    for part in ("schedule", "stability", "optimisation"):
        for key, value in vars(getattr(settings, part)).items():
            known = list(value) if isinstance(value, tuple) else value
            assert known == expected[key], key


def test_settings_of_the_source_plans_lead_to_no_other_backbone(source):
    foreign = {"backbone_trainer": "Other", "backbone_plans": "other", "finetune_epochs": 7}
    pareto = Pareto(source(iac=foreign), (8,), ("random",))
    settings = settings_of(written(pareto, "pareto_2d_cap8_random_0")["configurations"]["2d"])
    assert settings.data.backbone_trainer == "nnUNetTrainer"
    assert settings.data.backbone_plans == "nnUNetPlans_xtiny8"
    assert settings.schedule.finetune_epochs == 28


def test_seed_and_patients_of_the_settings_are_the_studys(source):
    settings = {"seed": 3, "patient_pattern": "case"}
    made = Pareto(source(), (8,), ("random",), settings=settings).study()
    assert (made.seeds, made.datasets[0].patients) == ((3,), "case")


def test_the_study_file_states_the_same(study, tmp_path):
    path = study.write_study(tmp_path / "out")
    assert read_study(path).runs.keys() == study.study().runs.keys()
    assert study_name(tmp_path / "my_own folder") == "my-own-folder"
    run = next(iter(study.study().runs.values()))
    folder = fold_folder(study.study(), run)
    assert folder.parts[-2:] == ("nnUNetTrainer__nnUNetPlans_xtiny8__2d", "fold_0")


def test_a_point_has_the_cost_of_width_and_cells_and_the_mean_over_cases(study):
    found = {(point.cap, point.method): point for point in points(study, results(study))}
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
    assert (reference.epochs, searched.epochs) == (0, 5)


def test_the_interval_is_over_patients(source):
    one = Pareto(source(), (8,), ("reference",), settings={"patient_pattern": "case"})
    (point,) = points(one, results(one))
    assert (point.patients, point.cases, point.low) == (1, 4, None)
    assert point.dice == pytest.approx(0.515)


def test_a_method_with_a_fold_missing_has_no_point(source):
    two = Pareto(source(), (8,), ("reference",), folds=(0, 1))
    assert len(points(two, results(two))) == 1
    assert points(two, results(two)[:1]) == []


def test_runs_of_another_data_set_or_configuration_are_no_points(study):
    runs = results(study)
    for key in ("dataset", "configuration"):
        assert points(study, [{**run, key: "another"} for run in runs]) == []


def test_a_study_of_other_settings_is_not_overwritten_and_widths_may_be_added(source, tmp_path):
    path = Pareto(source(), (8,), ("random",)).write_study(tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError, match=r"one comparison of widths; .* another folder with -o"):
        Pareto(source(), (8,), ("random",), settings={"finetune_epochs": 7}).write_study(tmp_path)
    assert path.read_text() == before
    Pareto(source(), (8, 4), ("random",)).write_study(tmp_path)
    assert "cap4" in path.read_text()
    path.write_text("name: [")
    with pytest.raises(ValueError, match=r"study\.yaml must be a YAML file"):
        Pareto(source(), (8,), ("random",)).write_study(tmp_path)


def test_the_command_writes_a_study_and_draws_once_there_are_results(
    preprocessed, source, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main([*WORDS, "-o", str(out)]) == 0
    assert f"nnunet-iac study {out / 'study.yaml'} -o {out}" in capsys.readouterr().out
    assert read_study(out / "study.yaml").name == "out"
    assert (preprocessed / "nnUNetPlans_xtiny8.json").is_file()
    assert not (out / "pareto.png").exists()
    pareto = Pareto(source(), (8, 4), ("reference", "continued", "iac-lth", "random"), name="out")
    write_json(out / "results.json", {"runs": results(pareto)})
    assert main([*WORDS, "-o", str(out)]) == 0
    assert "     8  iac-lth" in capsys.readouterr().out
    document = json.loads((out / "pareto.json").read_text())
    assert [(p["cap"], p["method"]) for p in document["points"]][:3] == [
        (8, "reference"),
        (8, "continued"),
        (8, "iac-lth"),
    ]
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_prints_the_trainings_and_writes_nothing(preprocessed, capsys):
    before = sorted(path.name for path in preprocessed.iterdir())
    assert main([*WORDS, "--methods", "random", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "nnUNetTrainerIACDiscrete" in lines[1]
    assert "not written yet" in lines[0]
    assert sorted(path.name for path in preprocessed.iterdir()) == before


def test_an_old_name_of_a_setting_is_logged_and_replaced_in_the_study(
    preprocessed, tmp_path, capsys
):
    assert main([*WORDS, "--set", "stable_checks=2", "-o", str(tmp_path)]) == 0
    note = "the setting stable_checks is deprecated: write patience"
    assert f"warning: {note}" in capsys.readouterr().err
    assert read_study(tmp_path / "study.yaml").settings["patience"] == 2


def test_a_trainer_that_ignores_the_widths_of_plans_is_refused(source):
    class Stubborn(source().trainer):
        @staticmethod
        def build_network_architecture(*arguments, **named):
            return torch.nn.Conv2d(2, 2, 1)

    with pytest.raises(ValueError, match="the network of Stubborn has 6 parameters"):
        Pareto(source(trainer=Stubborn), (8, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods random,random", "named once; got random, random"),
        ("-f 0,0", "named once; got 0, 0"),
        ("--set skip=nested", "skip is what the methods differ in"),
        ("--caps 8,64", "32 channels; got 64"),
        ("--set tetha=1", "'tetha'"),
        ("-p Absent", "name others with -p"),
        ("-c stage_two", "also takes the labels of 3d_lowres"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(preprocessed, capsys, options, message):
    before = sorted(path.name for path in preprocessed.iterdir())
    assert main([*WORDS, *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in preprocessed.iterdir()) == before


@pytest.mark.parametrize(("caps", "folds"), [((), (0,)), ((8,), ())])
def test_nothing_to_compare_is_refused(source, caps, folds):
    with pytest.raises(ValueError, match=f"got {len(caps)} caps and {len(folds)} folds"):
        Pareto(source(), caps, folds=folds)


def _point(cap, method, **changes):
    values = {"parameters": 10.0 * cap, "macs": 100.0 * cap, "dice": 0.8, "low": 0.7, "high": 0.9}
    return ParetoPoint(cap, method, **{**values, **changes}, patients=3, cases=6, epochs=5)


def test_the_figure_has_a_line_per_method_in_each_panel_and_bars_where_there_are_intervals():
    points = [_point(8, "reference"), _point(16, "reference"), _point(8, "random", low=None)]
    for axes, costs in zip(pareto_figure(points).axes, ([80, 160], [800, 1600]), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["backbone"].get_xdata()) == costs
        assert list(lines["random"].get_xdata()) == costs[:1]
        assert len(axes.get_lines()) == 2 + 2  # methods, and intervals of the backbone


def test_a_figure_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got none"):
        draw_pareto([], tmp_path / "pareto.png")


def test_the_table_states_where_there_is_no_interval():
    lines = table([_point(8, "reference"), _point(8, "random", low=None)]).splitlines()
    assert lines[1].split()[2:] == ["80", "800", "5", "0.800", "0.700", "to", "0.900", "3"]
    assert lines[2].split()[2:] == ["80", "800", "5", "0.800", "-", "3"]
