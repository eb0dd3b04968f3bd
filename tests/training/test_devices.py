"""Whole runs on a simulated device: no tensor stays behind, and no step waits in vain."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interruption import run_until
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from simulated_device import DEVICE, SimulatedDevice
from torch import nn

from nnunet_iac.training import retrofit_trainer
from nnunet_iac.training.controller import Phase
from nnunet_iac.training.retention import fisher_diagonal, weight_distance

SHORT = {
    **{"iterations_per_epoch": 1, "val_iterations_per_epoch": 1, "finetune_epochs": 2},
    "min_channels": 4,
}
SEARCH = {"warmup_epochs": 0, "finetune_epochs": 1}
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "accelerated search": (
        "nnUNetTrainerIACLTH",
        2,
        SEARCH | {"search_epochs": 6},
    ),
    "full search": (
        "nnUNetTrainerIAC",
        1,
        SEARCH | {"search_epochs": 2, "norm": "batch", "iterations_per_epoch": 2},
    ),
    "cell and backbone, averaged": (
        "nnUNetTrainerIACDiscrete",
        1,
        {"genotype": "random:0", "trainable_part": "all", "norm": "batch", "ema_decay": 0.9},
    ),
    "nested skips and norms": (
        "nnUNetTrainerIACDiscrete",
        1,
        {"skip": "nested", "trainable_part": "cells+norms", "finetune_optimizer": "sgd"},
    ),
    "continued, near its weights": ("nnUNetTrainerContinue", 1, {"retention": "l2-sp"}),
    "continued, near its outputs": (
        "nnUNetTrainerContinue",
        1,
        {"retention": "lwf", "trainable_part": "decoder", "ema_decay": 0.9},
    ),
}
"""Trainer, epochs before the run is broken off, and settings."""
OF_NNUNET = Counter({"_local_scalar_dense": 1, "copy to the host": 1})
"""What a step of nnU-Net's waits for."""

Make = Callable[..., Any]


def watched(trainer: Any, device: SimulatedDevice) -> list[Counter[str]]:
    """Give a trainer a scaler, as on CUDA, and return what its steps will have waited for."""
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    step = trainer.train_step
    waits: list[Counter[str]] = []

    def train_step(batch: Any) -> Any:
        device.waits.clear()
        result = step(batch)
        waits.append(Counter(device.waits))
        return result

    trainer.train_step = train_step
    return waits


def test_a_step_of_nnunets_waits_for_the_overflow_and_for_the_loss(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_compile", "false")
    with SimulatedDevice() as device:
        trainer = make_trainer("nnUNetTrainer", device=DEVICE.type)
        trainer.initialize()
        waits = watched(trainer, device)
        trainer.train_step(next(trainer.get_dataloaders()[0]))
    assert waits == [OF_NNUNET]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_on_a_device_is_continued_and_its_steps_wait_as_often_as_nnunets(
    make_trainer: Make, in_process: Any, run: str
) -> None:
    name, epochs, settings = RUNS[run]
    plans = in_process.write_plans("device", **SHORT | settings)
    with SimulatedDevice() as device:
        first = make_trainer(name, plans, device=DEVICE.type)
        before = watched(first, device)
        run_until(first, epochs)
        resumed = make_trainer(name, plans, resume=True, device=DEVICE.type)
        after = watched(resumed, device)
        tensors = [*resumed.unet.state_dict().values()]
        tensors += [t for state in resumed.optimizer.state.values() for t in state.values()]
        assert {tensor.device for tensor in tensors if tensor.ndim} == {DEVICE}
        resumed.run_training()
    assert resumed.controller.phase in (Phase.FINETUNE, Phase.CONTINUED)
    assert before and after  # noqa: PT018
    assert all(waits == OF_NNUNET for waits in (*before, *after))


def test_penalties_take_the_weights_of_the_source_to_the_device_once() -> None:
    network, images = nn.Conv2d(1, 2, 1), torch.ones(1, 1, 2, 2)
    weights = {name: tensor - 1.0 for name, tensor in network.state_dict().items()}
    with SimulatedDevice() as device:
        network.to(DEVICE)
        images = images.to(DEVICE)
        importance = fisher_diagonal(network, [lambda: network(images).square().mean()])
        penalty = weight_distance(network, weights, 2.0, importance)
        device.waits.clear()
        value = penalty(images, None)
        value.backward()
        assert device.waits == Counter()
        assert network.bias.grad is not None
        assert network.bias.grad.device == DEVICE
        # The importances have a mean of 1, and every weight is 1 away.
        assert value.item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("hook", ["train_step", "validation_step", "perform_actual_validation"])
def test_an_operation_that_mps_lacks_ends_a_run_with_the_name_of_the_fallback(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    def lack(*_: Any) -> None:
        raise NotImplementedError(
            "The operator 'aten::some_op' is not currently implemented for the MPS device."
        )

    monkeypatch.setattr(nnUNetTrainer, hook, lack)
    monkeypatch.setattr(retrofit_trainer, "validate_others", lambda trainer: None)
    plans = in_process.write_plans("identity", genotype="identity")
    trainer = make_trainer("nnUNetTrainerIACDiscrete_2finetune", plans)
    run = getattr(trainer, "run_training" if hook.endswith("step") else hook)
    with pytest.raises(RuntimeError, match="set PYTORCH_ENABLE_MPS_FALLBACK=1"):
        run()
