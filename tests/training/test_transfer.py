"""Cells found elsewhere: what is recorded of them, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import run_until

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, CostRecord
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.transfer import Origin

HERE = "Dataset004_Hippocampus"
COPY = "Dataset014_Copy"
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"

Make = Callable[..., Any]


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
        "dataset_name": dataset,
        "configurations": {"2d": {"patch_size": [64, 64]}},
    }
    (fold.parent / "plans.json").write_text(json.dumps(plans))
    return fold


LEAK = "was trained on fold 1, whose training cases are not this fold's"


def with_leak(fold: Path) -> Path:
    """Let a run have had a backbone that knew its validation cases, and return its fold folder."""
    record = BackboneRecord("checkpoint", "nnUNetTrainer", fold=1, before="hash", leakage=LEAK)
    RunFolder.of_fold(fold).write_backbone(record)
    return fold


def handed_on(folder: Path, first: Path) -> Path:
    """Write the record of a run that was given the cell of another, and return its fold folder."""
    fold = found(folder, cases=("x",))
    record = RunFolder.of_fold(fold)
    run = {**record.read_cost().run, "fold": 1, "genotype_from": Origin.of(first).provenance()}
    record.write_cost(CostRecord(run=run))
    return fold


@pytest.mark.parametrize("place", [".", "iac", "iac/genotype.json"])
def test_an_origin_is_known_from_any_path_into_its_fold(tmp_path: Path, place: str) -> None:
    fold = found(tmp_path)
    origin = Origin.of(fold / place)
    assert (origin.dimensions, origin.learned_from) == (2, ("a", "b"))
    assert origin.provenance() == {
        "path": str(fold / place),
        "dataset": HERE,
        "configuration": "2d",
        "fold": 0,
        "dimensions": 2,
    }


def test_a_file_alone_has_no_origin_and_is_taken_as_it_is(tmp_path: Path) -> None:
    origin = Origin.of(tmp_path / "genotype.json")
    origin.require_dimensions(3)
    assert origin.provenance() == {"path": str(tmp_path / "genotype.json")}
    assert origin.leakage(HERE, 1, ["a"], None) is None
    assert f"{tmp_path / 'genotype.json'} has no training cases" in str(origin.unknown())


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
    assert Origin.of(with_leak(found(tmp_path / "other"))).leakage(HERE, 1, [], None) is None


def test_a_cell_leaks_where_its_search_rehearsed_validation_cases(tmp_path: Path) -> None:
    fold = found(tmp_path, cases=("x_1",))
    record = RunFolder.of_fold(fold)
    cost = record.read_cost()
    source = {"source": "Dataset027_Source", "source_cases": ["patient1"]}
    record.write_cost(replace(cost, run={**cost.run, **source}))
    origin = Origin.of(fold)
    assert origin.is_of("Dataset027_Source")
    leakage = origin.leakage("Dataset027_Source", 1, ["patient1", "patient2"], r"x_\d")
    assert str(leakage).endswith("and rehearsed Dataset027_Source (patient1)")
    assert origin.leakage(HERE, 1, ["x_2"], r"x_\d") is None
    record.split_file.unlink()
    assert "no training cases of a search" in str(Origin.of(fold).unknown())


def test_patients_count_not_cases(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, cases=("p1_frame1", "p2_frame1")))
    assert origin.leakage(HERE, 1, ["p2_frame2"], None) is None
    assert "(p2)" in str(origin.leakage(HERE, 1, ["p2_frame2"], r"p\d"))


def give(run_fold: Path, cell: Path, **known: Any) -> None:
    """Let the record of a run say that it was given the cell of another."""
    record = RunFolder.of_fold(run_fold)
    run = {**record.read_cost().run, "genotype_from": {"path": str(cell), **known}}
    record.write_cost(CostRecord(run=run))


def test_the_origin_of_a_cell_that_went_in_a_circle_is_what_was_recorded_first(
    tmp_path: Path,
) -> None:
    first, second = (found(tmp_path / name) for name in ("first", "second"))
    give(second, first, dataset=COPY, fold=3)
    give(first, second)
    for fold in (first, second):
        origin = Origin.of(fold)
        assert (origin.path, origin.run) == (fold, {"dataset": COPY, "fold": 3})
    give(first, first, dataset=COPY, fold=4)
    assert Origin.of(first).run == {"dataset": COPY, "fold": 4}


def test_a_long_chain_of_cells_is_followed_to_its_beginning(tmp_path: Path) -> None:
    fold = found(tmp_path)
    cost = read_json(RunFolder.of_fold(fold).cost_file)
    for number in range(1200):
        cost["run"]["genotype_from"] = {"path": str(fold)}
        fold = tmp_path / str(number)
        (fold / "iac").mkdir(parents=True)
        (fold / "iac" / "settings.json").touch()
        (fold / "iac" / "cost.json").write_text(json.dumps(cost))
    assert Origin.of(fold).learned_from == ("a", "b")


@pytest.mark.parametrize("given", [3, [], {}, {"path": 3}])
def test_a_damaged_origin_is_named_with_its_file(tmp_path: Path, given: Any) -> None:
    fold = found(tmp_path)
    record = RunFolder.of_fold(fold)
    record.write_cost(CostRecord(run={**record.read_cost().run, "genotype_from": given}))
    with pytest.raises(ValueError, match=r"cost\.json must have the form of such a file"):
        Origin.of(fold)


def test_a_cell_that_was_handed_on_leaks_what_its_first_run_saw(tmp_path: Path) -> None:
    first = found(tmp_path / "first")
    second = handed_on(tmp_path / "second", first)
    assert "on fold 0 (b)" in str(Origin.of(second).leakage(HERE, 1, ["b"], None))
    assert Origin.of(second).leakage(HERE, 1, ["x"], None) is None


def test_a_record_keeps_what_it_has_of_an_origin_that_is_gone(tmp_path: Path) -> None:
    first = with_leak(found(tmp_path / "first"))
    second = handed_on(tmp_path / "second", first)
    shutil.rmtree(first)
    origin = Origin.of(handed_on(tmp_path / "third", second))
    with pytest.raises(ValueError, match=r"searched in 2-D \(2d\)"):
        origin.require_dimensions(3)
    assert str(origin.leakage(HERE, 0, ["c"], None)).endswith(f"{LEAK}) was searched on fold 0")
    assert "has no training cases of a search beside it" in str(origin.unknown())


@pytest.mark.parametrize("method", ["random cell", "identity cell", "random cell with rehearsal"])
def test_a_cell_that_nobody_searched_knows_nothing(tmp_path: Path, method: str) -> None:
    fold = found(tmp_path)
    record = RunFolder.of_fold(fold)
    record.write_cost(CostRecord(run={**record.read_cost().run, "method": method}))
    for origin in (Origin.of(fold), Origin.of(handed_on(tmp_path / "second", fold))):
        assert origin.leakage(HERE, 1, ["a"], None) is None
        assert origin.unknown() is None


def test_names_shared_with_another_data_set_are_reported(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, dataset="Dataset005_Prostate"))
    assert "Dataset005_Prostate" in str(origin.leakage(HERE, 0, ["b"], None))
    assert origin.leakage(HERE, 0, ["c"], None) is None


def test_patients_of_another_data_set_count_where_the_pattern_fits_its_cases(
    tmp_path: Path,
) -> None:
    cases = ("p1_frame1", "other")
    origin = Origin.of(found(tmp_path, dataset="Dataset005_Prostate", cases=cases))
    assert "(p1)" in str(origin.leakage(HERE, 0, ["p1_frame2", "p2_frame1"], r"p\d"))
    assert origin.leakage(HERE, 0, ["p1_frame2"], None) is None
    assert origin.leakage(HERE, 0, ["p2_frame1"], r"p\d") is None
    assert "(other)" in str(origin.leakage(HERE, 0, ["other"], None))


def test_a_backbone_that_leaked_taints_the_cell_for_the_fold_it_was_searched_on(
    tmp_path: Path,
) -> None:
    fold = found(tmp_path)
    assert Origin.of(fold).leakage(HERE, 0, ["c"], None) is None
    origin = Origin.of(with_leak(fold))
    assert f"(its backbone {LEAK}) was searched on fold 0 (c)" in str(
        origin.leakage(HERE, 0, ["c"], None)
    )
    assert origin.provenance()["leakage"] == LEAK


def test_without_its_cases_a_cell_of_another_fold_leaks(tmp_path: Path) -> None:
    origin = Origin.of(found(tmp_path, cases=None))
    assert origin.leakage(HERE, 0, ["x"], None) is None
    assert str(origin.leakage(HERE, 1, ["x"], None)).endswith("searched on fold 0")
    assert origin.leakage("Dataset005_Prostate", 1, ["x"], None) is None


def stock_trainer(dataset: str, fold: int, name: str, plans: str) -> Any:
    from nnunetv2.run.run_training import get_trainer_from_args

    cpu = torch.device("cpu")
    return get_trainer_from_args(dataset, "2d", fold, name, plans, device=cpu)


@pytest.fixture
def copied(in_process: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a copy of the data under another number, with a backbone of fold 1."""
    both = in_process.path / "both"
    both.mkdir()
    (both / HERE).symlink_to(in_process.preprocessed)
    shutil.copytree(in_process.preprocessed, both / COPY)
    monkeypatch.setenv("nnUNet_preprocessed", str(both))
    small = read_json(both / COPY / "small.json")
    write_json(both / COPY / "small.json", {**small, "dataset_name": COPY})
    backbone = stock_trainer(COPY, 1, "nnUNetTrainer", "small")
    backbone.initialize()
    backbone.save_checkpoint(str(Path(backbone.output_folder) / "checkpoint_final.pth"))
    return both / COPY


def test_a_cell_of_other_data_with_names_of_validation_cases_is_reported_and_recorded(
    make_trainer: Make, copied: Path
) -> None:
    fold = run_until(make_trainer(LTH), 7)
    plans = read_json(copied / "small.json")
    plans.update(plans_name="given", source_plans="small")
    plans["configurations"]["2d"]["iac"] = {"genotype": str(fold)}
    write_json(copied / "given.json", plans)
    trainer = stock_trainer(COPY, 1, DISCRETE, "given")
    trainer.on_train_start()
    record = RunFolder.of_fold(trainer.output_folder)
    validation = sorted(read_json(copied / "splits_final.json")[1]["val"])
    leak = (
        f"{fold} was searched on {HERE}, whose training cases have names of validation cases "
        f"({', '.join(validation)})"
    )
    assert f"WARNING: {leak}" in Path(trainer.log_file).read_text()
    assert record.read_backbone().leakage == leak
    source = record.read_cost().run["genotype_from"]
    assert (source["dataset"], source["fold"], source["dimensions"]) == (HERE, 0, 2)
