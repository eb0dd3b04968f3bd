"""What keeps a trained network good at its source: the penalties, and batches with source cases."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_source_cases import INIT, LABELS, SOURCE, write_source
from torch import nn

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.method import CONTINUE, IAC, IAC_DISCRETE, IAC_LTH, Method
from nnunet_iac.training.retention import (
    JoinedCases,
    Retention,
    distillation,
    fisher_diagonal,
    rehearsal_cases,
    retained_source,
    weight_distance,
)
from nnunet_iac.training.source_cases import SourceCases


class Pointwise(nn.Module):
    """A network whose logits are its weights times the image."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (batch, weights, *spatial)."""
        return images * self.weight[None, :, None, None]


IMAGES = torch.ones(1, 1, 2, 2)


def test_the_distance_is_half_the_weighted_squares_of_what_learns() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[1].requires_grad_(False)
    weights = {name: tensor - 3.0 for name, tensor in network.state_dict().items()}
    plain = weight_distance(network, weights, 0.5)
    assert plain(IMAGES, None).item() == pytest.approx(0.5 / 2 * 2 * 9)
    importance = {name: torch.full_like(tensor, 4.0) for name, tensor in weights.items()}
    importance["0.bias"].zero_()
    weighted = weight_distance(network, weights, 0.5, importance)
    weighted(IMAGES, None).backward()
    assert network[0].weight.grad.item() == pytest.approx(0.5 * 4 * 3)
    assert network[0].bias.grad.item() == 0.0


@pytest.mark.parametrize("regions", [False, True])
def test_distillation_is_the_divergence_from_the_source_at_a_temperature(regions: bool) -> None:
    penalty = distillation(Pointwise(0.0, 2.0), 3.0, regions)
    output = torch.zeros(1, 2, 2, 2, requires_grad=True)
    q = 1 / (1 + math.exp(-1.0))  # Logits over the temperature are 0 and 1.
    divergence = q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))
    # Of two labels that exclude each other; of two regions, the first of which agrees.
    expected = 3 * 4 * divergence / (2 if regions else 1)
    assert penalty(IMAGES, output).item() == pytest.approx(expected, rel=1e-5)
    penalty(IMAGES, [output, output[..., ::2, ::2]]).backward()
    assert output.grad is not None
    assert bool(output.grad.any())
    same = Pointwise(0.0, 2.0)(IMAGES).detach()
    assert penalty(IMAGES, same).item() == pytest.approx(0, abs=1e-6)


def test_the_fisher_information_is_the_mean_square_of_gradients_scaled_to_one() -> None:
    network = Pointwise(1.0, 1.0)
    # The gradients of two batches are (1, 3) and (1, 1): squares (1, 9) and (1, 1).
    losses = [
        lambda scale=scale: (network.weight * torch.tensor([1.0, scale])).sum() for scale in (3, 1)
    ]
    found = fisher_diagonal(network, losses)["weight"]
    assert found.tolist() == pytest.approx([2 / 12 * 2, 10 / 12 * 2])
    assert network.weight.grad is None


def test_a_network_that_no_batch_moves_has_no_importance() -> None:
    network = Pointwise(1.0)
    found = fisher_diagonal(network, [lambda: 0 * network.weight.sum()])
    assert found["weight"].tolist() == [0.0]


def _cases(*names: str) -> Any:
    return SimpleNamespace(identifiers=list(names), load_case=lambda name: f"loaded {name}")


def test_joined_cases_are_loaded_by_their_own_data_set() -> None:
    ours = SimpleNamespace(identifiers=["a", "b"], load_case=lambda name: f"ours {name}")
    joined = JoinedCases(ours, _cases("a"))
    assert [joined.load_case(name) for name in joined.identifiers] == [
        *("ours a", "ours b"),
        "loaded a",
    ]


def test_half_of_what_is_drawn_is_of_the_source(tmp_path: Path) -> None:
    write_source(tmp_path)
    source = SourceCases(INIT, {}, tmp_path / SOURCE, ("c_0",))
    loader = SimpleNamespace(_data=_cases("a", "b", "c"), sampling_probabilities=None)
    assert Retention().joined(loader) is loader
    joined = Retention(rehearsed=source).joined(loader)
    assert len(joined.indices) == 4
    assert joined.sampling_probabilities == pytest.approx([1 / 6] * 3 + [1 / 2])
    assert loader.sampling_probabilities is None


def test_the_penalty_is_part_of_the_loss_of_a_step_only() -> None:
    trainer = SimpleNamespace(loss=lambda output, target: output + target, device="meta")
    plain, batch = trainer.loss, {"data": IMAGES, "target": 4}
    penalised = Retention(lambda images, output: 10 * len(images.shape) * output)
    with penalised.in_loss(trainer, batch) as moved:
        assert trainer.loss(3, 4) == 7 + 10 * 4 * 3
        assert (moved["data"].device.type, moved["target"]) == ("meta", 4)
    assert trainer.loss is plain
    with Retention().in_loss(trainer, batch) as moved:
        assert moved is batch
        assert trainer.loss is plain


def test_cases_are_drawn_by_the_seed() -> None:
    source = SourceCases({"plans": {"dataset_name": SOURCE}}, {}, Path(), tuple("abcdefgh"))
    drawn = rehearsal_cases(source, 3, seed=1)
    assert drawn == rehearsal_cases(source, 3, seed=1)
    assert len({*drawn.cases}) == 3
    assert drawn.cases != rehearsal_cases(source, 3, seed=2).cases
    with pytest.raises(ValueError, match=r"at most 8, .* of Dataset027_Source; got 9"):
        rehearsal_cases(source, 9, seed=1)


def _checks(folder: Path, dataset: str = "Dataset030_Target", **settings: Any) -> Any:
    write_json(folder / dataset / "dataset.json", LABELS)
    return SimpleNamespace(
        settings=Settings(**settings),
        method=CONTINUE,
        plans={"dataset_name": dataset},
        data=folder / dataset / "2d",
    )


@pytest.mark.parametrize(
    ("settings", "cases"),
    [
        ({}, None),
        ({"retention": "l2-sp"}, None),
        ({"retention": "lwf"}, None),
        ({"retention": "ewc"}, ("c_0",)),
        ({"retention": "rehearsal", "rehearsal_cases": 1}, ("c_0",)),
    ],
)
def test_only_choices_that_need_them_use_the_sources_training_cases(
    tmp_path: Path, settings: dict[str, Any], cases: Any
) -> None:
    found = retained_source(_checks(tmp_path, **settings), write_source(tmp_path), ["site_0"])
    assert (None if found is None else found.cases) == cases


@pytest.mark.parametrize(
    ("method", "retention", "cases"),
    [
        (IAC_LTH, "ewc", None),
        (IAC_LTH, "rehearsal", ("c_0",)),
        (IAC_DISCRETE, "rehearsal", ("c_0",)),
        (IAC_DISCRETE, "lwf", None),
        (IAC, "rehearsal", None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_cells_use_cases_of_the_source_for_rehearsal_only(
    tmp_path: Path, method: Method, retention: str, cases: tuple[str, ...] | None
) -> None:
    checks = _checks(tmp_path, retention=retention, rehearsal_cases=1)
    checks.method = method
    found = retained_source(checks, write_source(tmp_path), ["site_0"])
    assert (found and found.cases) == cases


@pytest.mark.parametrize("retention", ["ewc", "rehearsal"])
@pytest.mark.parametrize("has_ignore", ["source", "target"])
def test_cases_with_a_label_to_ignore_do_not_mix_with_those_without(
    tmp_path: Path, retention: str, has_ignore: str
) -> None:
    ignoring = {**LABELS, "labels": {"background": 0, "heart": 1, "ignore": 2}}
    of_source = {"dataset_json": ignoring} if has_ignore == "source" else {}
    checks = _checks(tmp_path, retention=retention)
    if has_ignore == "target":
        write_json(checks.data.parent / "dataset.json", ignoring)
    with pytest.raises(ValueError, match=r"the label ignore is .* Leave retention out"):
        retained_source(checks, write_source(tmp_path, **of_source), ["site_0"])


@pytest.mark.parametrize(
    ("dataset", "gone", "message"),
    [
        (SOURCE, None, "is a model of Dataset027_Source itself. Leave retention out"),
        ("Dataset030_Target", "splits_final.json", "does not exist. Leave retention out"),
    ],
)
def test_a_choice_without_the_cases_it_needs_is_refused(
    tmp_path: Path, dataset: str, gone: str | None, message: str
) -> None:
    record = write_source(tmp_path)
    if gone:
        (tmp_path / SOURCE / gone).unlink()
    with pytest.raises(ValueError, match=rf"retention=ewc needs training cases .*{message}"):
        retained_source(_checks(tmp_path, dataset, retention="ewc"), record, ["site_0"])
