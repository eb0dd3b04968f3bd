"""Methods against forgetting, for a network that is adapted to another data set.

The backbone of a retrofit is frozen, so that of them its cells can use rehearsal and LwF only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_iac.host.plans import IGNORE, read_dataset
from nnunet_iac.host.preprocessed import preprocessed_dataset
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.training import batches, optimisation
from nnunet_iac.training.preflight import Preflight
from nnunet_iac.training.source_cases import AdaptedRun, SourceCases, source_training_cases

FISHER_BATCHES = 50
"""Batches of source cases from which EWC estimates how much each weight matters."""

TEMPERATURE = 2.0
"""Temperature of the softmax in LwF, as in its paper."""

Penalty = Callable[[Tensor, Any], Tensor]
"""A term of the loss of a batch, computed from its images and the network's output."""


@dataclass(frozen=True)
class Retention:
    """Means of forgetting less: a penalty, batches that are half of the source, or nothing.

    `rehearsed` has the cases of the source that are trained on besides the run's own.
    """

    penalty: Penalty | None = None
    rehearsed: SourceCases | None = None

    @contextmanager
    def in_loss(self, trainer: Any, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Return a context in which the penalty is part of nnU-Net's loss for a batch.

        It gives the batch with its images on the device, where penalty and training step use them.
        """
        plain, penalty = trainer.loss, self.penalty
        if penalty is None:
            yield batch
            return
        images = batch["data"].to(trainer.device, non_blocking=True)
        trainer.loss = lambda output, target: plain(output, target) + penalty(images, output)
        try:
            yield {**batch, "data": images}
        finally:
            trainer.loss = plain

    def joined(self, loader: Any) -> Any:
        """Return nnU-Net's loader, every second image of which is of the source, on average."""
        if self.rehearsed is None:
            return loader
        other = preprocessed_dataset(self.rehearsed.data, self.rehearsed.cases)
        parts = loader._data, other
        shares = [0.5 / len(part.identifiers) for part in parts for _ in part.identifiers]
        return batches.with_dataset(loader, JoinedCases(*parts), shares)


class JoinedCases:
    """nnU-Net's data sets as one; a case is called by its data set's place and its name."""

    def __init__(self, *parts: Any) -> None:
        self._found = {
            f"{place}:{case}": (part, case)
            for place, part in enumerate(parts)
            for case in part.identifiers
        }
        self.identifiers = [*self._found]

    def load_case(self, identifier: str) -> Any:
        """Return a case as its own data set loads it."""
        part, case = self._found[identifier]
        return part.load_case(case)


def retained_source(
    checks: Preflight, record: BackboneRecord, training_cases: Sequence[str]
) -> SourceCases | None:
    """Return the source's training cases that a run's choice uses; None if it uses none.

    Raises:
        ValueError: the choice uses some, and they are not at hand or too few.
    """
    rates = checks.settings.optimisation
    retention = checks.method.retention(rates)
    if retention not in ("ewc", "rehearsal"):
        return None
    data = checks.data
    content = read_dataset(data.parent / "dataset.json")
    run = AdaptedRun(checks.plans["dataset_name"], content, training_cases, checks.settings.data)
    try:
        source = source_training_cases(record, run, data.parent.parent)
        _require_same_ignore(source, run)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"retention={retention} needs training cases of the data set that the backbone "
            f"was trained on: {error}. Leave retention out, or choose l2-sp or lwf in a control"
        ) from error
    if retention == "ewc":
        return source
    return rehearsal_cases(source, rates.rehearsal_cases, rates.seed)


def _require_same_ignore(source: SourceCases, run: AdaptedRun) -> None:
    """Check that one loader can load cases of both: it expects the label `ignore`, or does not."""
    ours, theirs = (
        d["labels"].get(IGNORE) for d in (run.dataset_json, source.init["dataset_json"])
    )
    if ours != theirs:
        raise ValueError(
            f"the label {IGNORE} is {ours or 'none'} in {run.dataset} and {theirs or 'none'} in "
            f"{source.dataset}"
        )


def chosen_retention(
    trainer: Any, source: SourceCases | None, get_dataloaders: Callable[[], Sequence[Any]]
) -> Retention:
    """Return what the settings of a trainer choose, once its network is the one it trains.

    `source` is what `retained_source` returned; `get_dataloaders` is nnU-Net's.
    """
    rates, device = trainer.settings.optimisation, trainer.device
    retention = trainer.method.retention(rates)
    if retention == "none":
        return Retention()
    if retention == "rehearsal":
        return Retention(rehearsed=source)
    weights = trainer.run.backbone_weights(trainer.unet)
    original = trainer.stock_network().to(device)
    original.load_state_dict(weights)
    if retention == "lwf":
        regions = trainer.label_manager.has_regions
        return Retention(distillation(original, rates.retention_weight, regions))
    importance = None
    if source is not None:
        training, _ = trainer.streams.stock_loaders(get_dataloaders)
        loader = batches.with_dataset(training, preprocessed_dataset(source.data, source.cases))
        drawn = trainer.streams.first_batches(loader, "source", FISHER_BATCHES)
        given = original, trainer.loss
        losses = (optimisation.loss_of(*given, batch, device, mixed=False) for batch in drawn)
        importance = fisher_diagonal(original, losses)
    return Retention(weight_distance(trainer.unet, weights, rates.retention_weight, importance))


def rehearsal_cases(source: SourceCases, count: int, seed: int) -> SourceCases:
    """Return so many cases of a source, drawn by the seed."""
    if count > len(source.cases):
        raise ValueError(
            f"rehearsal_cases must be at most {len(source.cases)}, the training cases of "
            f"{source.dataset}; got {count}: choose fewer"
        )
    drawn = np.random.default_rng(seed).choice(source.cases, count, replace=False)
    return replace(source, cases=tuple(sorted(drawn.tolist())))


def weight_distance(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    strength: float,
    importance: Mapping[str, Tensor] | None = None,
) -> Penalty:
    """Return the penalty on the distance of the weights w from those of the source, w*.

        strength / 2 * sum_i F_i (w_i - w*_i)^2

    Without importance F is 1: L2-SP (Li, Grandvalet and Davoine 2018, eq. 2). With the diagonal of
    the Fisher information it is EWC (Kirkpatrick et al. 2017, eq. 3).
    """
    pairs = [
        (now, weights[name].to(now.device), 1.0 if importance is None else importance[name])
        for name, now in network.named_parameters()
        if now.requires_grad
    ]

    def penalty(images: Tensor, output: Any) -> Tensor:
        distances = [(scale * (now - before) ** 2).sum() for now, before, scale in pairs]
        return strength / 2 * torch.stack(distances).sum()

    return penalty


def distillation(original: nn.Module, strength: float, regions: bool) -> Penalty:
    """Return the penalty on the divergence of the predictions p from those of the source, q.

        strength * T^2 * mean over pixels of KL(q || p), both softmax(logits / T) with T = 2

    It is learning without forgetting (Li and Hoiem 2016, eq. 2), with Hinton's factor T^2, at the
    full resolution. `regions` are overlapping labels: each is a softmax over itself and its
    absence.
    """
    original.requires_grad_(False).eval()

    def distribution(output: Any) -> Tensor:
        logits = output[0] if isinstance(output, list | tuple) else output
        if regions:
            logits = torch.stack((torch.zeros_like(logits), logits), dim=1)
        return functional.log_softmax(logits.float() / TEMPERATURE, dim=1)

    def penalty(images: Tensor, output: Any) -> Tensor:
        with torch.no_grad():
            wanted = distribution(original(images))
        divergence = functional.kl_div(
            distribution(output), wanted, reduction="none", log_target=True
        )
        return strength * TEMPERATURE**2 * divergence.sum(1).mean()

    return penalty


def fisher_diagonal(
    network: nn.Module, losses: Iterable[Callable[[], Tensor]]
) -> dict[str, Tensor]:
    """Return the mean squared gradient of batches' losses, by parameter, scaled to a mean of 1.

    It is the empirical Fisher information of batches. Scaled, a weight of EWC means what the same
    weight of L2-SP does.
    """
    parameters = dict(network.named_parameters())
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for loss in losses:
        network.zero_grad(set_to_none=True)
        loss().backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                found[name] += parameter.grad.detach() ** 2
    network.zero_grad(set_to_none=True)
    mean = torch.cat([each.flatten() for each in found.values()]).mean()
    scale = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return {name: each / scale for name, each in found.items()}
