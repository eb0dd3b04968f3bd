"""Estimates the hours of a study's trainings from one timed step per network."""

from collections.abc import Mapping
from functools import cache

import torch

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.benchmark.hours import NO_VALIDATION, run_hours
from nnunet_iac.benchmark.step import finetune_step, fused_step, plain_step
from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    FULL_TRAINER,
    LTH_TRAINER,
    preprocessed_folder,
)
from nnunet_iac.host.training_length import training_length
from nnunet_iac.host.workload import Workload
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.space import OPERATIONS
from nnunet_iac.workflow.study import PlannedRun, Study
from nnunet_iac.workflow.study_plans import is_finished, plans_file, plans_name

REPEATS = 3


def hours_of(study: Study) -> dict[str, float | str]:
    """Return the hours of training steps of every run, or why there is no estimate.

    Finished runs take none. Loading, augmentation and validation come on top.
    """

    @cache
    def seconds(dataset: str, configuration: str, plans: str) -> dict[str, float] | str:
        if study.device == "cpu":
            torch.set_num_threads(study.threads)
        try:
            workload = Workload.of_plans(dataset, configuration, plans, study.device)
            steps = {
                "plain": plain_step(workload),
                "search_first": fused_step(workload, len(OPERATIONS)),
                "search_last": fused_step(workload, 1),
                "finetune": finetune_step(workload, random_genotype(0)),
            }
            return interleaved(steps, REPEATS, study.device)
        except (ValueError, RuntimeError, OSError) as error:
            return str(error).partition("\n")[0]

    @cache
    def length(dataset: str, configuration: str, plans: str, trainer: str) -> tuple[int, int] | str:
        path = preprocessed_folder(dataset) / f"{plans}.json"
        try:
            return training_length(path, configuration, trainer)
        except (RuntimeError, OSError) as error:
            return str(error)

    def hours(run: PlannedRun) -> float | str:
        if is_finished(study, run):
            return 0.0
        where = (run.dataset.dataset, run.configuration, plans_name(study, run.reference))
        if not plans_file(study, run.reference).is_file():
            return "the plans of its network are not written yet"
        step = seconds(*where)
        if isinstance(step, str):
            return step
        if run.method == REFERENCE:
            known = length(*where, study.trainer_of(run))
            return known if isinstance(known, str) else known[0] * known[1] * step["plain"] / 3600
        return _retrofit_hours(study, run, step)

    return {name: hours(run) for name, run in study.runs.items()}


def plan_lines(study: Study, hours: Mapping[str, float | str]) -> list[str]:
    """Return a line per training of a study, and the hours of all, given those of `hours_of`."""
    lines = []
    for run in study.runs.values():
        known = hours[run.name]
        text = f"{known:8.2f} h" if isinstance(known, float) else f"       ?  ({known})"
        lines.append(f"{text}  {study.trainer_of(run)}  {run.name}")
    known_hours = [known for known in hours.values() if isinstance(known, float)]
    unknown = len(hours) - len(known_hours)
    rest = f"; no estimate for {unknown} trainings" if unknown else ""
    total = f"{sum(known_hours):8.2f} h  {len(study.runs)} trainings, one after the other{rest}"
    return [
        *lines,
        f"{total}; one random cell stands for all that is finetuned, and loading, augmentation and "
        "validation come on top",
    ]


def _retrofit_hours(study: Study, run: PlannedRun, step: dict[str, float]) -> float:
    assert run.seed is not None
    settings = study.settings_of(run.method, run.seed)
    kinds = {
        LTH_TRAINER: settings.schedule.preset,
        FULL_TRAINER: "iac",
        CONTINUE_TRAINER: "continued",
    }
    kind = kinds.get(study.methods[run.method].trainer, "discrete")
    return run_hours(settings, kind, {**step, **NO_VALIDATION})["whole"]
