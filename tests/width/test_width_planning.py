import json
import warnings

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

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
    path, _ = write_width(source(iac={"seed": 3}), 8)
    assert _read(path)["configurations"]["2d"]["iac"] == {"seed": 3}


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
