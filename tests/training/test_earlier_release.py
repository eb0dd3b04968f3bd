"""Checkpoints that were written before the trainers became collaborators continue and predict.

`earlier_release` holds a run that was interrupted after 4 of 9 epochs, the losses of the same run
without an interruption, and a finished model with its logits for a fixed image.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.training.trainers import SHORTEST, nnUNetTrainerIACLTH_1warmup6search2finetune

KEPT = Path(__file__).parent / "earlier_release"
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"


def test_an_interrupted_run_continues_and_ends_as_it_would_have(
    in_process: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = in_process.write_plans("base_lth", backbone_trainer="nnUNetTrainer_1epoch")
    document = read_json(in_process.preprocessed / f"{plans}.json")
    network = read_json(KEPT / "finished" / "plans.json")["configurations"]["2d"]["architecture"]
    document["configurations"]["2d"]["architecture"] = network
    write_json(in_process.preprocessed / f"{plans}.json", document)
    then = {**SHORTEST, "iterations_per_epoch": 4, "val_iterations_per_epoch": 2}
    monkeypatch.setattr(nnUNetTrainerIACLTH_1warmup6search2finetune, "overrides", then)
    fold = in_process.model(LTH, plans) / "fold_0"
    shutil.copytree(KEPT / "interrupted" / "fold_0", fold)
    trainer = make_trainer(LTH, plans, resume=True)
    trainer.run_training()
    assert trainer.current_epoch == 9
    losses = trainer.logger.get_value("train_losses", step=None)
    assert losses == pytest.approx(read_json(KEPT / "unbroken.json")["train_losses"], rel=1e-3)
    record = RunFolder.of_fold(fold)
    assert record.read_backbone().unchanged
    assert record.read_settings().schedule.search_epochs == 7


def test_a_finished_model_predicts_as_before(tmp_path: Path, in_process: Any) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    model = tmp_path / "finished"
    shutil.copytree(KEPT / "finished", model)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    network = predictor.network
    network.load_state_dict(predictor.list_of_parameters[0])
    with torch.no_grad():
        logits = network.eval()(torch.linspace(-2, 2, 56 * 40).reshape(1, 1, 56, 40))
    np.testing.assert_allclose(logits.numpy(), np.load(model / "logits.npy"), rtol=1e-4, atol=1e-4)


def test_the_kept_checkpoint_has_settings_by_their_old_names() -> None:
    settings = read_json(KEPT / "interrupted" / "fold_0" / "iac" / "settings.json")
    assert {"stable_checks", "theta", "kappa", "pruning_score", "recompute_cells"} <= set(settings)
