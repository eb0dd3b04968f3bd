"""Every trainer on other networks than nnU-Net's plain U-Net, through the plans of a user."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.host.planning import NetworkChanges, write_plans
from nnunet_iac.nn.retrofitted_unet import skip_channels
from nnunet_iac.nn.skip_modules import SKIP_MODULES
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.settings import parse_assignment

Make = Callable[..., Any]

SHORT = ("iterations_per_epoch=1", "val_iterations_per_epoch=1", "finetune_epochs=1")
ACCELERATED = ("warmup_epochs=1", "search_epochs=7", "patience=1")
FULL = ("warmup_epochs=1", "search_epochs=2", "iterations_per_epoch=2")
"""As few epochs and iterations as either search can have."""

RESIDUAL = "residual-encoder"


def with_residual_encoder(in_process: Any) -> None:
    """Write the plans `res` of a small network as nnU-Net's residual-encoder presets make them."""
    plans = read_json(in_process.preprocessed / "small.json")
    plans["plans_name"] = "res"
    architecture = plans["configurations"]["2d"]["architecture"]
    architecture["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    kwargs = architecture["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = [1, 2, 2]
    del kwargs["n_conv_per_stage"]
    write_json(in_process.preprocessed / "res.json", plans)


def planned_anew(in_process: Any, *settings: str, source: str = "small", **choice: str) -> None:
    """Write the plans `other`, which an earlier test may have left behind."""
    (in_process.preprocessed / "other.json").unlink(missing_ok=True)
    values = dict(map(parse_assignment, settings))
    write_plans("4", "2d", source, "other", values, NetworkChanges(**choice))


def trained(make_trainer: Make, in_process: Any, encoder: str, trainer: str, *settings: str) -> Any:
    """Return the trainer after a short run on a backbone with initial weights."""
    if encoder == RESIDUAL:
        with_residual_encoder(in_process)
        planned_anew(in_process, *SHORT, *settings, source="res")
    else:
        planned_anew(in_process, *SHORT, *settings, encoder=encoder)
    plans = read_json(in_process.preprocessed / "other.json")
    plans["configurations"]["2d"]["batch_size"] = 2
    if encoder != RESIDUAL:  # As small as leaves instance norms two voxels to compare.
        plans["configurations"]["2d"]["patch_size"] = [64, 32]
    write_json(in_process.preprocessed / "other.json", plans)
    stock = get_trainer_from_args(
        "4", "2d", 0, "nnUNetTrainer", "other", device=torch.device("cpu")
    )
    stock.initialize()
    stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
    run = make_trainer(trainer, "other")
    # Where a checkpoint has hundreds of megabytes, writing one per epoch takes most of the time.
    run.disable_checkpointing = encoder not in (RESIDUAL, "mobilenetv3_large")
    run.run_training()
    return run


@pytest.mark.parametrize("encoder", [RESIDUAL, "efficientnetv2_s"])
def test_the_accelerated_search_runs_on_other_encoders(
    make_trainer: Make, in_process: Any, encoder: str
) -> None:
    run = trained(make_trainer, in_process, encoder, "nnUNetTrainerIACLTH", *ACCELERATED)
    record = RunFolder.of_fold(run.output_folder)
    assert record.read_backbone().unchanged
    assert record.read_genotype() == run.unet.genotype
    assert len(run.unet.implants) == len(skip_channels(run.unet))


@pytest.mark.usefixtures("checked_shapes")
@pytest.mark.parametrize("encoder", [RESIDUAL, "mobilenetv3_large"])
def test_the_full_search_runs_on_other_encoders(
    make_trainer: Make, in_process: Any, encoder: str
) -> None:
    run = trained(make_trainer, in_process, encoder, "nnUNetTrainerIAC", *FULL)
    record = RunFolder.of_fold(run.output_folder)
    assert record.read_backbone().unchanged
    assert record.read_genotype() == run.unet.genotype


@pytest.mark.parametrize("encoder", [RESIDUAL, "mobilenetv3_large"])
def test_a_decoder_is_trained_on_behind_other_encoders(
    make_trainer: Make, in_process: Any, encoder: str
) -> None:
    run = trained(
        make_trainer, in_process, encoder, "nnUNetTrainerContinue", "trainable_part=decoder"
    )
    backbone = RunFolder.of_fold(run.output_folder).read_backbone()
    assert backbone.encoder_after == backbone.encoder_before is not None


@pytest.mark.parametrize(
    ("encoder", "implant", "method"),
    [
        (RESIDUAL, "genotype=random:0", "random cell"),
        (RESIDUAL, "genotype=conv", "convolution"),
        (RESIDUAL, "skip=attention", "attention gates"),
        (RESIDUAL, "skip=nested", "nested skips"),
        ("mobilenetv3_large", "genotype=random:0", "random cell"),
        ("mobilenetv3_large", "skip=nested", "nested skips"),
    ],
)
def test_what_is_implanted_without_a_search_learns_on_other_encoders(
    make_trainer: Make, in_process: Any, encoder: str, implant: str, method: str
) -> None:
    # Behind a gate that begins at zero nothing moves in the first step.
    run = trained(
        make_trainer, in_process, encoder, "nnUNetTrainerIACDiscrete", implant, "residual=none"
    )
    record = RunFolder.of_fold(run.output_folder)
    assert record.read_backbone().unchanged
    assert record.read_cost().run["method"] == method
    ticket = record.read_ticket()
    learned = {name: p for name, p in run.unet.named_parameters() if p.requires_grad}
    assert learned
    assert all(name.startswith("implants.") for name in learned)
    assert [name for name, p in learned.items() if torch.equal(p, ticket[name])] == []


@pytest.mark.parametrize(
    ("encoder", "skip"), [*product(["plain"], SKIP_MODULES), ("mobilenetv3_large", "nested")]
)
def test_stock_training_of_a_skip_module_runs_from_its_plans_alone(
    make_trainer: Make, in_process: Any, monkeypatch: Any, encoder: str, skip: str
) -> None:
    # The number that nnU-Net took from the environment when it was imported, of new interpreters.
    monkeypatch.setattr(nnUNetTrainer, "default_num_processes", 1)
    planned_anew(in_process, encoder=encoder, skip=skip)
    stock = get_trainer_from_args(
        "4", "2d", 0, "nnUNetTrainer", "other", device=torch.device("cpu")
    )
    stock.num_epochs = stock.num_iterations_per_epoch = stock.num_val_iterations_per_epoch = 1
    stock.run_training()
    stock.inference_allowed_mirroring_axes = None  # Which would predict every slice four times.
    stock.perform_actual_validation()
    assert (Path(stock.output_folder) / "validation" / "summary.json").is_file()


def test_the_retrofit_trainers_refuse_a_network_with_skip_modules_of_its_own(
    make_trainer: Make, in_process: Any
) -> None:
    planned_anew(in_process, skip="attention")
    with pytest.raises(ValueError, match="the plans describe a SkipUNet"):
        make_trainer("nnUNetTrainerIACLTH", "other").initialize()


def test_without_deep_supervision_there_is_one_output_to_learn_from(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans(
        "single",
        deep_supervision=False,
        genotype="identity",
        iterations_per_epoch=1,
        val_iterations_per_epoch=1,
        finetune_epochs=1,
    )
    trainer = make_trainer("nnUNetTrainerIACDiscrete", plans)
    trainer.run_training()
    assert trainer.unet.decoder.deep_supervision is False
    assert torch.is_tensor(trainer.unet(torch.zeros(1, 1, 56, 40)))
