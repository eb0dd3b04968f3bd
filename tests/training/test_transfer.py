"""Cells found elsewhere: what is told of them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import CostRecord
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.transfer import Origin

HERE = "Dataset004_Hippocampus"


def found(folder: Path, dataset: str = HERE, cases: tuple[str, ...] | None = ("a", "b")) -> Path:
    """Write the record of a 2-D run that found a cell, and return its fold folder."""
    fold = folder / "nnUNetTrainerIACLTH__plans__2d" / "fold_0"
    record = RunFolder.of_fold(fold)
    record.write_settings(Settings())
    record.write_genotype(random_genotype(0))
    run = {"dataset": dataset, "configuration": "2d", "fold": 0, "split": "digest"}
    record.write_cost(CostRecord(run=run))
    if cases is not None:
        record.write_split({"training": cases, "validation": ["c"]})
    plans: dict[str, Any] = {
        "plans_name": "plans",
        "configurations": {"2d": {"patch_size": [64, 64]}},
    }
    (fold.parent / "plans.json").write_text(json.dumps(plans))
    return fold


@pytest.mark.parametrize("place", [".", "iac", "iac/genotype.json"])
def test_an_origin_is_known_from_any_path_into_its_fold(tmp_path: Path, place: str) -> None:
    fold = found(tmp_path)
    origin = Origin.of(fold / place)
    assert (origin.dimensions, origin.learned_from) == (2, ("a", "b"))
    assert origin.described() == {
        "path": str(fold / place),
        "dataset": HERE,
        "configuration": "2d",
        "fold": 0,
    }


def test_a_file_alone_tells_nothing_and_is_taken_as_it_is(tmp_path: Path) -> None:
    origin = Origin.of(tmp_path / "genotype.json")
    origin.require_dimensions(3)
    assert origin.described() == {"path": str(tmp_path / "genotype.json")}
    assert origin.leakage(HERE, 1, ["a"], None) is None


def test_another_dimension_is_refused(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path))
    origin.require_dimensions(2)
    with pytest.raises(ValueError, match=r"searched in 2-D \(2d\) and this configuration is 3-D"):
        origin.require_dimensions(3)


def test_a_cell_leaks_where_its_cases_are_validation_cases_here(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path))
    assert origin.leakage(HERE, 1, ["c"], None) is None
    assert str(origin.leakage(HERE, 1, ["b", "c"], None)).endswith("on fold 0 (b)")
    assert origin.leakage(HERE, "all", ["b"], None) is None


def test_patients_count_not_cases(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, cases=("p1_frame1", "p2_frame1")))
    assert origin.leakage(HERE, 1, ["p2_frame2"], None) is None
    assert "(p2)" in str(origin.leakage(HERE, 1, ["p2_frame2"], r"p\d"))


def test_a_cell_that_was_handed_on_leaks_what_its_first_run_saw(tmp_path: Path) -> None:
    first = found(tmp_path / "first")
    second = found(tmp_path / "second", cases=("x",))
    record = RunFolder.of_fold(second)
    run = {**record.read_cost().run, "fold": 1, "genotype_from": Origin.of(first).described()}
    record.write_cost(CostRecord(run=run))
    assert "on fold 0 (b)" in str(Origin.of(second).leakage(HERE, 1, ["b"], None))
    assert Origin.of(second).leakage(HERE, 1, ["x"], None) is None


def test_a_cell_that_nobody_searched_knows_nothing(tmp_path: Path) -> None:
    fold = found(tmp_path)
    record = RunFolder.of_fold(fold)
    record.write_cost(CostRecord(run={**record.read_cost().run, "method": "random cell"}))
    assert Origin.of(fold).leakage(HERE, 1, ["a"], None) is None


def test_names_shared_with_another_data_set_are_told(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, dataset="Dataset005_Prostate"))
    assert "Dataset005_Prostate" in str(origin.leakage(HERE, 0, ["b"], None))
    assert origin.leakage(HERE, 0, ["c"], None) is None


def test_without_its_cases_a_cell_of_another_fold_leaks(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, cases=None))
    assert origin.leakage(HERE, 0, ["x"], None) is None
    assert str(origin.leakage(HERE, 1, ["x"], None)).endswith("searched on fold 0")
    assert origin.leakage("Dataset005_Prostate", 1, ["x"], None) is None
