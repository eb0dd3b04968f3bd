import json
import re
import shlex
import shutil

import pytest

from nnunet_iac.host.export import Model, predict_command
from nnunet_iac.host.planning import (
    NetworkChanges,
    next_commands,
    preprocess_command,
    write_plans,
)
from nnunet_iac.host.plans import settings_of
from nnunet_iac.training.backbone import Fold, training_command


def _read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_new_plans_are_their_source_with_a_name_an_origin_and_settings(preprocessed):
    path, changed = write_plans("4", "2d", "nnUNetPlans", "Mine", {"preset": "adaptive", "seed": 3})
    assert (path, changed) == (preprocessed / "Mine.json", True)
    expected = _read(preprocessed, "nnUNetPlans")
    expected["plans_name"] = "Mine"
    expected["source_plans"] = "nnUNetPlans"
    expected["configurations"]["2d"]["iac"] = {"preset": "adaptive", "seed": 3}
    assert _read(preprocessed, "Mine") == expected


def test_the_source_plans_stay_byte_for_byte(preprocessed):
    before = (preprocessed / "nnUNetPlans.json").read_bytes()
    write_plans("4", "2d", "nnUNetPlans", "Mine", {"seed": 3})
    assert (preprocessed / "nnUNetPlans.json").read_bytes() == before


@pytest.mark.parametrize("dataset", ["4", "004", "Dataset004_Hippocampus"])
def test_a_data_set_is_found_by_id_and_by_name(preprocessed, dataset):
    assert write_plans(dataset, "2d", "nnUNetPlans", "Mine", {})[0].parent == preprocessed


def test_writing_the_same_plans_again_changes_nothing(preprocessed):
    values = {"architecture_betas": (0.5, 0.999), "stability_threshold": 0.01}
    write_plans("4", "2d", "nnUNetPlans", "Mine", values)
    before = (preprocessed / "Mine.json").stat().st_mtime_ns
    assert write_plans("4", "2d", "nnUNetPlans", "Mine", values)[1] is False
    assert (preprocessed / "Mine.json").stat().st_mtime_ns == before


def test_settings_of_the_source_plans_are_the_start_and_new_ones_win(preprocessed):
    write_plans("4", "2d", "nnUNetPlans", "First", {"seed": 3, "residual": "zero"})
    write_plans("4", "2d", "First", "Second", {"seed": 5})
    second = _read(preprocessed, "Second")
    assert second["source_plans"] == "First"
    settings = settings_of(second["configurations"]["2d"])
    assert (settings.optimisation.seed, settings.cell.residual) == (5, "zero")


def test_another_network_does_not_inherit_a_backbone(preprocessed):
    own = {"backbone_checkpoint": "/model.pth", "seed": 3}
    write_plans("4", "2d", "nnUNetPlans", "First", own)
    for skip, kept in ((None, own), ("attention", {"seed": 3})):
        write_plans("4", "2d", "First", f"With{skip}", {}, NetworkChanges(skip=skip))
        assert _read(preprocessed, f"With{skip}")["configurations"]["2d"]["iac"] == kept


def test_settings_must_be_possible_together_with_those_of_the_source_plans(preprocessed):
    write_plans("4", "2d", "nnUNetPlans", "Long", {"search_epochs": 400})
    path, _ = write_plans("4", "2d", "Long", "Longer", {"warmup_epochs": 250})
    written = settings_of(_read(preprocessed, path.stem)["configurations"]["2d"]).schedule
    assert (written.warmup_epochs, written.search_epochs) == (250, 400)
    with pytest.raises(ValueError, match="search_epochs=400, warmup_epochs=400"):
        write_plans("4", "2d", "Long", "Longest", {"warmup_epochs": 400})


@pytest.mark.parametrize(
    ("dataset", "source", "command"),
    [
        ("5", "nnUNetPlans", "nnUNetv2_plan_and_preprocess -d 5 -c 2d"),
        ("Dataset005_Prostate", "nnUNetPlans", "nnUNetv2_plan_and_preprocess -d 5 -c 2d"),
        (
            "5",
            "nnUNetResEncUNetMPlans",
            "nnUNetv2_plan_and_preprocess -d 5 -c 2d -pl nnUNetPlannerResEncM",
        ),
        ("5", "Small", "name others with -p, of which there are none"),
        (
            "Dataset005_Typo",
            "nnUNetPlans",
            "no data set is called Dataset005_Typo: correct the name",
        ),
    ],
)
def test_missing_source_plans_print_the_command_that_makes_them(
    nnunet_folders, dataset, source, command
):
    (nnunet_folders / "nnUNet_raw" / "Dataset005_Prostate").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(command)}$"):
        write_plans(dataset, "2d", source, "Mine", {})


@pytest.mark.parametrize("content", ["null", "[]", "{}"])
def test_damaged_source_plans_are_named(preprocessed, content):
    (preprocessed / "nnUNetPlans.json").write_text(content)
    with pytest.raises(ValueError, match=r"nnUNetPlans\.json: plans must be a JSON object"):
        write_plans("4", "2d", "nnUNetPlans", "Mine", {})


def test_a_relative_path_means_the_folder_the_plans_are_made_in(
    preprocessed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path, _ = write_plans("4", "2d", "nnUNetPlans", "Mine", {"genotype": "runs/fold_{fold}"})
    section = json.loads(path.read_text())["configurations"]["2d"]["iac"]
    assert section["genotype"] == str(tmp_path / "runs" / "fold_{fold}")


def test_settings_without_a_cell_are_for_a_search_and_for_the_control(preprocessed):
    path, _ = write_plans("4", "2d", "nnUNetPlans", "Longer", {"finetune_epochs": 221})
    lines = next_commands(path, "2d", None)
    assert lines == [
        "next: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerIACDiscrete -p Longer",
        "or, to search the cell: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerIACLTH -p Longer",
        "or, as the control: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerContinue -p Longer",
    ]


def test_printed_commands_can_be_pasted_whatever_things_are_called(preprocessed):
    name, folder = "Mine; touch it", preprocessed / "a $(folder)"
    model = Model(folder, (folder / "fold_0",), "2d")
    path, _ = write_plans("4", "2d", "nnUNetPlans", name, {})
    folder.mkdir()
    shutil.copy(path, folder / "plans.json")
    fold = Fold(preprocessed.name, "2d", 0, ())
    for line, last in (
        (next_commands(path, "2d", None)[0].removeprefix("next: "), [name]),
        (preprocess_command(preprocessed.name, name, "2d"), [name, "-c", "2d"]),
        (training_command("nnUNetTrainer", name, fold), [name]),
        (predict_command(model, folder), [str(folder), "-f", "0", "-i", "IMAGES", "-o", "OUT"]),
    ):
        words = shlex.split(line)
        assert words[-len(last) :] == last
