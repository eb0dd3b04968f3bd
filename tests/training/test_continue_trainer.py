"""The control's record: what it was, what it started from and what it cost."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import run_until

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import LATEST, PREVIOUS, tensors_hash
from nnunet_iac.runs.folder import RunFolder

CONTROL = "nnUNetTrainerContinue"
FILES = ("settings.json", "split.json", "backbone.json", "cost.json")

Make = Callable[..., Any]


@pytest.fixture
def plans(in_process: Any) -> str:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 3}
    name: str = in_process.write_plans("control", seed=3, **short)
    return name


def _backbone(in_process: Any) -> Path:
    path: Path = in_process.model("nnUNetTrainer", "small") / "fold_0" / "checkpoint_final.pth"
    return path


def test_the_control_records_what_it_was_cost_and_started_from_and_nothing_of_its_end(
    make_trainer: Make, in_process: Any, plans: str
) -> None:
    trainer = make_trainer(CONTROL, plans)
    trainer.run_training()
    record = RunFolder.of_fold(trainer.output_folder)
    assert sorted(path.name for path in record.path.iterdir()) == sorted(FILES)
    assert record.read_settings() == trainer.settings
    split = read_json(in_process.preprocessed / "splits_final.json")[0]
    assert read_json(record.split_file) == {
        "training": split["train"],
        "validation": split["val"],
    }
    cost = record.read_cost()
    assert cost.run == {"method": "continued", **trainer.run.identity, "ranks": 1}
    assert cost.run["trainer"] == CONTROL
    assert cost.run["fold"] == 0
    assert {name: phase.epochs for name, phase in cost.phases.items()} == {"continued": 3}
    assert cost.phases["continued"].seconds > 0
    assert cost.networks["final"] == cost.networks["backbone"]
    assert cost.networks["final"].parameters == sum(p.numel() for p in trainer.network.parameters())
    assert cost.networks["final"].macs > 0
    assert cost.peak_memory_bytes > 0
    assert cost.hardware["cores"] > 0
    assert cost.versions["nnunetv2"]
    assert cost.continued == []
    backbone = record.read_backbone()
    weights = torch.load(_backbone(in_process), weights_only=False)["network_weights"]
    assert (backbone.path, backbone.trainer, backbone.fold) == (
        str(_backbone(in_process)),
        "nnUNetTrainer",
        0,
    )
    assert backbone.before == tensors_hash(weights)
    assert tensors_hash(trainer.network.state_dict()) != backbone.before
    assert backbone.after is None
    assert backbone.leakage is None


def test_a_decoder_trained_on_leaves_its_encoder_bit_identical_and_proves_it(
    make_trainer: Make, in_process: Any
) -> None:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 2}
    plans = in_process.write_plans("decoder", trainable_part="decoder", **short)
    trainer = make_trainer(CONTROL, plans)
    trainer.run_training()
    record = RunFolder.of_fold(trainer.output_folder)
    backbone = record.read_backbone()
    assert record.read_cost().run["method"] == "continued decoder"
    assert backbone.encoder_before == backbone.encoder_after is not None
    start = torch.load(_backbone(in_process), weights_only=False)["network_weights"]
    for name, tensor in trainer.network.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, start[name]), name
    assert not torch.equal(
        trainer.network.state_dict()["decoder.seg_layers.1.weight"],
        start["decoder.seg_layers.1.weight"],
    )
    run_until(make_trainer(CONTROL, plans), 1)
    resumed = make_trainer(CONTROL, plans, resume=True)
    resumed.run_training()
    assert tensors_hash(resumed.network.state_dict()) == tensors_hash(trainer.network.state_dict())
    assert RunFolder.of_fold(resumed.output_folder).read_backbone().encoder_after is not None


def test_the_control_records_a_backbone_that_saw_its_validation_cases(
    make_trainer: Make, in_process: Any
) -> None:
    seen = {"backbone_checkpoint": str(_backbone(in_process)), "allow_leakage": True}
    trainer = make_trainer(CONTROL, in_process.write_plans("leaking", **seen), fold=1)
    trainer.on_train_start()
    assert "fold 0" in str(trainer.run.recorder.folder.read_backbone().leakage)


def test_a_continued_control_puts_its_record_in_order(make_trainer: Make, plans: str) -> None:
    fold = run_until(make_trainer(CONTROL, plans), 2)
    record = RunFolder.of_fold(fold)
    whole = {name: (record.path / name).read_bytes() for name in FILES}
    for name in FILES:
        (record.path / name).write_text("{")
        resumed = make_trainer(CONTROL, plans, resume=True)
        resumed.continue_run()
        warned = f"WARNING: {name} is written again" in Path(resumed.log_file).read_text()
        assert warned or name == "split.json"
        assert name == "cost.json" or (record.path / name).read_bytes() == whole[name]
    shutil.rmtree(record.path)
    resumed = make_trainer(CONTROL, plans, resume=True)
    resumed.run_training()
    assert record.read_cost().phases["continued"].epochs == 3
    assert record.read_backbone().after is None
    assert sorted(path.name for path in record.path.iterdir()) == sorted(FILES)


def test_a_record_that_is_ahead_of_the_checkpoint_is_taken_back(
    make_trainer: Make, plans: str
) -> None:
    fold = run_until(make_trainer(CONTROL, plans), 2)
    shutil.copy(fold / PREVIOUS, fold / LATEST)
    resumed = make_trainer(CONTROL, plans, resume=True)
    resumed.continue_run()
    assert resumed.run.recorder.folder.read_cost().phases["continued"].epochs == 1


def test_a_control_in_a_used_fold_moves_the_earlier_record_aside(
    make_trainer: Make, plans: str
) -> None:
    fold = run_until(make_trainer(CONTROL, plans), 2)
    run_until(make_trainer(CONTROL, plans), 1)
    (aside,) = fold.glob("before_*")
    assert RunFolder.of_fold(aside).read_cost().phases["continued"].epochs == 2
    assert RunFolder.of_fold(fold).read_cost().phases["continued"].epochs == 1


def test_another_runs_record_in_the_controls_fold_is_not_written_over(
    make_trainer: Make, plans: str
) -> None:
    fold = run_until(make_trainer(CONTROL, plans), 1)
    file = RunFolder.of_fold(fold).cost_file
    text = file.read_text().replace(f'"trainer": "{CONTROL}"', '"trainer": "Other"')
    file.write_text(text)
    with pytest.raises(ValueError, match=f"trainer is '{CONTROL}' .* and 'Other' in cost.json"):
        make_trainer(CONTROL, plans, resume=True).run_training()
    assert file.read_text() == text


def test_a_checkpoint_of_a_control_without_a_record_is_refused(
    make_trainer: Make, plans: str
) -> None:
    fold = run_until(make_trainer(CONTROL, plans), 1)
    checkpoint = torch.load(fold / LATEST, weights_only=False)
    del checkpoint["iac"]["record"]
    torch.save(checkpoint, fold / LATEST)
    with pytest.raises(ValueError, match=r"must hold the whole state .*\(KeyError: 'record'\)"):
        make_trainer(CONTROL, plans, resume=True)
