"""Optimisers, schedules and the training step of each phase."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.search.annealing import cosine_power, polynomial
from nnunet_iac.search.setting_parts import Optimisation

MAX_GRADIENT_NORM = 12.0
"""nnU-Net's clipping of the weights' gradient; alpha and beta are never clipped."""

SMALLEST_SCALE = 2.0**-20
"""Smallest scale of the loss in mixed precision; the scale begins at 2^16."""

SGD_WEIGHT_DECAY = 3e-5
"""nnU-Net's, of the finetuning with `sgd`; nothing else decays but alpha and beta on request."""


class EpochSchedule:
    """Sets an optimiser's learning rate from the epoch, as nnU-Net's schedulers are called.

    `rate` is a function of the epoch in the phase, from 0.
    """

    def __init__(
        self, optimizer: Optimizer, rate: Callable[[int], float], first_epoch: int = 0
    ) -> None:
        self.optimizer = optimizer
        self.rate = rate
        self.first_epoch = first_epoch

    def step(self, epoch: int) -> None:
        """Set the rate for nnU-Net's epoch number `epoch`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(epoch - self.first_epoch)


def search_optimiser(
    network: IACUNet, settings: Optimisation, search_epochs: int
) -> tuple[Optimizer, EpochSchedule]:
    """Return plain SGD on the cell weights with cosine power annealing over `search_epochs`."""
    weights = network.weights()
    optimizer = SGD(weights, settings.weights_lr, fused=_fused(weights))
    limits = (settings.weights_lr, settings.weights_lr_min, settings.annealing_power)
    return optimizer, EpochSchedule(optimizer, lambda n: cosine_power(n, search_epochs, *limits))


def architecture_optimiser(network: IACUNet, settings: Optimisation) -> Optimizer:
    """Return Adam on alpha and beta."""
    parameters = network.architecture_parameters()
    return Adam(
        parameters,
        settings.architecture_lr,
        settings.architecture_betas,
        weight_decay=settings.architecture_weight_decay,
        fused=_fused(parameters),
    )


def finetune_optimiser(
    parameters: Sequence[nn.Parameter], settings: Optimisation, epochs: int, first_epoch: int
) -> tuple[Optimizer, EpochSchedule]:
    """Return the finetuning's optimiser; `sgd` is nnU-Net's own."""
    rate, fused = settings.finetune_lr, _fused(parameters)
    if settings.finetune_optimizer == "adam":
        optimizer: Optimizer = Adam(parameters, rate, fused=fused)
    else:
        optimizer = SGD(
            parameters,
            rate,
            momentum=0.99,
            nesterov=True,
            weight_decay=SGD_WEIGHT_DECAY,
            fused=fused,
        )
    constant = settings.finetune_schedule == "constant"
    return optimizer, EpochSchedule(
        optimizer, lambda n: rate if constant else polynomial(n, epochs, rate), first_epoch
    )


def _fused(parameters: Sequence[nn.Parameter]) -> bool | None:
    """Return whether a step is one kernel per kind of tensor, on CUDA; elsewhere torch chooses."""
    return True if parameters[0].device.type == "cuda" else None


def first_rates(settings: Optimisation, searches: bool) -> tuple[float, float]:
    """Return learning rate and weight decay of the weights' first optimiser, for nnU-Net's log."""
    if searches:
        return settings.weights_lr, 0.0
    return settings.finetune_lr, SGD_WEIGHT_DECAY if settings.finetune_optimizer == "sgd" else 0.0


def load_optimiser(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Continue an optimiser from its state, which may be of a run on another device.

    How its step is computed stays that of this device: the scaler of mixed precision relies on it.
    """
    fused = {"fused": optimizer.defaults.get("fused")}
    groups = [{**group, **fused} for group in state["param_groups"]]
    optimizer.load_state_dict({**state, "param_groups": groups})


def use_deterministic_cudnn(deterministic: bool) -> None:
    """Turn off cuDNN's choice by timing, which nnU-Net's command turns on for a new trainer."""
    if deterministic:
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


@contextmanager
def deterministic_predictor(deterministic: bool) -> Iterator[None]:
    """Keep the choice in the block, although nnU-Net's predictor turns on cuDNN's benchmark."""
    made = nnUNetPredictor.__init__

    def make(predictor: Any, *given: Any, **named: Any) -> None:
        made(predictor, *given, **named)
        use_deterministic_cudnn(deterministic)

    with patch.object(nnUNetPredictor, "__init__", make):
        yield


def loss_of(
    network: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: dict,
    device: torch.device,
    mixed: bool = True,
) -> Callable[[], Tensor]:
    """Return the function that runs one of nnU-Net's batches, in mixed precision on CUDA if wanted.

    Gradients of mixed precision vanish unless the loss is scaled.
    """

    def run() -> Tensor:
        data, target = batch["data"].to(device, non_blocking=True), batch["target"]
        whole = isinstance(target, Tensor)
        parts = [t.to(device, non_blocking=True) for t in ([target] if whole else target)]
        with torch.autocast("cuda") if mixed and device.type == "cuda" else nullcontext():
            return loss(network(data), parts[0] if whole else parts)

    return run


def fault_of_training(
    network: nn.Module, grad_scaler: torch.amp.GradScaler | None = None
) -> str | None:
    """Return what must be finite after an epoch and is not, or None.

    Where gradients are not finite again and again, a scaler leaves out every step, and halves its
    scale each time.
    """
    learning = (p for p in network.parameters() if p.requires_grad)
    finite = [torch.isfinite(parameter).all() for parameter in learning]
    if not torch.stack(finite).all():  # The host waits once.
        return "weights must be finite; some are not after training"
    if grad_scaler is not None and grad_scaler.get_scale() < SMALLEST_SCALE:
        return "gradients must be finite; they were not in step after step"
    return None


def step(
    loss: Tensor,
    optimizers: Sequence[Optimizer],
    clipped: Sequence[nn.Parameter],
    grad_scaler: torch.amp.GradScaler | None,
) -> bool:
    """Run one backward pass and step every optimiser, or none if any gradient is not finite.

    Returns whether they stepped. Without a scaler, whose overflow would explain it, a step left
    out is a fault; with one it is not.

    With a scaler every optimiser is unscaled before the weights are clipped, and the scale is
    updated once; a scaled gradient of alpha would otherwise dominate the norm.
    """
    if grad_scaler is None:
        loss.backward()
    else:
        grad_scaler.scale(loss).backward()
        for optimizer in optimizers:
            grad_scaler.unscale_(optimizer)
    norm, others = _norm(clipped), set(_learning(optimizers)) - set(clipped)
    finite = bool(torch.isfinite(norm + _norm(others)))  # The one number that the host waits for.
    if finite:
        torch.nn.utils.clip_grads_with_norm_(clipped, MAX_GRADIENT_NORM, norm)
        for optimizer in optimizers:
            optimizer.step()  # The scaler's would wait again for each of them.
    if grad_scaler is not None:
        grad_scaler.update()
    return finite


def _learning(optimizers: Iterable[Optimizer]) -> Iterator[nn.Parameter]:
    groups = chain.from_iterable(optimizer.param_groups for optimizer in optimizers)
    return chain.from_iterable(group["params"] for group in groups)


def _norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
