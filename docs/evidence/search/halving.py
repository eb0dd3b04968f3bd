"""Find a cell by direct evaluation: python halving.py DATASET CONFIGURATION FOLD PLANS SEED OUT.

Random cells live side by side on one frozen backbone: a batch passes the encoder once, then every
candidate's cells and the decoder. After each round those candidates stay whose loss on training
patients that were held out is lower, half of them, until one is left (successive halving, Jamieson
and Talwalkar 2016). PLANS are those of a run of nnUNetTrainerIACDiscrete, whose backbone, settings
and batches are used. OUT.json gets the cell, and OUT-log.json every loss, and the seconds.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.optim import Adam

from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import random_genotypes
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import fitting_pattern, patient_of
from nnunet_iac.training.batches import with_cases

CANDIDATES = 16
STEPS = 33
"""Of every candidate in a round: 30 steps of candidates cost about as much as IAC-LTH's search."""

HELD_OUT = 0.25
"""Share of the training patients."""

HELD_OUT_BATCHES = 20


class Once(nn.Module):
    """Hands out what the encoder made of the present batch."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        self.skips: list[Tensor] = []

    @torch.no_grad()
    def see(self, images: Tensor) -> None:
        """Run the encoder."""
        self.skips = self.encoder(images)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return what the encoder made last."""
        return self.skips


class Candidate:
    """A cell on the shared backbone, and its optimiser."""

    def __init__(self, genotype: Genotype, unet: nn.Module, shared: Once, settings: Any) -> None:
        self.genotype = genotype
        self.network = retrofit(unet, genotype, **settings.cell.network_arguments())
        load_ticket(self.network, draw_ticket(self.network, settings.optimisation.seed))
        self.network.encoder = shared
        self.optimizer = Adam(self.network.weights(), settings.optimisation.finetune_lr)

    def step(self, images: Tensor, target: Any, loss: Any) -> None:
        """Train on a batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss(self.network.train()(images), target).backward()
        nn.utils.clip_grad_norm_(self.network.weights(), 12)
        self.optimizer.step()

    @torch.no_grad()
    def loss_of(self, images: Tensor, target: Any, loss: Any) -> float:
        """Return the loss of a batch."""
        return float(loss(self.network.eval()(images), target))


def held_out(cases: Sequence[str], pattern: str | None) -> tuple[list[str], list[str]]:
    """Return the cases to train on, and those of every fourth patient."""
    own = fitting_pattern(cases, pattern)
    patients = sorted({patient_of(case, own) for case in cases})
    away = {*patients[:: round(1 / HELD_OUT)]}
    sides: tuple[list[str], list[str]] = ([], [])
    for case in cases:
        sides[patient_of(case, own) in away].append(case)
    return sides


def search(trainer: Any, seed: int) -> tuple[Genotype, dict[str, Any]]:
    """Return the cell that is left, and what led to it."""
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    training, validation = trainer.do_split()
    unet: Any = trainer.stock_network()
    unet.load_state_dict(trainer.run.checks.backbone(unet, validation).weights)
    unet.decoder.deep_supervision = trainer.enable_deep_supervision
    shared = Once(unet.encoder)
    drawn = random_genotypes(seed)
    settings = trainer.settings
    candidates = [Candidate(next(drawn), unet, shared, settings) for _ in range(CANDIDATES)]
    loader, _ = trainer.streams.stock_loaders(lambda: nnUNetTrainer.get_dataloaders(trainer))
    trained, away = held_out(training, settings.data.patient_pattern)
    streams = trainer.streams
    batches = iterate(streams.first_batches(with_cases(loader, trained), "train", 10**6))
    scored = streams.first_batches(with_cases(loader, away), "source", HELD_OUT_BATCHES)
    fixed = [*iterate(scored)]
    began, rounds = time.perf_counter(), []
    while len(candidates) > 1:
        for _ in range(STEPS):
            images, target = next(batches)
            shared.see(images)
            for candidate in candidates:
                candidate.step(images, target, trainer.loss)
        losses = [0.0] * len(candidates)
        for images, target in fixed:
            shared.see(images)
            for i, candidate in enumerate(candidates):
                losses[i] += candidate.loss_of(images, target, trainer.loss) / len(fixed)
        rounds.append({str(c.genotype): loss for c, loss in zip(candidates, losses, strict=True)})
        order = sorted(range(len(candidates)), key=losses.__getitem__)
        candidates = [candidates[i] for i in order[: len(candidates) // 2]]
    seconds = time.perf_counter() - began
    return candidates[0].genotype, {"seed": seed, "seconds": seconds, "rounds": rounds}


def iterate(batches: Iterator[Any]) -> Iterator[tuple[Tensor, Any]]:
    """Yield images and targets."""
    for batch in batches:
        yield batch["data"], batch["target"]


def main(dataset: str, configuration: str, fold: str, plans: str, seed: str, out: str) -> None:
    """Search, and write what was found."""
    words = (dataset, configuration, int(fold), "nnUNetTrainerIACDiscrete", plans)
    trainer = get_trainer_from_args(*words, device=torch.device("cpu"))
    torch.manual_seed(int(seed))
    genotype, log = search(trainer, int(seed))
    write_json(Path(out), genotype.to_document())
    write_json(Path(out).with_name(f"{Path(out).stem}-log.json"), log)


if __name__ == "__main__":
    main(*sys.argv[1:])
