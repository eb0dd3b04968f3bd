"""The control that continues its backbone, driven epoch by epoch without nnU-Net."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_iac.analysis.vocabulary import TRAINS_BACKBONE
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.continuation import ContinuationController
from nnunet_iac.training.controller import Change
from nnunet_iac.training.method import CONTINUE
from nnunet_iac.training.recorder import Recorder

TinyUNet = Callable[..., nn.Module]


def _controller(folder: Path, log: list[str] | None = None, **settings: Any) -> Any:
    chosen = Settings(finetune_epochs=3, **settings)
    to = (lambda line: None) if log is None else log.append
    recorder = Recorder(chosen, RunFolder(folder), to, cells=False)
    return ContinuationController(chosen, CONTINUE, recorder)


def _start(folder: Path, unet: nn.Module, log: list[str] | None = None, **settings: Any) -> Any:
    controller = _controller(folder, log, **settings)
    before = tensors_hash(unet.state_dict())
    record = BackboneRecord("checkpoint_final.pth", "nnUNetTrainer", 0, before)
    controller.start(unet, record, {"fold": 0})
    return controller


@pytest.mark.parametrize(
    ("part", "learns"),
    [
        ("network", lambda name: True),
        ("decoder", lambda name: name.startswith("decoder.")),
        ("norms", lambda name: name.startswith("decoder.stages.") and ".norm." in name),
    ],
)
def test_only_the_trainable_part_learns_and_the_rest_is_in_evaluation_mode(
    tmp_path: Path, tiny_unet: TinyUNet, part: str, learns: Callable[[str], bool]
) -> None:
    unet: Any = tiny_unet()
    controller = _start(tmp_path, unet, trainable_part=part)
    optimizer, _ = controller.optimisers(unet)
    found = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert found == {name for name, _ in unet.named_parameters() if learns(name)} != set()
    assert len(optimizer.param_groups[0]["params"]) == len(found)
    controller.set_modes(unet.train())
    assert (unet.encoder.training, unet.training) == (part == "network", part != "norms")


def test_norms_without_scale_and_shift_cannot_be_trained(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    unet: Any = tiny_unet()
    for norm in (module for module in unet.modules() if isinstance(module, nn.InstanceNorm2d)):
        norm.weight = norm.bias = None
    controller = _start(tmp_path, unet, trainable_part="norms")
    with pytest.raises(ValueError, match="needs norms with a scale and a shift in the decoder"):
        controller.optimisers(unet)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "continued"),
        ({"retention": "l2-sp"}, "continued with L2-SP"),
        ({"retention": "lwf", "trainable_part": "decoder"}, "continued decoder with LwF"),
        ({"retention": "ewc", "trainable_part": "norms"}, "continued norms with EWC"),
        ({"retention": "rehearsal"}, "continued with rehearsal"),
    ],
)
def test_the_record_names_what_is_trained_and_what_keeps_the_source(
    tmp_path: Path, tiny_unet: TinyUNet, settings: dict[str, Any], name: str
) -> None:
    controller = _start(tmp_path, tiny_unet(), **settings)
    assert controller.recorder.folder.read_cost().run == {"method": name, "fold": 0}
    assert name in TRAINS_BACKBONE


def test_a_control_restored_from_its_state_ends_as_the_unbroken_one(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    log: list[str] = []
    unet = tiny_unet()
    first = _start(tmp_path / "first", unet, finetune_patience=1)
    assert first.num_epochs == 3
    assert first.end_epoch(unet, 1, seconds=2.0, loss=0.5) == Change()
    second = _controller(tmp_path / "second", log, finetune_patience=1)
    second.load_state_dict(first.state_dict(), unet)
    second.resume(unet)
    for controller in (first, second):
        controller.end_epoch(unet, 2, seconds=2.0, loss=0.6)
        assert controller.num_epochs == 2
        spent = controller.recorder.folder.read_cost().phases["continued"]
        assert (spent.epochs, spent.seconds) == (2, 4.0)
    assert log[-1].startswith("The finetuning ends after 2 epochs")


def test_an_encoder_that_was_to_stay_is_proven_at_the_end(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    unet: Any = tiny_unet()
    controller = _start(tmp_path, unet, trainable_part="decoder")
    controller.end_run(unet, Cost(3, 4))
    record = controller.recorder.folder.read_backbone()
    assert record.encoder_after == record.encoder_before is not None
    with torch.no_grad():
        next(unet.encoder.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="the frozen encoder must be bit-identical"):
        controller.end_run(unet, Cost(3, 4))


def test_a_number_that_is_not_finite_names_its_epoch(tmp_path: Path) -> None:
    error = _controller(tmp_path).not_finite("the loss must be finite; it is nan", 3)
    assert "it is nan in epoch 3. The last checkpoint is kept" in str(error)
