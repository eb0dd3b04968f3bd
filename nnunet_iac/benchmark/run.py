"""Benchmark of whole runs: hours from the seconds of their steps."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nnunet_iac.benchmark.hours import run_hours
from nnunet_iac.benchmark.inference import inference_benchmark
from nnunet_iac.benchmark.step import finetune_step, forward_pass, fused_step, plain_step
from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.settings import PRESETS
from nnunet_iac.search.space import OPERATIONS

SEARCHES = tuple(name for name in PRESETS if name != "adapt")
"""Presets for the data that a backbone was trained on; `adapt` is for other data."""


def run_benchmark(
    workload: Workload, repeats: int, cells: int, loading_s: float | None
) -> dict[str, Any]:
    """Return the seconds of every step of a run, and the hours of whole runs made of them.

    A step of the finetuning, its forward pass and a prediction are the median over `cells` random
    cells.
    `loading_s` is what one worker takes for a batch, if that is known; it costs a run nothing as
    long as there are `workers_that_hide_loading`.
    """
    genotypes = [random_genotype(seed) for seed in range(cells)]
    stays_frozen = workload.settings.cell.trainable_part in (None, "cells")
    # One U-Net for all cells: a GPU may not have room for so many.
    frozen = workload.unet() if stays_frozen else None
    steps = {
        "plain": plain_step(workload),
        "search_first": fused_step(workload, len(OPERATIONS)),
        "search_last": fused_step(workload, 1),
        "plain_validation": forward_pass(workload, workload.unet()),
        "search_validation": forward_pass(workload, workload.supernet(unet=frozen)),
        **{f"finetune {n}": finetune_step(workload, g, frozen) for n, g in enumerate(genotypes)},
    }
    for number, genotype in enumerate(genotypes):
        network = workload.retrofit(frozen)
        network.discretise(genotype)
        steps[f"finetune_validation {number}"] = forward_pass(workload, network)
    timed = interleaved(steps, repeats, workload.device)
    seconds: dict[str, float] = {key: s for key, s in timed.items() if " " not in key}
    for name in ("finetune", "finetune_validation"):
        seconds[name] = statistics.median(timed[f"{name} {n}"] for n in range(cells))
    ratios = [timed[f"finetune {n}"] / timed["plain"] for n in range(cells)]
    searches = ("adapt",) if workload.settings.schedule.preset == "adapt" else SEARCHES
    runs = ("iac", *searches, "discrete", "continued")
    hours = {name: run_hours(workload.settings, name, seconds) for name in runs}
    least = min(seconds["plain"], seconds["finetune"])
    predicted = inference_benchmark(workload, cells, repeats, None)
    workers = None if loading_s is None else math.ceil(loading_s / least)
    return {
        **{f"{name}_s": value for name, value in seconds.items()},
        "loading_s": loading_s,
        "workers_that_hide_loading": workers,
        "finetune_over_plain": statistics.median(ratios),
        "finetune_over_plain_worst": max(ratios),
        "inference_over_backbone": predicted["inference_over_backbone"],
        "inference_over_backbone_worst": predicted["inference_over_backbone_worst"],
        "prediction_s": predicted["cell_s"],
        "backbone_prediction_s": predicted["backbone_s"],
        "search_over_plain": seconds["search_first"] / seconds["plain"],
        "cells": cells,
        "schedule": asdict(workload.settings.schedule),
        "hours": hours,
        "search_speedup": _speedups(hours, searches, "search"),
        "end_to_end_speedup": _speedups(hours, searches, "whole"),
    }


def _speedups(
    hours: Mapping[str, Mapping[str, float]], searches: Sequence[str], part: str
) -> dict[str, float]:
    full = hours["iac"][part]
    return {name: full / hours[name][part] for name in searches}
