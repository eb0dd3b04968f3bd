"""Find cells by direct evaluation, and finetune them: python halving.py STUDY.yaml [RUN].

Random cells live side by side on one frozen backbone: a batch passes the encoder once, then every
candidate's cells and, stacked, the decoder. After each round those candidates stay whose loss on
training patients that were held out is lower, half of them, until one is left (successive halving,
Jamieson and Talwalkar 2016). It keeps its weights and is finetuned as a run of the study, whose
setting `genotype` names where the found cell goes; weights and losses are written beside it. With
`convolutions` in that name, cells with identities or pooling are no candidates.

Without RUN the names of the runs that have not ended are printed. An interrupted search begins
again and finds the same; an interrupted finetuning is continued.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.optim import Adam

from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import ImplantedUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.runs.atomic import read_json, replacing, write_json
from nnunet_iac.runs.checkpoint import LATEST
from nnunet_iac.search.controls import random_genotypes
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import parameter_free_share
from nnunet_iac.search.patients import fitting_pattern, patient_of
from nnunet_iac.training.batches import with_cases
from nnunet_iac.training.controller import Phase
from nnunet_iac.training.optimisation import MAX_GRADIENT_NORM
from nnunet_iac.training.trainers import nnUNetTrainerIACDiscrete
from nnunet_iac.workflow.study_file import read_study
from nnunet_iac.workflow.study_plans import fold_folder, is_finished, plans_file, write_plans_of

CANDIDATES = 16
STEPS_PER_BATCH = 2
"""Steps of a candidate that take about as long as a batch of IAC-LTH's search, the mean over it."""

HELD_OUT = 4
"""Every fourth training patient."""

HELD_OUT_BATCHES = 20


class SideBySide(nn.Module):
    """The cells that several candidates have at one level.

    Their batches are stacked; the skip tensor, which all share, is not.
    """

    def __init__(self, cells: Sequence[nn.Module]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        """Return what every cell makes of the skip tensor and of its part of the other."""
        parts = zip(self.cells, up.chunk(len(self.cells)), strict=True)
        return torch.cat([cell(skip, part) for cell, part in parts])


class Candidate:
    """A cell on the shared backbone, the losses on what was held out, and its optimiser."""

    def __init__(self, genotype: Genotype, unet: nn.Module, settings: Any) -> None:
        network = retrofit(unet, genotype, **settings.cell.network_arguments())
        load_ticket(network, draw_ticket(network, settings.optimisation.seed))
        self.genotype = genotype
        self.implants = network.implants
        self.optimizer = Adam(self.implants.parameters(), settings.optimisation.finetune_lr)

    def step(self) -> None:
        """Take a step, the gradient clipped as in every finetuning."""
        nn.utils.clip_grad_norm_(self.implants.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Contest(ImplantedUNet):
    """Candidates on one backbone, of which the encoder is run once for all."""

    def __init__(self, unet: nn.Module, candidates: Sequence[Candidate]) -> None:
        levels = zip(*(candidate.implants for candidate in candidates), strict=True)
        super().__init__(unet, [SideBySide(cells) for cells in levels])
        self.candidates = candidates
        self.eval()
        self.implants.train()

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the lowest tensor once for every candidate, where the decoder begins."""
        copies = (len(self.candidates),) + (1,) * (skips[-1].ndim - 1)
        return [*skips[:-1], skips[-1].repeat(copies)]

    def losses(self, images: Tensor, target: Any, loss: Any) -> list[Tensor]:
        """Return every candidate's loss of a batch; statistics of a batch are its own."""
        outputs, count = self(images), len(self.candidates)
        if isinstance(outputs, Tensor):
            return [loss(own, target) for own in outputs.chunk(count)]
        heads = zip(*(output.chunk(count) for output in outputs), strict=True)
        return [loss([*own], target) for own in heads]

    def train_on(self, images: Tensor, target: Any, loss: Any) -> None:
        """Let every candidate take a step; their gradients do not meet."""
        torch.stack(self.losses(images, target, loss)).sum().backward()
        for candidate in self.candidates:
            candidate.step()

    @torch.no_grad()
    def scores(self, batches: Sequence[tuple[Tensor, Any]], loss: Any) -> list[list[float]]:
        """Return every candidate's losses of the batches that were held out."""
        self.implants.eval()
        found = [list(map(float, self.losses(*batch, loss))) for batch in batches]
        return [[*own] for own in zip(*found, strict=True)]


def halved(candidates: Sequence[Any], scores: Sequence[Sequence[float]]) -> list[Any]:
    """Return the half with the lower mean loss on the same batches, the best first."""
    order = sorted(range(len(candidates)), key=lambda i: sum(scores[i]))
    return [candidates[i] for i in order[: len(candidates) // 2]]


def rounds(count: int) -> list[int]:
    """Return how many candidates there are in every round."""
    return [count, *rounds(count // 2)] if count > 1 else []


def held_out(cases: Sequence[str], pattern: str | None) -> tuple[list[str], list[str]]:
    """Return the cases to train on, and those of every fourth patient."""
    own = fitting_pattern(cases, pattern)
    away = {*sorted({patient_of(case, own) for case in cases})[::HELD_OUT]}
    sides: tuple[list[str], list[str]] = ([], [])
    for case in cases:
        sides[patient_of(case, own) in away].append(case)
    return sides


def drawn(seed: int, without_free: bool) -> Iterator[Genotype]:
    """Yield random cells, on request those of convolutions alone."""
    for genotype in random_genotypes(seed):
        if not (without_free and parameter_free_share(genotype)):
            yield genotype


def unpacked(batches: Iterator[Any]) -> Iterator[tuple[Tensor, Any]]:
    """Yield images and targets."""
    for batch in batches:
        yield batch["data"], batch["target"]


class HalvingTrainer(nnUNetTrainerIACDiscrete):
    """Finds the cell that its settings name before it finetunes it.

    Deviates from nnUNetTrainer as `RetrofitTrainer` does; cells start from the search's weights.
    """

    @property
    def cell_file(self) -> Path:
        """Where the found cell goes; its weights and the log of the search lie beside it."""
        return Path(str(self.settings.cell.genotype))

    def start_run(self) -> None:
        """Search unless that has been done, and give the cells the winner's weights."""
        weights, log = (self.cell_file.with_suffix(end) for end in (".pth", ".log.json"))
        if not self.cell_file.is_file():
            self.search(weights, log)
        super().start_run()
        self.unet.implants.load_state_dict(torch.load(weights, weights_only=True))
        known = read_json(log)
        self.run.recorder.account(Phase.SEARCH.value, known["seconds"], known["epochs"])

    def search(self, weights: Path, log: Path) -> None:
        """Write the cell that is left, its weights and what led to it; the cell comes last."""
        schedule, optimisation = self.settings.schedule, self.settings.optimisation
        training, validation = self.do_split()
        unet: Any = self.stock_network()
        unet.load_state_dict(self.run.checks.backbone(unet, validation).weights)
        unet.decoder.deep_supervision = self.enable_deep_supervision
        without_free = "convolutions" in self.cell_file.stem
        cells = islice(drawn(optimisation.seed, without_free), CANDIDATES)
        candidates = [Candidate(genotype, unet, self.settings) for genotype in cells]
        loader, _ = self.streams.stock_loaders(lambda: nnUNetTrainer.get_dataloaders(self))
        trained, away = held_out(training, self.settings.data.patient_pattern)
        first, plan = self.streams.first_batches, rounds(CANDIDATES)
        searched = self.settings.latest_end * schedule.iterations_per_epoch
        steps = round(searched * STEPS_PER_BATCH / sum(plan))
        batches = unpacked(first(with_cases(loader, trained), "train", steps * len(plan)))
        fixed = [*unpacked(first(with_cases(loader, away), "source", HELD_OUT_BATCHES))]
        began, history = time.perf_counter(), []
        for _ in plan:
            contest = Contest(unet, candidates)
            for batch in islice(batches, steps):
                contest.train_on(*batch, self.loss)
            scores = contest.scores(fixed, self.loss)
            history.append({str(c.genotype): s for c, s in zip(candidates, scores, strict=True)})
            candidates = halved(candidates, scores)
        seconds, epochs = time.perf_counter() - began, steps * len(plan)
        (winner,) = candidates
        known = {"seconds": seconds, "epochs": round(epochs / schedule.iterations_per_epoch)}
        write_json(log, {**known, "seed": optimisation.seed, "steps": steps, "rounds": history})
        with replacing(weights) as temporary:
            torch.save(winner.implants.state_dict(), temporary)
        write_json(self.cell_file, winner.genotype.to_document())


def main(file: Path, name: str | None = None) -> None:
    """Print the runs that have not ended, or let one of them end."""
    study = read_study(file)
    runs = {key: run for key, run in study.runs.items() if run.seed is not None}
    if name is None:
        print(*(key for key, run in runs.items() if not is_finished(study, run)), sep="\n")
        return
    run, device = runs[name], torch.device(study.device)
    torch.set_num_threads(study.threads)
    write_plans_of(study, run)
    HalvingTrainer.__name__ = study.trainer_of(run)  # Its folder is that of the study's run.
    dataset = read_json(preprocessed_folder(run.dataset.dataset) / "dataset.json")
    latest = fold_folder(study, run) / LATEST
    plans = {**read_json(plans_file(study, run)), "continue_training": latest.is_file()}
    trainer = HalvingTrainer(plans, run.configuration, run.fold, dataset, device)
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()
    trainer.perform_actual_validation()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
