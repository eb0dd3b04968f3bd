"""beta-decay and zero-cost genotypes, on real data through nnU-Net's hooks."""

from collections.abc import Callable
from typing import Any

from interruption import run_until

from nnunet_iac.runs.folder import RunFolder

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"

Make = Callable[..., Any]


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
