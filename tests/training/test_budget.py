"""A budget for the cells, in whole runs."""

from collections.abc import Callable
from typing import Any

import pytest
from interruption import run_until

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.discretisation import is_within
from nnunet_iac.search.genotype import Genotype

Make = Callable[..., Any]

LTH, DISCRETE = "nnUNetTrainerIACLTH", "nnUNetTrainerIACDiscrete"
SHORT: dict[str, Any] = {
    "warmup_epochs": 1,
    "search_epochs": 7,
    "patience": 1,
    "finetune_epochs": 1,
    "iterations_per_epoch": 2,
    "val_iterations_per_epoch": 1,
}


def costs_of(in_process: Any, make_trainer: Make) -> CellCosts:
    """Return what cells cost in the small network."""
    plans = in_process.write_plans("priced", max_parameter_ratio=100.0, genotype="identity")
    trainer = make_trainer(DISCRETE, plans)
    trainer.on_train_start()
    costs: CellCosts = trainer.controller.costs
    return costs


@pytest.fixture
def tight(in_process: Any, make_trainer: Make) -> float:
    """A ratio that leaves room for one 3x3 separable convolution only."""
    costs = costs_of(in_process, make_trainer)
    room = costs.fixed.parameters + costs.operations["sep_conv_3x3"].parameters
    return room / costs.backbone.parameters


def test_a_search_whole_or_broken_off_ends_within_its_budget_and_reports_what_it_left_out(
    in_process: Any, make_trainer: Make, tight: float
) -> None:
    free = make_trainer(LTH, in_process.write_plans("free", **SHORT))
    free.run_training()
    plans = in_process.write_plans("tight", **SHORT, max_parameter_ratio=tight)
    bound = make_trainer(LTH, plans)
    bound.run_training()
    record = RunFolder.of_fold(bound.output_folder)
    document = read_json(record.budget_file)
    costs = CellCosts.from_document(document)
    assert Genotype.from_document(document["wanted"]) == free.unet.genotype
    assert bound.unet.genotype != free.unet.genotype
    assert is_within(bound.unet.genotype, costs, bound.settings.cell)
    assert not is_within(free.unet.genotype, costs, bound.settings.cell)
    assert document["outcome"] in (in_process.path / bound.log_file).read_text()
    cost = record.read_cost().networks
    added = cost["final"].parameters - cost["backbone"].parameters
    assert added == costs.of(bound.unet.genotype).parameters
    assert not RunFolder.of_fold(free.output_folder).budget_file.exists()
    run_until(make_trainer(LTH, plans), 3)
    resumed = make_trainer(LTH, plans, resume=True)
    resumed.run_training()
    assert resumed.unet.genotype == bound.unet.genotype
    assert RunFolder.of_fold(resumed.output_folder).budget_file.is_file()


def test_a_lost_account_of_the_budget_is_written_again(
    in_process: Any, make_trainer: Make, tight: float
) -> None:
    plans = in_process.write_plans(
        "tight", **{**SHORT, "finetune_epochs": 2}, max_parameter_ratio=tight
    )
    file = RunFolder.of_fold(run_until(make_trainer(LTH, plans), 8)).budget_file
    before = file.read_bytes()
    file.unlink()
    make_trainer(LTH, plans, resume=True).continue_run()
    assert file.read_bytes() == before


def test_a_budget_no_cell_can_meet_is_refused_before_anything_is_trained(
    in_process: Any, make_trainer: Make
) -> None:
    trainer = make_trainer(LTH, in_process.write_plans("poor", max_mac_ratio=1e-6))
    with pytest.raises(ValueError, match="got max_mac_ratio=1e-06: set max_mac_ratio to"):
        trainer.run_training()
    assert not trainer.run.recorder.folder.cost_file.exists()


def test_a_given_cell_beyond_the_budget_is_refused(
    in_process: Any, make_trainer: Make, tight: float
) -> None:
    path = in_process.path / "cell.json"
    write_json(path, random_genotype(0).to_document())
    plans = in_process.write_plans("given", genotype=str(path), max_parameter_ratio=tight)
    with pytest.raises(ValueError, match="given genotype must be within max_parameter_ratio="):
        make_trainer(DISCRETE, plans).on_train_start()


def test_a_random_cell_is_the_first_drawn_within_the_budget(
    in_process: Any, make_trainer: Make, tight: float
) -> None:
    plans = in_process.write_plans("drawn", genotype="random:0", max_parameter_ratio=tight)
    trainer = make_trainer(DISCRETE, plans)
    trainer.on_train_start()
    assert is_within(trainer.unet.genotype, trainer.controller.costs, trainer.settings.cell)
    assert trainer.unet.genotype != random_genotype(0)
