"""Study files: their allowed content, and the runs they define."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nnunet_iac.workflow.study import METHODS, Study
from nnunet_iac.workflow.study_file import read_study, study_of

SMALL: dict[str, Any] = {
    "name": "small",
    "datasets": [{"dataset": 4, "folds": [0, 1]}],
    "methods": {"iac-lth": None, "random": None},
}


def study(**changes: Any) -> Study:
    return study_of({**SMALL, **changes})


def test_every_backbone_comes_before_what_starts_from_it() -> None:
    runs = list(
        study(
            backbones={"wide": None, "narrow": {"cap": 8}},
            seeds=[0, 3],
            augmentations=["default", "NoDA"],
        ).runs.values()
    )
    assert len(runs) == 2 * 2 * (1 + 2 * 2 * 2)
    seen = set()
    for run in runs:
        if run.method == "reference":
            seen.add(run)
        assert run.reference in seen
    assert len({run.name for run in runs}) == len(runs)


def test_a_run_has_the_trainer_of_its_method_and_augmentation() -> None:
    made = study(augmentations=["NoDA"], backbones={"own": {"trainer": "nnUNetTrainer_1epoch"}})
    assert [made.trainer_of(run) for run in made.runs.values()][:3] == [
        "nnUNetTrainer_1epoch",
        "nnUNetTrainerIACLTHNoDA",
        "nnUNetTrainerIACDiscreteNoDA",
    ]


@pytest.mark.parametrize(("found", "device", "threads"), [(True, "cuda", 8), (False, "cpu", 1)])
def test_the_device_is_cuda_if_there_is_one_and_is_not_named(
    monkeypatch: pytest.MonkeyPatch, found: bool, device: str, threads: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: found)
    assert (study().device, study().threads) == (device, threads)
    assert (study(device="mps").device, study(device="mps").threads) == ("mps", 8)
    assert (study(device="cpu", threads=3).device, study(threads=3).threads) == ("cpu", 3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_valid_settings_and_its_seed(method: str) -> None:
    made = study(methods={"iac-lth": None, method: None})
    assert made.settings_of(method, 7).optimisation.seed == 7


def test_what_does_not_search_is_finetuned_as_long_as_searches_may_take_together() -> None:
    made = study(settings={"search_epochs": 60, "finetune_epochs": 15})
    assert made.settings_of("random", 0).schedule.finetune_epochs == 21 + 15
    assert made.settings_of("iac-lth", 0).schedule.finetune_epochs == 15
    own = study(methods={"random": {"settings": {"finetune_epochs": 3}}})
    assert own.settings_of("random", 0).schedule.finetune_epochs == 3


def test_a_random_cell_is_drawn_by_the_runs_own_seed() -> None:
    assert study().settings_of("random", 5).cell.genotype == "random:5"


def test_a_convolution_is_measured_by_the_cells_of_a_search_of_the_same_seed() -> None:
    made = study(methods={"mine": {"as": "iac"}, "convolution": {"cells_of": "mine"}}, seeds=[0, 1])
    for run in made.runs.values():
        sources = made.sources_of(run)[1:]
        assert len(sources) == (run.method == "convolution")
        for source in sources:
            assert (source.method, source.seed, source.fold) == ("mine", run.seed, run.fold)
            assert made.runs[source.name] == source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a_b"}, "name: 'a_b' does not match"),
        ({"datasets": []}, "datasets: "),
        ({"datasets": [{"dataset": "Dataset004_`touch x`"}]}, "does not match '^("),
        ({"datasets": [{"dataset": 4, "configurations": ["2d; ls"]}]}, "'2d; ls' does not match"),
        ({"dataset": [4]}, "'dataset' was unexpected"),
        ({"seeds": [0, 0]}, "non-unique"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"augmentations": ["strong"]}, "'strong' is not one of"),
        ({"methods": {"best": None}}, "method 'best' must be"),
        ({"methods": {"reference": {"as": "identity"}}}, "must not be called `reference`"),
        ({"methods": {"random": {"as": "iac"}}}, "must be what it is called"),
        ({"methods": {"convolution": None}}, "takes the cells of 'iac-lth'"),
        ({"methods": {"continued": {"epochs_of": "random"}}}, "takes the epochs of 'random'"),
        (
            {"methods": {"iac-lth": None, "iac": {"epochs_of": "iac-lth"}}},
            "must not search or set finetune_epochs if epochs_of decides",
        ),
        (
            {
                "settings": {"preset": "swift"},
                "methods": {
                    "iac-lth": {"settings": {"iterations_per_epoch": 500}},
                    "continued": {"epochs_of": "iac-lth"},
                },
            },
            "iterations_per_epoch must be that of 'iac-lth', 500, whose epochs it takes; got 250",
        ),
        ({"methods": {"random": {"settings": {"sede": 1}}}}, "method 'random': unknown setting"),
        (
            {"methods": {"random": {"settings": {"genotype": 5}}}},
            "'random': setting 'genotype' must",
        ),
        ({"settings": {"seed": 1}}, "seed must not be among the settings"),
        ({"settings": {"search_epochs": 16}}, "method 'iac-lth': a search must have at least"),
        ({"datasets": [{"dataset": 4, "patients": "("}]}, "patients must be a regular expression"),
        ({"datasets": [{"dataset": 4}, {"dataset": 4}]}, "listed once"),
        ({"backbones": {"b": {"batch_size": 1}}}, "backbones.b.batch_size"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    with pytest.raises(ValueError, match=r"study\.yaml: ") as raised:
        read_study(path)
    assert message in str(raised.value)


def test_a_file_that_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_study(path)
    path.write_text("name: [")
    with pytest.raises(ValueError, match="must be a YAML file"):
        read_study(path)


@pytest.mark.parametrize("kind", ["", "conv:"])
def test_a_cell_is_found_from_the_folder_of_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "study.yaml"
    own = {"mine": {"as": "random", "settings": {"genotype": f"{kind}cell_{{seed}}.json"}}}
    path.write_text(yaml.safe_dump({**SMALL, "methods": own}))
    found = read_study(path).settings_of("mine", 3).cell.genotype
    assert found == f"{kind}{tmp_path / 'cell_3.json'}"


def test_what_a_run_is_changes_with_its_trainer_network_and_settings() -> None:
    name = "4_2d_0_own_random_default_0"
    fingerprints = []
    for cap, rate, method in ((8, 1e-3, "random"), (4, 1e-3, "random"), (8, 1e-2, "random")):
        made = study(
            backbones={"own": {"cap": cap}},
            methods={"random": {"as": method, "settings": {"finetune_lr": rate}}},
        )
        fingerprints.append(made.fingerprint(made.runs[name]))
    patients = study(
        datasets=[{"dataset": 4, "folds": [0, 1], "patients": "p"}],
        backbones={"own": {"cap": 8}},
        methods={"random": {"settings": {"finetune_lr": 1e-3}}},
    )
    assert fingerprints[0] != patients.fingerprint(patients.runs[name])
    assert fingerprints[0] != fingerprints[1]
    assert fingerprints[0] != fingerprints[2]


def test_half_of_a_training_shows_once_whether_a_backbone_has_converged() -> None:
    whole, half = {"cap": 8}, {"cap": 8, "trainer": "nnUNetTrainer_10epochs", "half_of": "whole"}
    datasets = [{"dataset": 4, "folds": [1, 2]}]
    made = study(backbones={"whole": whole, "half": half}, datasets=datasets)
    on_half = [run for run in made.runs.values() if run.backbone == "half"]
    assert [(run.method, run.fold) for run in on_half] == [("reference", 1)]
    assert len(made.runs) > 3
    for other in ("absent", "half"):
        with pytest.raises(ValueError, match=f"is half of '{other}', which must be another"):
            study(backbones={"whole": whole, "half": {**half, "half_of": other}})
    with pytest.raises(ValueError, match="must differ in their trainers alone"):
        study(backbones={"whole": whole, "half": {**half, "cap": 16}})


def test_splits_are_found_from_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    datasets = [{"dataset": 4, "splits": "mine.json"}]
    path.write_text(yaml.safe_dump({**SMALL, "datasets": datasets}))
    assert read_study(path).datasets[0].splits == tmp_path / "mine.json"


def test_what_does_not_search_learns_as_long_as_an_accelerated_search_may_take() -> None:
    for preset, search in (("literal", 21), ("paper", 51), ("adaptive", 200)):
        made = study_of(
            {
                "name": "s",
                "datasets": [{"dataset": 4}],
                "settings": {"preset": preset, "finetune_epochs": 100},
                "methods": {"random": None, "iac-lth": None},
            }
        )
        assert made.settings_of("random", 0).schedule.finetune_epochs == search + 100
        assert made.settings_of("iac-lth", 0).schedule.finetune_epochs == 100


@pytest.mark.parametrize(
    ("backbones", "settings", "preset"),
    [
        ({"a": {"adapt": "fold_0"}}, {}, "adapt"),
        ({"a": {"adapt": "fold_0"}}, {"preset": "swift"}, "swift"),
        ({"a": {"adapt": "fold_0"}, "b": None}, {}, "literal"),
    ],
)
def test_models_of_other_data_sets_are_adapted_by_their_own_preset(
    backbones: dict[str, Any], settings: dict[str, Any], preset: str
) -> None:
    found = study(backbones=backbones, settings=settings).settings_of("iac-lth", 0)
    assert found.schedule.preset == preset


def test_old_names_of_settings_are_accepted_and_reported_once() -> None:
    made = study(settings={"theta": 0.5, "recompute_cells": True})
    assert made.settings_of("iac-lth", 0).stability.stability_threshold == 0.5
    assert made.settings_of("random", 0).cell.activation_checkpointing
    assert made.deprecations == [
        "the setting theta is deprecated: write stability_threshold",
        "the setting recompute_cells is deprecated: write activation_checkpointing",
    ]
