"""The joint step of two optimisers, with and without mixed precision."""

from collections import Counter
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from simulated_device import DEVICE, SimulatedDevice
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, Adam

from nnunet_iac.search.settings import Settings
from nnunet_iac.training.optimisation import (
    MAX_GRADIENT_NORM,
    EpochSchedule,
    deterministic_predictor,
    fault_of_training,
    finetune_optimiser,
    load_optimiser,
    step,
)


def _problem() -> tuple[nn.Parameter, nn.Parameter, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    weight, alpha = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(3))
    return weight, alpha, [SGD([weight], 0.01), Adam([alpha], 1e-3)]


def _loss(weight: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return (weight**2).sum() * torch.softmax(alpha, 0)[0] * 1000


def test_a_scaled_step_of_two_optimisers_equals_the_unscaled_one() -> None:
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**12)):
        weight, alpha, optimizers = _problem()
        step(_loss(weight, alpha), optimizers, [weight], scaler)
        results.append((weight.detach().clone(), alpha.detach().clone()))
    for plain, scaled in zip(*results, strict=True):
        torch.testing.assert_close(plain, scaled, rtol=1e-6, atol=1e-7)


def test_only_the_weights_are_clipped() -> None:
    weight, alpha, optimizers = _problem()
    step(_loss(weight, alpha), optimizers, [weight], None)
    assert weight.grad is not None
    assert alpha.grad is not None
    assert weight.grad.norm().item() == pytest.approx(MAX_GRADIENT_NORM, rel=1e-4)
    assert alpha.grad.norm().item() > MAX_GRADIENT_NORM


@pytest.mark.parametrize("broken", ["weight", "alpha"])
def test_with_a_scaler_neither_optimiser_steps_when_one_gradient_overflows(broken: str) -> None:
    weight, alpha, optimizers = _problem()
    before = weight.detach().clone(), alpha.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    target = weight if broken == "weight" else alpha
    step(_loss(weight, alpha) + (target * torch.inf).sum(), optimizers, [weight], scaler)
    assert torch.equal(weight, before[0])
    assert torch.equal(alpha, before[1])
    assert scaler.get_scale() == 2.0


def test_without_a_scaler_a_non_finite_gradient_leaves_the_step_out_and_is_reported() -> None:
    weight, alpha, optimizers = _problem()
    before = weight.detach().clone()
    loss = _loss(weight, alpha) + (alpha * torch.inf).sum()
    assert not step(loss, optimizers, [weight], None)
    assert torch.equal(weight, before)
    assert step(_loss(weight, alpha), [optimizers[0]], [weight], None)


def test_a_schedule_counts_from_its_phases_first_epoch() -> None:
    _, _, (optimizer, _) = _problem()
    schedule = EpochSchedule(optimizer, lambda epoch: 1.0 / (1 + epoch), first_epoch=10)
    schedule.step(13)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_on_cuda_all_parameters_take_a_step_in_one_kernel(name: str) -> None:
    rates = Settings(finetune_optimizer=name).optimisation
    with FakeTensorMode():
        there = nn.Parameter(torch.empty(3, device="cuda"))
        optimizer, _ = finetune_optimiser([there], rates, 10, 0)
    assert optimizer.defaults["fused"]
    here, _ = finetune_optimiser([nn.Parameter(torch.ones(3))], rates, 10, 0)
    assert here.defaults["fused"] is None


@pytest.mark.parametrize(("before", "after"), [(None, None), (True, None), (None, True)])
def test_an_optimiser_is_continued_on_another_device(
    before: bool | None, after: bool | None
) -> None:
    """On CUDA optimisers are fused, and only such take the scale from mixed precision's scaler."""
    first, second, alone = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer, resumed = Adam([first], fused=before), Adam([second], fused=after)
    for parameter in (first, second, alone):
        parameter.grad = torch.tensor([1.0, 2.0, -3.0])
    optimizer.step()
    load_optimiser(resumed, optimizer.state_dict())
    assert resumed.param_groups[0]["fused"] is after
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.ones(()))  # Else it has no scale.
    scaler.step(resumed)
    wanted = Adam([alone])
    load_optimiser(wanted, optimizer.state_dict())
    wanted.step()
    torch.testing.assert_close(second, alone)


def test_steps_that_are_left_out_for_ever_end_a_run() -> None:
    network = nn.Linear(2, 2)
    for scale, fault in ((2.0**-19, False), (2.0**-21, True)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.ones(()))
        assert (fault_of_training(network, scaler) is not None) is fault


def test_a_predictor_leaves_the_choice_of_cudnn_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    for wanted in (True, False):
        monkeypatch.setattr(cudnn, "benchmark", False)
        monkeypatch.setattr(cudnn, "deterministic", wanted)

        def init(predictor: Any) -> None:
            cudnn.benchmark = True  # As nnU-Net's does on CUDA.

        monkeypatch.setattr(nnUNetPredictor, "__init__", init)
        with deterministic_predictor(wanted):
            nnUNetPredictor()
        assert cudnn.benchmark is not wanted
        assert nnUNetPredictor.__init__ is init


def test_weights_are_checked_with_one_wait_for_their_device() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].requires_grad_(False)
    nn.init.constant_(network[1].bias, torch.nan)
    with SimulatedDevice() as device:
        network.to(DEVICE)
        assert device.waits_of(lambda: fault_of_training(network)) == Counter(
            {"_local_scalar_dense": 1}
        )
        assert fault_of_training(network) is None
        nn.init.constant_(network[0].bias, torch.inf)
        assert fault_of_training(network)
