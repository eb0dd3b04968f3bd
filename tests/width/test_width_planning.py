import json
import warnings

import pytest
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import (
    nnUNetTrainerBN,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_iac.host.plans import configuration_of
from nnunet_iac.width.planning import PROVENANCE, plans_name, write_width


def _read(path):
    return json.loads(path.read_text())


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_plans_are_the_source_with_a_name_widths_and_provenance(source):
    given = source()
    path, written = write_width(given, 8)
    assert (path, written) == (given.folder / "nnUNetPlans_xtiny8.json", True)
    new = _read(path)
    provenance = new["configurations"]["2d"].pop(PROVENANCE)
    expected = json.loads(json.dumps(given.plans))
    expected["plans_name"] = "nnUNetPlans_xtiny8"
    expected["source_plans"] = "nnUNetPlans"
    kwargs = expected["configurations"]["2d"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [8, 8, 8]
    assert new == expected
    assert provenance["cap"] == 8
    assert provenance["base_sha256"] == given.digest()
    assert set(provenance["versions"]) >= {"nnunet-iac", "nnunetv2", "torch"}
    assert provenance["chosen"] is None


def test_the_source_plans_stay_byte_for_byte(source):
    given = source()
    before = (given.folder / "nnUNetPlans.json").read_bytes()
    write_width(given, 8)
    assert (given.folder / "nnUNetPlans.json").read_bytes() == before


def test_a_configuration_that_inherits_gets_its_whole_network(source):
    path, _ = write_width(source("residual"), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = PlansManager(_read(path)).get_configuration("residual")
    kwargs = found.network_arch_init_kwargs
    assert kwargs["features_per_stage"] == [4, 4, 4]
    assert kwargs["n_blocks_per_stage"] == [2, 2, 2]
    assert found.patch_size == [16, 16]
    assert found.data_identifier == "nnUNetPlans_2d"


def test_settings_of_the_source_stay(source):
    path, _ = write_width(source(iac={"seed": 3, "backbone_checkpoint": "/of/another/width"}), 8)
    assert _read(path)["configurations"]["2d"]["iac"] == {"seed": 3}


def test_another_trainer_is_where_the_retrofit_finds_its_backbone(source):
    given = source(trainer=nnUNetTrainerBN, iac={"seed": 3})
    path, _ = write_width(given, 8)
    section = _read(path)["configurations"]["2d"]["iac"]
    assert section == {"seed": 3, "backbone_trainer": "nnUNetTrainerBN"}
    assert write_width(given, 8) == (path, False)


def test_plans_for_another_trainer_are_not_overwritten(source):
    path, _ = write_width(source(), 8)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cap 8, trainer nnUNetTrainer; now: cap 8, trainer .*BN"):
        write_width(source(trainer=nnUNetTrainerBN), 8)
    assert path.read_bytes() == before


def test_settings_that_are_impossible_are_refused(source):
    with pytest.raises(ValueError, match="stability_threshold"):
        write_width(source(iac={"stability_threshold": -1}), 8)


def test_plans_of_one_cap_serve_several_configurations(source):
    flat, deep = source(), source("3d_fullres")
    path, _ = write_width(flat, 8, chosen={"rule": "curve"})
    first = _read(path)["configurations"]["2d"]
    assert write_width(deep, 8) == (path, True)
    content = _read(path)
    assert content["configurations"]["2d"] == first
    added = content["configurations"]["3d_fullres"]
    assert added["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 8, 8]
    assert added[PROVENANCE]["base_sha256"] == deep.digest()
    assert write_width(flat, 8) == write_width(deep, 8) == (path, False)
    assert _read(path) == content


@pytest.mark.parametrize("order", [("2d", "residual"), ("residual", "2d")])
def test_a_configuration_and_one_that_inherits_from_it_keep_their_own_settings(source, order):
    trainers = {"2d": nnUNetTrainerBN, "residual": None}
    for name in order:
        path, written = write_width(source(name, trainers[name]), 8)
        assert written
    found = _read(path)
    assert configuration_of(found, "2d")["iac"] == {"backbone_trainer": "nnUNetTrainerBN"}
    assert configuration_of(found, "residual")["iac"] == {}
    for name in order:
        assert write_width(source(name, trainers[name]), 8) == (path, False)


@pytest.mark.parametrize("change", ["by hand", "other source"])
def test_a_configuration_is_not_added_to_other_plans(source, change):
    path, _ = write_width(source(), 8)
    deep = source("3d_fullres")
    if change == "by hand":
        content = _read(path)
        content["configurations"]["2d"]["batch_size"] = 7
        path.write_text(json.dumps(content))
    else:
        deep.plans["configurations"]["2d"]["batch_size"] = 7
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other content .3d_fullres there: not what was made"):
        write_width(deep, 8)
    assert path.read_bytes() == before


def test_the_widest_cap_of_a_configuration_is_its_change_too(source):
    path, _ = write_width(source(), 32, "Mine")
    write_width(source("3d_fullres"), 8, "Mine")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"2d there: cap 32, trainer nnUNetTrainer; now: cap 8"):
        write_width(source(), 8, "Mine")
    assert path.read_bytes() == before


def test_the_identifier_follows_that_of_the_source(source):
    given = source()
    given.plans["plans_name"] = "Mine"
    assert plans_name(given, 16) == "Mine_xtiny16"


def test_how_the_cap_was_chosen_is_kept(source):
    path, _ = write_width(source(), 8, "Mine", {"rule": "curve"})
    assert path.name == "Mine.json"
    assert _read(path)["configurations"]["2d"][PROVENANCE]["chosen"] == {"rule": "curve"}


def test_writing_the_same_network_again_changes_nothing_whatever_its_provenance(source):
    path, _ = write_width(source(), 8, chosen={"seeds": [0]})
    before = path.read_bytes()
    assert write_width(source(), 8, chosen={"seeds": [1]}) == (path, False)
    assert path.read_bytes() == before


def test_plans_from_another_base_configuration_are_not_overwritten(source):
    path, _ = write_width(source(), 8)
    before = path.read_bytes()
    other = source(batch_size=7)
    with pytest.raises(
        ValueError, match=f"another base configuration .* now .hash {other.digest()}"
    ):
        write_width(other, 8)
    assert path.read_bytes() == before


def test_another_cap_under_the_same_name_is_not_overwritten(source):
    path, _ = write_width(source(), 8, "Mine")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"Mine\.json exists with other content"):
        write_width(source(), 4, "Mine")
    assert path.read_bytes() == before


def test_plans_that_are_not_ours_are_not_overwritten(source):
    given = source()
    (given.folder / "Mine.json").write_text('{"configurations": {}}')
    with pytest.raises(ValueError, match=r"Mine\.json exists with other content"):
        write_width(given, 8, "Mine")


@pytest.mark.parametrize(
    ("cap", "name", "message"),
    [
        (64, None, "32 channels; got 64"),
        (8, "My__Plans", "'My__Plans'"),
        (8, "nnUNetPlans", "got 'nnUNetPlans', the name of their source"),
    ],
)
def test_an_impossible_request_writes_nothing(source, cap, name, message):
    given = source()
    before = _names(given.folder)
    with pytest.raises(ValueError, match=message):
        write_width(given, cap, name)
    assert _names(given.folder) == before
