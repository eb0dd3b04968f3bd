"""The average of the trained weights: its numbers, and what runs validate, save and continue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import run_until
from torch import nn

from nnunet_iac.runs.checkpoint import BEST, FINAL, read_checkpoint, tensors_hash
from nnunet_iac.training.weight_average import WeightAverage

Make = Callable[..., Any]


def _network() -> nn.Sequential:
    """Return a network with a trained norm, with running statistics, and a frozen layer."""
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    network[2].requires_grad_(False)
    return network


def _set(network: nn.Sequential, value: float) -> None:
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias, network[1].weight, network[1].bias):
            tensor.fill_(value)
    network[1].running_mean.fill_(value)


def _averaged(decay: float, *values: float) -> tuple[nn.Sequential, WeightAverage]:
    network, average = _network(), WeightAverage(decay)
    average.track(network)
    for value in values:
        _set(network, value)
        average.update()
    return network, average


@pytest.mark.parametrize(
    ("decay", "values", "expected"),
    [
        (0.5, (1.0,), 1.0),
        (0.5, (1.0, 2.0), 2.5 / 1.5),  # (1/2 * 1 + 2) / (1/2 + 1)
        (0.5, (1.0, 2.0, 4.0), 3.0),  # (1/4 * 1 + 1/2 * 2 + 4) / (1/4 + 1/2 + 1)
        (0.999999, (1.0, 2.0, 6.0), 3.0),  # The mean.
        (0.9, (7.0,) * 5, 7.0),
    ],
)
def test_the_average_weighs_a_step_by_the_decay_to_the_power_of_its_age(
    decay: float, values: tuple[float, ...], expected: float
) -> None:
    network, average = _averaged(decay, *values)
    assert network[0].weight.item() == values[-1]
    average.use_average()
    for tensor in (network[0].weight, network[1].bias, network[1].running_mean):
        assert tensor.item() == pytest.approx(expected, rel=1e-5)


def test_modules_that_share_their_weights_are_swapped_once() -> None:
    """The norms of a U-Net that are converted for several GPUs are two modules each."""
    network = nn.ModuleList([nn.BatchNorm2d(1), nn.BatchNorm2d(1)])
    first, second = network
    second.weight, second.running_mean = first.weight, first.running_mean
    average = WeightAverage(0.5)
    average.track(network)
    for value in (1.0, 3.0):
        with torch.no_grad():
            first.weight.fill_(value)
        average.update()
    average.use_average()
    assert first.weight.item() == pytest.approx(3.5 / 1.5)
    average.use_trained()
    assert first.weight.item() == 3.0


def test_what_does_not_learn_is_not_averaged() -> None:
    network, average = _network(), WeightAverage(0.5)
    average.track(network)
    frozen = network[2].weight.clone()
    average.update()
    names = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    average.use_average()
    assert average.state_dict()["weight_average"]["trained"].keys() == names
    assert torch.equal(network[2].weight, frozen)


def test_both_come_back_bit_for_bit_however_often_they_are_asked_for() -> None:
    network, average = _averaged(0.9, 0.1, 0.7, 0.3)
    trained = tensors_hash(network.state_dict())
    average.use_trained()
    assert tensors_hash(network.state_dict()) == trained
    average.use_average()
    averaged = tensors_hash(network.state_dict())
    average.use_average()
    assert tensors_hash(network.state_dict()) == averaged != trained
    average.use_trained()
    assert tensors_hash(network.state_dict()) == trained


def test_a_restored_average_resumes_as_the_first_one() -> None:
    first, average = _averaged(0.9, 0.1, 0.7)
    average.use_average()
    second, restored = _network(), WeightAverage(0.9)
    second.load_state_dict(first.state_dict())
    restored.track(second)
    restored.load_state_dict(average.state_dict())
    for network, each in ((first, average), (second, restored)):
        each.track(network)  # As wherever optimisers are made again.
        each.use_trained()
        assert network[0].weight.item() == pytest.approx(0.7)
        _set(network, 0.2)
        each.update()
        each.use_average()
    assert tensors_hash(first.state_dict()) == tensors_hash(second.state_dict())


def test_weights_that_were_set_before_the_first_step_have_no_part_in_the_average() -> None:
    network, average = _network(), WeightAverage(0.9)
    average.track(network)
    _set(network, 5.0)
    average.track(network)
    average.use_average()
    assert network[0].weight.item() == 5.0


def test_without_a_decay_nothing_happens_and_nothing_is_saved() -> None:
    network, average = _averaged(0.0, 1.0, 2.0)
    average.use_average()
    assert network[0].weight.item() == 2.0
    assert average.state_dict() == {}


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ("nnUNetTrainerIACDiscrete", {"genotype": "identity", "norm": "batch"}),
        ("nnUNetTrainerContinue", {}),
    ],
)
def test_a_run_saves_the_average_of_the_weights_that_it_would_have_had_without(
    make_trainer: Make, in_process: Any, trainer: str, settings: dict[str, Any]
) -> None:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 3}
    plain = make_trainer(trainer, in_process.write_plans("plain", **short, **settings))
    plain.run_training()
    assert "weight_average" not in read_checkpoint(Path(plain.output_folder) / FINAL)["iac"]
    plans = in_process.write_plans("averaged", **short, **settings, ema_decay=0.7)
    whole = make_trainer(trainer, plans)
    validated: list[str] = []
    validate = whole.validation_step
    whole.validation_step = lambda batch: (
        validated.append(tensors_hash(whole.unet.state_dict())),
        validate(batch),
    )[1]
    whole.run_training()
    fold = Path(whole.output_folder)
    final, best = (read_checkpoint(fold / name) for name in (FINAL, BEST))
    kept, expected = final["iac"]["weight_average"], plain.unet.state_dict()
    assert kept["steps"] == 6
    assert kept["trained"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept["trained"].items())
    averaged = tensors_hash(final["network_weights"])
    assert averaged == tensors_hash(whole.unet.state_dict()) == validated[-1]
    assert averaged != tensors_hash(expected)
    assert tensors_hash(best["network_weights"]) in validated

    run_until(make_trainer(trainer, plans), 2)
    resumed = make_trainer(trainer, plans, resume=True)
    assert tensors_hash(resumed.unet.state_dict()) == validated[1]
    resumed.run_training()
    assert tensors_hash(resumed.unet.state_dict()) == averaged
