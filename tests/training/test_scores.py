"""Searches that prune by other scores, on real data through nnU-Net's hooks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from interruption import run_until

from nnunet_iac.analysis.trajectories.replay import replay
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.space import OPERATIONS

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
BY_REMOVAL = {"pruning_score": "perturbation", "score_batches": 1, "held_back": 0.3}

Make = Callable[..., Any]


def test_pruning_by_perturbation_measures_on_held_back_cases_replays_and_continues(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans("removed", **BY_REMOVAL)
    trainer = make_trainer(LTH, plans)
    trainer.run_training()
    record = RunFolder.of_fold(trainer.output_folder)
    split = read_json(record.path / "split.json")
    assert set(split["train_search"]) | set(split["held_back"]) == set(split["training"])
    assert len(split["held_back"]) == 2
    assert not set(split["held_back"]) & {*split["train_search"], *split["validation"]}
    trajectory = record.read_trajectory()
    measured = np.isfinite(trajectory.score)
    # One warm-up epoch, then all edges are due after each epoch until one operation is left.
    assert not measured[0].any()
    assert (measured[1:] == trajectory.active[1:]).all()
    least = [OPERATIONS[index] for index in np.nanargmin(trajectory.score[1], axis=1)]
    assert [e.operation for e in record.read_events() if e.epoch == 2] == least
    assert replay(record).agrees

    kept = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    run_until(make_trainer(LTH, plans), 4)
    resumed = make_trainer(LTH, plans, resume=True)
    resumed.run_training()
    again = RunFolder.of_fold(resumed.output_folder).read_trajectory().score
    assert np.array_equal(trajectory.score, again, equal_nan=True)
    assert all(torch.equal(kept[k], v) for k, v in resumed.network.state_dict().items())


def test_beta_decay_keeps_alpha_closer_together_in_either_search(
    make_trainer: Make, in_process: Any
) -> None:
    for name in (LTH, FULL):
        spread = []
        for weight in (0.0, 1e4):
            # Without it a gated cell would hardly move alpha at all.
            settings = {"residual": "none", "beta_decay": weight, "architecture_lr": 0.1}
            trainer = make_trainer(name, in_process.write_plans(f"decay{weight:.0f}", **settings))
            run_until(trainer, 5)
            spread.append(trainer.unet.alpha.detach().std(dim=1).mean().item())
        assert spread[1] < spread[0]


def test_a_zero_cost_genotype_is_finetuned_without_a_search(
    make_trainer: Make, in_process: Any
) -> None:
    found = {}
    for seed in (0, 1):
        settings = {"genotype": "zero-cost:0", "score_batches": 1, "seed": seed}
        plans = in_process.write_plans(f"scored{seed}", **settings)
        trainer = make_trainer(DISCRETE, plans)
        trainer.run_training()
        record = RunFolder.of_fold(trainer.output_folder)
        assert record.read_cost().run["method"] == "zero-cost cell"
        assert record.read_backbone().unchanged
        found[seed] = record.read_genotype()
        assert record.read_genotype() == trainer.unet.genotype
    assert found[0] != found[1]
