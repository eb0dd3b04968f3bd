"""The finetuning takes the epochs that are planned, or ends once its loss falls no more."""

from pathlib import Path
from typing import Any

import pytest
from interruption import run_until

from nnunet_iac.search.setting_parts import SearchSchedule
from nnunet_iac.training.finetuning import FinetuneLength


def length(patience: int | None, epochs: int = 10) -> FinetuneLength:
    return FinetuneLength(SearchSchedule(finetune_epochs=epochs, finetune_patience=patience))


def test_without_patience_all_planned_epochs_are_taken() -> None:
    planned = length(None)
    assert not any(planned.add(1.0) for _ in range(10))
    assert planned.epochs == 10


def test_it_ends_after_patience_epochs_without_a_new_least_mean() -> None:
    short = length(3)
    # The mean falls to the third epoch, rises in the fourth, and then falls without a new minimum.
    ends = [short.add(loss) for loss in (1.0, 0.5, 0.0, 2.0, 0.9, 0.9)]
    assert ends == [False] * 5 + [True]
    assert short.epochs == 6


def test_a_mean_that_falls_though_single_epochs_rise_does_not_end_it() -> None:
    falling = length(2, epochs=20)
    assert not any(falling.add(loss) for loss in [2.0, 0.0, 0.1, 0.0, 0.1, 0.0, 0.1])


def test_nothing_ends_early_in_the_last_epoch() -> None:
    last = length(1, epochs=2)
    assert [last.add(loss) for loss in (1.0, 2.0)] == [False, False]
    assert last.epochs == 2


def test_restored_from_its_state_it_ends_where_it_would_have() -> None:
    first = length(2)
    for loss in (1.0, 2.0):
        first.add(loss)
    second = length(2)
    second.load_state_dict(first.state_dict())
    assert second.add(3.0)
    assert second.epochs == 3


@pytest.mark.parametrize("trainer", ["nnUNetTrainerContinue", "nnUNetTrainerIACDiscrete"])
def test_a_run_that_learns_nothing_ends_early_and_so_does_a_continued_one(
    make_trainer: Any, in_process: Any, trainer: str
) -> None:
    cell = {"genotype": "identity"} if trainer.endswith("Discrete") else {}
    short = {"iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "finetune_lr": 1e-9}
    plans = in_process.write_plans(
        "patient", finetune_epochs=30, finetune_patience=1, **short, **cell
    )
    whole = make_trainer(trainer, plans)
    whole.run_training()
    assert 1 < whole.current_epoch < 30
    assert "no new minimum in the last 1 (finetune_patience)" in Path(whole.log_file).read_text()
    run_until(make_trainer(trainer, plans), 1)
    continued = make_trainer(trainer, plans, resume=True)
    continued.run_training()
    assert continued.current_epoch == whole.current_epoch
