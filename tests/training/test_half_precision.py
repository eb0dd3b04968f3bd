"""Whole runs in half precision; the last step of every search and of every finetuning overflows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet
from torch import Tensor, nn

from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.training import optimisation

SCALE = 2.0**10
SHORT = {
    **{"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 2},
    "min_channels": 4,
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "accelerated search": (
        "nnUNetTrainerIACLTH",
        {"warmup_epochs": 0, "search_epochs": 6, "iterations_per_epoch": 1},
    ),
    "full search": (
        "nnUNetTrainerIAC",
        {"warmup_epochs": 0, "search_epochs": 1, "finetune_epochs": 1},
    ),
    "finetuning": (
        "nnUNetTrainerIACDiscrete",
        {"genotype": "random:0", "trainable_part": "all", "ema_decay": 0.9},
    ),
    "residual attention": (
        "nnUNetTrainerIACDiscrete",
        {"skip": "residual-attention", "norm": "batch"},
    ),
    "continued backbone": ("nnUNetTrainerContinue", {"retention": "lwf"}),
}

Make = Callable[..., Any]


class OverflowingScaler(torch.amp.GradScaler):
    """A scaler that scales every second loss, and so its gradients, to infinity."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=SCALE)
        self.calls = 0

    def scale(self, outputs: Any) -> Any:
        self.calls += 1
        return super().scale(outputs) * (1.0 if self.calls % 2 else torch.inf)


def computes_in(dtype: torch.dtype) -> bool:
    """Return whether this CPU has convolutions of a half precision, and their gradients."""
    try:
        with torch.autocast("cpu", dtype):
            output = nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 1, 1))
        output.sum().backward()
    except RuntimeError:
        return False
    return output.dtype == dtype


@pytest.fixture
def make_half(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of trainers that train on the CPU as they do on CUDA, in half precision."""

    def make(dtype: torch.dtype, *arguments: Any) -> Any:
        if not computes_in(dtype):
            pytest.skip(f"this CPU has no convolution in {dtype}")

        def autocast() -> Any:
            return torch.autocast("cpu", dtype)

        # On the CPU, these are in the place of autocast in nnU-Net's steps and in ours.
        monkeypatch.setattr(nnUNet, "dummy_context", autocast)
        monkeypatch.setattr(optimisation, "nullcontext", autocast)
        trainer = make_trainer(*arguments)
        trainer.grad_scaler = OverflowingScaler()
        return trainer

    return make


def watched(trainer: Any) -> tuple[list[int], set[torch.dtype]]:
    """Return what will be the numbers of the steps that are left out, and types of outputs."""
    step, loss, scaler = trainer.train_step, trainer.loss, trainer.grad_scaler
    left_out: list[int] = []
    types: set[torch.dtype] = set()

    def learning() -> list[Tensor]:
        return [p.detach().clone() for p in trainer.unet.parameters() if p.requires_grad]

    def train_step(batch: Any) -> Any:
        before, scale = learning(), scaler.get_scale()
        result = step(batch)
        pairs = zip(before, learning(), strict=True)
        is_left_out = all(torch.equal(old, new) for old, new in pairs)
        assert is_left_out == (scaler.get_scale() < scale)
        if is_left_out:
            left_out.append(scaler.calls)
        return result

    def typed_loss(output: Any, target: Any) -> Any:
        types.add(output[0].dtype)
        return loss(output, target)

    trainer.train_step, trainer.loss = train_step, typed_loss
    return left_out, types


@pytest.mark.parametrize("run", RUNS)
def test_a_run_in_half_precision_leaves_out_the_steps_that_overflow_and_ends(
    make_half: Make, in_process: Any, run: str
) -> None:
    name, settings = RUNS[run]
    trainer = make_half(torch.float16, name, in_process.write_plans("half", **SHORT | settings))
    trainer.initialize()
    left_out, types = watched(trainer)
    trainer.run_training()
    assert types == {torch.float16}
    assert {*range(2, trainer.grad_scaler.calls + 1, 2)} <= {*left_out}
    final = read_checkpoint(Path(trainer.output_folder) / FINAL)
    assert final["grad_scaler_state"]["scale"] == SCALE / 2 ** len(left_out)
    floats = [t for t in final["network_weights"].values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floats)
    assert all(bool(tensor.isfinite().all()) for tensor in floats)
