import json

import pytest

from nnunet_iac.cli import main
from nnunet_iac.width.planning import PROVENANCE

WORDS = ["xtiny", "-d", "4", "-c", "2d"]
QUICK = [*WORDS, "-K", "1", "--seeds", "2"]


STUBBORN = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn


class nnUNetTrainerStubborn(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, channels, classes, deep_supervision
    ):
        return nn.Conv2d(channels, classes, 3, padding=1)
"""
"""Ignores the plans: 2 * 2 * 9 + 2 parameters."""


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_pick_becomes_plans_and_a_figure_beside_the_source(preprocessed, capsys):
    assert main(QUICK) == 0
    printed = capsys.readouterr()
    assert "warning: " in printed.out
    assert printed.err == "device: cpu\nseed 1 of 2\nseed 2 of 2\n"
    (path,) = preprocessed.glob("nnUNetPlans_xtiny*.json")
    provenance = json.loads(path.read_text())["configurations"]["2d"][PROVENANCE]
    figure = path.with_name(f"{path.stem}_2d.png")
    assert f"wrote {path}\ndrawn: {figure}\n" in printed.out
    assert figure.is_file()
    assert path.stem == f"nnUNetPlans_xtiny{provenance['cap']}"
    assert f"pick: {provenance['cap']} (rule curve" in printed.out
    chosen = provenance["chosen"]
    assert (chosen["seeds"], chosen["fold"], chosen["cases"]) == ([0, 1], 0, ["case_0"])
    assert f"next: nnUNetv2_train 4 2d FOLD -p {path.stem}" in printed.out
    assert (
        f"then: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerIACDiscrete -p {path.stem}" in printed.out
    )


def test_a_second_choice_of_the_same_width_leaves_record_and_figure_of_the_first(
    preprocessed, capsys
):
    # Of five candidates only the second widest can be picked.
    words = [*QUICK, "--caps", "16,8,4,2,1"]
    assert main(words) == 0
    path, figure = (
        preprocessed / "nnUNetPlans_xtiny8.json",
        preprocessed / "nnUNetPlans_xtiny8_2d.png",
    )
    before = path.read_bytes(), figure.read_bytes()
    capsys.readouterr()
    assert main([*words, "--seeds", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"unchanged: {path}\nthe record of the earlier choice stays; -o NEW_ID" in printed
    assert "drawn" not in printed
    assert (path.read_bytes(), figure.read_bytes()) == before
    figure.unlink()
    assert main(words) == 0
    assert f"drawn: {figure}" in capsys.readouterr().out
    assert figure.is_file()


def test_one_identifier_takes_a_cap_for_both_configurations(preprocessed, capsys):
    assert main([*WORDS, "--cap", "8"]) == 0
    capsys.readouterr()
    assert main(["xtiny", "-d", "4", "-c", "3d_fullres", "--cap", "8"]) == 0
    printed = capsys.readouterr().out
    assert "wrote" in printed
    assert "next: nnUNetv2_train 4 3d_fullres FOLD -p nnUNetPlans_xtiny8" in printed


def test_the_next_commands_train_with_the_trainer_whose_network_was_scored(preprocessed, capsys):
    assert main([*WORDS, "--cap", "8", "-tr", "nnUNetTrainerBN"]) == 0
    printed = capsys.readouterr().out
    assert "next: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerBN -p nnUNetPlans_xtiny8" in printed
    content = json.loads((preprocessed / "nnUNetPlans_xtiny8.json").read_text())
    assert content["configurations"]["2d"]["iac"] == {"backbone_trainer": "nnUNetTrainerBN"}


@pytest.mark.parametrize("options", ["", "--cap 8"])
def test_a_trainer_that_ignores_the_widths_is_refused(preprocessed, capsys, monkeypatch, options):
    folder = preprocessed.parent / "trainers"
    folder.mkdir()
    (folder / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    before = _names(preprocessed)
    assert main([*QUICK, "-tr", "nnUNetTrainerStubborn", *options.split()]) == 2
    printed = capsys.readouterr()
    assert "nnUNetTrainerStubborn has 38 parameters under the cap 32 and 38 under" in printed.err
    assert "seed 1" not in printed.err
    assert _names(preprocessed) == before


def test_a_dry_run_prints_the_same_and_writes_nothing(preprocessed, capsys):
    before = _names(preprocessed)
    assert main([*QUICK, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "pick: " in printed
    assert "wrote" not in printed
    assert _names(preprocessed) == before


def test_a_named_cap_is_written_without_scoring_even_without_data(preprocessed, capsys):
    (preprocessed / "nnUNetPlans_2d").unlink()
    assert main([*WORDS, "--cap", "4", "-o", "Narrow"]) == 0
    printed = capsys.readouterr().out
    assert "ln S" not in printed
    content = json.loads((preprocessed / "Narrow.json").read_text())
    configuration = content["configurations"]["2d"]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 4, 4]
    assert configuration[PROVENANCE]["chosen"] is None
    assert not (preprocessed / "Narrow.png").exists()


@pytest.mark.parametrize(
    "options", ["--score frobenius", "--caps 32,24,12,6,3", "-f 1", "--within 4,2"]
)
def test_options_reach_the_study(preprocessed, options, capsys):
    assert main([*QUICK, *options.split()]) == 0
    (path,) = preprocessed.glob("nnUNetPlans_xtiny*.json")
    chosen = json.loads(path.read_text())["configurations"]["2d"][PROVENANCE]["chosen"]
    found = {
        "--score": chosen["score"],
        "--caps": ",".join(map(str, chosen["caps"])),
        "-f": str(chosen["fold"]),
        "--within": ",".join(map(str, chosen["range"])),
    }
    name, value = options.split()
    assert found[name] == value


def test_dispersion_scores_sixteen_seeds(preprocessed, capsys):
    main([*WORDS, "-K", "1", "--rule", "dispersion", "--dry-run"])
    assert "\nseed 1 of 16\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-K 5", "4 training cases of fold 0, one from each; got 5"),
        ("--caps 8,4,2,1", "got the 4 caps 8, 4, 2, 1"),
        ("--caps 64,8,4,2,1", "32 channels; got 64"),
        ("--cap 64", "32 channels; got 64"),
        ("--seeds 0", "at least 1 seeds; got 0"),
        ("--rule slope --caps 16,8,4,2,1", "at least 6 candidates; got the 5 caps 16"),
        ("--caps 8,8,4,2,1", "got the 4 caps 8, 4, 2, 1"),
        ("--within 1,1", "of its 32, 16, 8, 4, 2 none is within 1 to 1"),
        ("--within 4,2 --cap 8", "--cap 8 takes a width without one"),
        ("--within 2,4 --rule dispersion --seeds 16", "none is within 2 to 4"),
        ("-f one", "from 0, or all; got 'one'"),
        ("-o My__Plans", "'My__Plans'"),
        ("-c 3d", "got '3d'"),
        ("-c stage_two", "also takes the labels of 3d_lowres"),
        ("-p Absent", "name others with -p"),
        ("-tr nnUNetTrainerAbsent", "nnUNetTrainerAbsent"),
        ("-tr nnUNetTrainerContinue", "-tr names the trainer of the backbone"),
        ("-tr nnUNetTrainerIACLTH", "-tr names the trainer of the backbone"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(preprocessed, capsys, options, message):
    before = _names(preprocessed)
    assert main([*QUICK, *options.split()]) == 2
    printed = capsys.readouterr().err
    assert "error: " in printed
    assert message in printed
    assert _names(preprocessed) == before


def test_data_that_are_not_preprocessed_are_an_error_with_the_command(preprocessed, capsys):
    (preprocessed / "nnUNetPlans_2d").unlink()
    assert main(QUICK) == 2
    assert "nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 2d" in capsys.readouterr().err


def test_plans_from_another_base_are_refused_before_anything_is_measured(preprocessed, capsys):
    assert main([*WORDS, "--cap", "4", "-o", "Narrow"]) == 0
    path = preprocessed / "nnUNetPlans.json"
    content = json.loads(path.read_text())
    content["configurations"]["2d"]["batch_size"] = 9
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main([*QUICK, "-o", "Narrow"]) == 2
    printed = capsys.readouterr()
    assert "Narrow.json exists and was made from another base configuration" in printed.err
    assert "seed 1" not in printed.err


def test_caps_that_are_no_numbers_are_refused(preprocessed, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*QUICK, "--caps", "8,b"])
    assert "must be whole numbers with spaces between them; got 8,b" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["8", "16 8 4"])
def test_a_range_is_two_numbers(preprocessed, capsys, given):
    assert main([*QUICK, "--within", *given.split()]) == 2
    assert f"the largest and the smallest cap, such as 64 4; got {given}" in capsys.readouterr().err


def test_batch_norms_on_a_bottleneck_of_one_pixel_are_an_error(preprocessed, capsys):
    path = preprocessed / "nnUNetPlans.json"
    content = json.loads(path.read_text())
    content["configurations"]["2d"]["patch_size"] = [4, 4]
    path.write_text(json.dumps(content))
    assert main([*QUICK, "-tr", "nnUNetTrainerBN"]) == 2
    assert "of a patch of 4 x 4 it has one" in capsys.readouterr().err


def test_labels_that_nnunet_cannot_learn_are_an_error(preprocessed, capsys):
    path = preprocessed / "dataset.json"
    regions = {"background": 0, "whole": [1, 2], "part": [2]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": regions}))
    assert main(QUICK) == 2
    assert "error: " in capsys.readouterr().err


def test_a_data_set_without_labels_is_an_error(preprocessed, capsys):
    (preprocessed / "dataset.json").write_text('{"channel_names": {"0": "MRI"}}')
    assert main(QUICK) == 2
    assert "dataset.json must have the objects channel_names and labels" in capsys.readouterr().err
