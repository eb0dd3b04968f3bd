"""Runs that train more than cells, and what their records say of the backbone."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import run_until

from nnunet_iac.adaptation.adapter import Adapter
from nnunet_iac.runs.checkpoint import FINAL, LATEST, read_checkpoint, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.training.trained_backbone import (
    original_weights,
    require_encoder_unchanged,
    with_trained_part,
)

DISCRETE = "nnUNetTrainerIACDiscrete"
CONTROL = "nnUNetTrainerContinue"
SHORT = {"iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "finetune_epochs": 2}
PREFIXES = {"encoder": ("encoder.", "decoder.encoder."), "decoder": ("decoder.",)}

Make = Callable[..., Any]


def _changed(trainer: Any, start: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the backbone's tensors that differ from those at the start."""
    found = trainer.unet.state_dict()
    return {key for key, tensor in start.items() if not torch.equal(found[key], tensor)}


def _start(in_process: Any) -> dict[str, torch.Tensor]:
    fold = in_process.model("nnUNetTrainer", "small") / "fold_0"
    weights: dict[str, torch.Tensor] = read_checkpoint(fold / FINAL)["network_weights"]
    return weights


@pytest.mark.parametrize(
    ("part", "trained", "moved"),
    [
        ("cells+norms", None, set()),
        ("cells+decoder", "decoder", {"decoder"}),
        ("all", "all", {"encoder", "decoder"}),
    ],
)
def test_a_retrofit_trains_its_part_and_records_what_became_of_the_backbone(
    make_trainer: Make, in_process: Any, part: str, trained: str | None, moved: set[str]
) -> None:
    settings = {"genotype": "identity", "trainable_part": part}
    plans = in_process.write_plans("part", **SHORT, **settings)
    whole = make_trainer(DISCRETE, plans)
    whole.run_training()
    start = _start(in_process)
    changed = _changed(whole, start)
    assert {key for key in changed if not key.startswith(PREFIXES["encoder"])} == {
        key
        for key in start
        if "decoder" in moved and not key.startswith(PREFIXES["encoder"])
        if not key.startswith("decoder.seg_layers.0")  # Its output has no weight in the loss.
    }
    assert bool(changed & {k for k in start if k.startswith("encoder.")}) == ("encoder" in moved)
    record = RunFolder.of_fold(whole.output_folder).read_backbone()
    assert record.trained == trained
    assert record.before == tensors_hash(start)
    assert record.after == tensors_hash(whole.unet.backbone_state())
    assert record.unchanged == (not moved)
    assert (record.encoder_before is not None) == (moved == {"decoder"})
    assert record.encoder_before == record.encoder_after
    kept = whole.run.backbone_weights(whole.unet)
    assert all(torch.equal(kept[key], tensor) for key, tensor in start.items())

    run_until(make_trainer(DISCRETE, plans), 1)
    resumed = make_trainer(DISCRETE, plans, resume=True)
    resumed.run_training()
    assert tensors_hash(resumed.unet.state_dict()) == tensors_hash(whole.unet.state_dict())


def test_continued_norms_change_no_other_tensor(make_trainer: Make, in_process: Any) -> None:
    trainer = make_trainer(
        CONTROL, in_process.write_plans("norms", **SHORT, trainable_part="norms")
    )
    trainer.run_training()
    changed = _changed(trainer, _start(in_process))
    assert {name.split(".")[-2] for name in changed} == {"norm", "1"}
    assert all(name.startswith("decoder.stages.") for name in changed)
    record = RunFolder.of_fold(trainer.output_folder)
    assert record.read_cost().run["method"] == "continued norms"
    assert record.read_backbone().trained == "norms"
    assert record.read_backbone().encoder_before == record.read_backbone().encoder_after is not None


def test_no_adapter_is_made_of_a_run_that_changed_its_backbone(
    make_trainer: Make, in_process: Any
) -> None:
    settings = {"genotype": "identity", "trainable_part": "all"}
    trainer = make_trainer(DISCRETE, in_process.write_plans("part", **SHORT, **settings))
    trainer.run_training()
    with pytest.raises(ValueError, match=r"has changed: train with trainable_part=cells or cells"):
        Adapter.of_fold(Path(trainer.output_folder), "cpu", print)


@pytest.fixture
def record(in_process: Any) -> BackboneRecord:
    path = in_process.model("nnUNetTrainer", "small") / "fold_0" / FINAL
    return BackboneRecord(str(path), "nnUNetTrainer", 0, tensors_hash(_start(in_process)))


def test_the_original_weights_are_those_of_the_recorded_checkpoint(
    in_process: Any, record: BackboneRecord
) -> None:
    assert tensors_hash(original_weights(record)) == record.before
    other = dataclasses.replace(record, before="0" * 64)
    with pytest.raises(ValueError, match=r"and the run began with 000000000000: put that one back"):
        original_weights(other)
    Path(record.path).rename(Path(record.path).with_name(LATEST))
    with pytest.raises(
        FileNotFoundError, match=r"checkpoint_final.pth does not exist: put it back"
    ):
        original_weights(record)


def test_an_encoder_that_was_to_stay_is_compared(tiny_unet: Callable[..., Any]) -> None:
    frozen, encoder = BackboneRecord("a.pth", "nnUNetTrainer", 0, "0"), tiny_unet().encoder
    assert with_trained_part(frozen, "none", encoder) == frozen
    decoder = with_trained_part(frozen, "decoder", encoder)
    everything = with_trained_part(frozen, "all", encoder)
    assert (decoder.trained, everything.trained) == ("decoder", "all")
    require_encoder_unchanged(decoder, encoder)
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="the frozen encoder must be bit-identical"):
        require_encoder_unchanged(decoder, encoder)
    require_encoder_unchanged(everything, encoder)
