"""Folders of whole runs, searched over parameters that walk at random instead of training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scored_folders import write_summary

from nnunet_iac.analysis.vocabulary import TRAINS_BACKBONE
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import (
    BackboneRecord,
    CostRecord,
    PhaseCost,
    TrajectoryRow,
)
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.search.controls import (
    OF_SKIP,
    CellSource,
    identity_genotype,
    random_genotype,
)
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import Observation, begin, close_epoch, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS

CASES = tuple(f"case_{number:02}" for number in range(12))
FROZEN = {case: 0.70 + 0.01 * number for number, case in enumerate(CASES)}
BETTER = {
    case: dice + 0.02 + 0.001 * (number % 5) for number, (case, dice) in enumerate(FROZEN.items())
}
WORSE = {
    case: dice - 0.02 - 0.001 * (number % 5) for number, (case, dice) in enumerate(FROZEN.items())
}
TRAINERS = {
    **dict.fromkeys(TRAINS_BACKBONE, "nnUNetTrainerContinue"),
    **dict.fromkeys(("random cell", "identity cell", "convolution"), "nnUNetTrainerIACDiscrete"),
    **dict.fromkeys(OF_SKIP.values(), "nnUNetTrainerIACDiscrete"),
}
"""Names of the controls and the other skip modules."""
MODULES = {
    "attention gates": "attention",
    "nested skips": "nested",
    "residual attention": "residual-attention",
}
"""The setting `skip` of the other skip modules."""
SETTINGS = Settings(preset="adaptive", warmup_epochs=3, search_epochs=60, finetune_epochs=5)


def write_searched_run(
    results: Path,
    *,
    fold: int | str = 0,
    method: str = "IAC-LTH",
    settings: Settings = SETTINGS,
    dice: Mapping[str, float] | None = BETTER,
    reference: Mapping[str, float] = FROZEN,
    epochs: int | None = None,
    collapsed: bool = False,
    frozen: str = "a1b2c3",
    plans: str = "nnUNetPlans",
    dataset: str = "Dataset004_Hippocampus",
    health: tuple[HealthEvent, ...] = (),
    leakage: str | None = None,
    trainer: str | None = None,
) -> Path:
    """Write the fold of a run and return it.

    Args:
        results: the data set's folder of models.
        fold: number, or all.
        method: as `cost.json` names it; of a random cell, the settings name the draw.
        settings: of the run; their seed also seeds the walk.
        dice: of its validation; None for a run that has none.
        reference: of the frozen network, if there is a validation.
        epochs: of the search, if it was broken off.
        collapsed: whether the walk leans to operations without parameters.
        frozen: hash of the backbone.
        plans, dataset, trainer: identity.
        health: what was noticed.
        leakage: of the backbone.
    """
    trainer = trainer or TRAINERS.get(method, f"nnUNetTrainer{method.replace('-', '')}")
    folder = results / f"{trainer}__{plans}__2d" / f"fold_{fold}"
    run = RunFolder.of_fold(folder)
    searching, freezing = method.startswith("IAC"), not method.startswith("continued")
    rows, genotype = ([], _given(method, settings))
    if searching:
        rows, events, genotype = _walk(settings, fold, method, epochs, collapsed)
        run.write_trajectory(rows)
        run.write_events(events)
        run.write_health(health)
    if genotype is not None:
        run.write_genotype(genotype)
    finished = dice is not None
    split = {"training": [], "validation": list(reference)}
    run.write_settings(settings)
    run.write_split(split)
    warmup = min(len(rows), settings.schedule.warmup_epochs)
    phases = {"warmup": PhaseCost(warmup, 1.5 * warmup)} if searching else {}
    if len(rows) > warmup:
        phases["search"] = PhaseCost(len(rows) - warmup, 2.0 * (len(rows) - warmup))
    if finished:
        last = "finetune" if freezing else "continued"
        phases[last] = PhaseCost(settings.schedule.finetune_epochs, 7.5)
    networks = {
        "backbone": Cost(1_000_000, 10**9),
        "final": Cost(1_040_000, 12 * 10**8),
    }
    run.write_cost(
        CostRecord(
            phases=phases,
            networks=networks if finished else {},
            peak_memory_bytes=10**9,
            hardware={"processor": "a <small> processor", "cores": 2, "threads": 2, "gpu": None},
            versions={"torch": "2.15"},
            commit="0123456789abcdef",
            run={
                "method": method,
                "trainer": trainer,
                "dataset": dataset,
                "plans": plans,
                "configuration": "2d",
                "fold": fold,
            },
        )
    )
    known = None
    if finished and freezing:
        summary = write_summary(run.reference_folder / "validation", reference) / "summary.json"
        known = foreground_dice(summary, ".nii.gz")
    after = frozen if finished and freezing else None
    run.write_backbone(
        BackboneRecord("frozen.pth", "nnUNetTrainer", fold, frozen, after, leakage, known)
    )
    if finished:
        write_summary(folder / "validation", dice)
    return folder


def write_control(results: Path, method: str, epochs: int, **run: Any) -> Path:
    """Write the fold of a control that was trained for so many epochs, and return it.

    Args:
        results: the data set's folder of models.
        method: a control, `random cell SEED`, or another skip module.
        epochs: after the backbone's own training.
        run: see `write_searched_run`.
    """
    draw = method.removeprefix("random cell ")
    name = "random cell" if draw != method else method
    genotypes = {
        "random cell": f"random:{draw}",
        "identity cell": "identity",
        "convolution": "conv",
    }
    settings = SETTINGS.replace(
        finetune_epochs=epochs,
        genotype=genotypes.get(name),
        skip=MODULES.get(name, "cell"),
        trainable_part="decoder" if name == "continued decoder" else "network",
    )
    plans = f"nnUNetPlans_{method.replace(' ', '_')}"
    return write_searched_run(results, method=name, **{"settings": settings, "plans": plans, **run})


def _given(method: str, settings: Settings) -> Genotype | None:
    """Return the cell of a control that has one."""
    if method == "random cell":
        return random_genotype(CellSource.of(settings.cell.genotype).seed)
    return identity_genotype() if method == "identity cell" else None


def _walk(
    settings: Settings, fold: int | str, method: str, epochs: int | None, collapsed: bool
) -> tuple[list[TrajectoryRow], list, Genotype | None]:
    """Return rows, events and genotype of a search whose parameters drift at random."""
    generator = torch.Generator().manual_seed(
        1000 * settings.optimisation.seed + (fold if isinstance(fold, int) else 99)
    )
    alpha = torch.zeros(len(EDGES), len(OPERATIONS), dtype=torch.float64)
    beta = torch.zeros(len(EDGES), dtype=torch.float64)
    drift = torch.randn(alpha.shape, generator=generator, dtype=torch.float64)
    if collapsed:
        drift[:, 0] += 4
    slope = torch.randn(beta.shape, generator=generator, dtype=torch.float64)
    state = begin(Observation(0, alpha, beta), settings.stability, settings.cell)
    rows, events = [], []
    for epoch in range(1, settings.schedule.search_epochs + 1):
        seen = Observation(epoch, alpha.clone(), beta.clone())
        decision = idle(seen, settings.cell)
        if epoch == settings.schedule.warmup_epochs:
            state = begin(seen, settings.stability, settings.cell)
        elif epoch > settings.schedule.warmup_epochs and method == "IAC-LTH":
            state, decision = close_epoch(
                state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
            )
            events.extend(decision.events)
        arrays = (decision.importance, decision.divergence, decision.threshold, decision.active)
        rows.append(
            TrajectoryRow(epoch, *(a.numpy().copy() for a in (seen.alpha, seen.beta, *arrays)), 2.0)
        )
        if epoch == epochs:
            return rows, events, None
        if state.finished:
            break
        if epoch >= settings.schedule.warmup_epochs:
            noise = torch.randn(alpha.shape, generator=generator, dtype=torch.float64)
            alpha += 0.01 * drift + 0.02 * noise
            beta += 0.01 * slope
    active = state.active
    return rows, events, discretise(seen.alpha, seen.beta, active, settings.cell)
