import copy

import pytest
from planned_unets import architecture, as_older

from nnunet_iac.host.plans import (
    architecture_of,
    configuration_of,
    derived,
    lineage,
    require_identifier,
    settings_of,
    write_new,
)
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.search.settings import Settings

PLANS = {
    "dataset_name": "Dataset004_Hippocampus",
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d"},
        "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
    },
}


def test_plans_without_a_section_mean_all_defaults():
    assert settings_of(PLANS["configurations"]["2d"]) == Settings()


@pytest.mark.parametrize("network", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_the_network_in_plans_of_an_older_nnunet_is_described_as_today(dimension, network):
    today = {"architecture": architecture(dimension, (4, 8, 8), 1, network)}
    older = {"configurations": {"x": as_older({**today, "patch_size": [16] * dimension})}}
    found = architecture_of(configuration_of(older, "x"))
    assert found["arch_kwargs"] == today["architecture"]["arch_kwargs"]
    assert found["network_class_name"].rpartition(".")[2] == network
    assert "architecture" not in older["configurations"]["x"]


def test_plans_of_an_older_nnunet_that_lack_something_are_refused():
    older = as_older({"architecture": architecture(2, (4, 8, 8), 1), "patch_size": [16, 16]})
    del older["conv_kernel_sizes"]
    with pytest.raises(ValueError, match=r"converts; it does not \(KeyError: 'conv_kernel_sizes'"):
        configuration_of({"configurations": {"2d": older}}, "2d")


def test_derived_plans_carry_name_origin_and_settings_and_share_the_data():
    new = derived(PLANS, "Mine", "2d", {"seed": 3})
    assert (new["plans_name"], new["source_plans"]) == ("Mine", "nnUNetPlans")
    assert settings_of(new["configurations"]["2d"]) == Settings(seed=3)
    assert new["configurations"]["2d"]["data_identifier"] == "nnUNetPlans_2d"
    assert new["configurations"]["3d_fullres"] == PLANS["configurations"]["3d_fullres"]


def test_deriving_leaves_the_source_as_it_was():
    before = copy.deepcopy(PLANS)
    derived(PLANS, "Mine", "2d", {"seed": 3})["configurations"]["2d"]["batch_size"] = 1
    assert before == PLANS


@pytest.mark.parametrize("name", ["", "a__b", "_a", "a_", "a/b", "a\\b"])
def test_a_name_on_which_nnunet_would_stumble_is_refused(name):
    with pytest.raises(ValueError, match="plans identifier") as error:
        require_identifier(name)
    assert repr(name) in str(error.value)


def test_a_single_underscore_inside_a_name_is_fine():
    require_identifier("nnUNetPlans_demo")


@pytest.mark.parametrize(
    ("name", "configuration", "values", "message"),
    [
        ("nnUNetPlans", "2d", {}, "got 'nnUNetPlans', the name of their source"),
        ("Mine", "3d_lowres", {}, "2d, 3d_fullres, .* 'nnUNetPlans' describe; got '3d_lowres'"),
        ("Mine", "2d", {"speed": 1}, "unknown setting 'speed'"),
        ("Mine", "2d", {"seed": "one"}, "'seed' must be an integer; got 'one'"),
    ],
)
def test_impossible_plans_are_refused(name, configuration, values, message):
    with pytest.raises(ValueError, match=message):
        derived(PLANS, name, configuration, values)


def test_a_plans_file_is_written_once_and_never_overwritten(tmp_path):
    path = tmp_path / "Mine.json"
    new = derived(PLANS, "Mine", "2d", {"architecture_betas": (0.5, 0.999)})
    assert write_new(path, new) is True
    assert write_new(path, new) is False
    with pytest.raises(ValueError, match=r"Mine\.json exists with other content"):
        write_new(path, derived(PLANS, "Mine", "2d", {"seed": 1}))
    betas = read_json(path)["configurations"]["2d"]["iac"]["architecture_betas"]
    assert betas == [0.5, 0.999]


@pytest.mark.parametrize("content", [None, [], {}, {"configurations": 3}])
def test_damaged_plans_that_others_come_from_are_named(tmp_path, content):
    new = derived(PLANS, "Mine", "2d", {})
    assert lineage(new, "2d", tmp_path) == ["Mine", "nnUNetPlans"]
    write_json(tmp_path / "nnUNetPlans.json", content)
    with pytest.raises(ValueError, match=r"nnUNetPlans\.json: plans must be a JSON object"):
        lineage(new, "2d", tmp_path)
