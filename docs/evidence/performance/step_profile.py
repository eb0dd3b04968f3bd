"""Share of every kind of work in steps and predictions, by torch's profiler."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nnunet_iac.benchmark.step import Step, finetune_step, fused_step
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.training.provenance import circumstances

KINDS = {
    "convolutions, forward": ("mkldnn_convolution", "slow_conv", "thnn_conv", "conv_transpose"),
    "convolutions, backward": ("convolution_backward", "slow_conv2d_backward"),
    "products (norm, sums, projections)": (
        *("mm", "bmm", "baddbmm", "addmm", "matmul", "NormalisedProducts", "Joined"),
    ),
    "batch and instance norms": ("batch_norm", "instance_norm"),
    "pooling": ("pool",),
    "joining and copying": ("cat", "copy_", "clone", "contiguous", "repeat", "fill_"),
    "element by element": (
        *("sub", "add", "mul", "div", "pow", "addc", "threshold", "clamp", "relu", "mean", "sum"),
        *("sqrt", "neg", "gt", "sgn", "exp", "log"),
    ),
}


def kind(name: str) -> str:
    """Return the kind of work that an operator does."""
    operator = name.removeprefix("aten::")
    if "convolution_backward" in operator:
        return "convolutions, backward"
    for label, parts in KINDS.items():
        if any(part in operator for part in parts):
            return label
    return "everything else (dispatch, views, optimisers)"


def profiled(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the mean seconds of every kind of work over steps, ten times each, and the calls."""
    for step in 3 * [*steps]:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for step in 10 * [*steps]:
            step()
    seconds: dict[str, float] = {}
    count = 10 * len(steps)
    for event in recorded.key_averages():
        label = kind(event.key)
        seconds[label] = seconds.get(label, 0) + event.self_cpu_time_total / 1e6 / count
    calls = sum(event.cpu_parent is None for event in recorded.events()) / count
    return {"seconds": dict(sorted(seconds.items(), key=lambda item: -item[1])), "calls": calls}


def prediction(workload: Workload, seed: int | None) -> Step:
    """Return the prediction of one patch by the backbone, or with random cells in it."""
    network: Any = workload.unet() if seed is None else workload.retrofit()
    if seed is not None:
        network.discretise(random_genotype(seed))
    network.eval()
    network.decoder.deep_supervision = False
    image = torch.randn(1, workload.input_channels, *workload.patch_size)

    def run() -> None:
        with torch.inference_mode():
            network(image)

    return run


def main() -> None:
    """Profile and write."""
    plan = Workload()
    narrow = Workload(6, (128, 128), (8, 16, 32, 64, 128))
    steps = {
        "search": [fused_step(plan, 7)],
        "finetuning": [finetune_step(plan, random_genotype(n)) for n in range(5)],
        "finetuning, narrow network": [finetune_step(narrow, random_genotype(n)) for n in range(5)],
        "prediction of the backbone": [prediction(plan, None)],
        "prediction with cells": [prediction(plan, n) for n in range(5)],
    }
    result = {**circumstances(), "parts": {name: profiled(own) for name, own in steps.items()}}
    write_json(Path(sys.argv[1]), result)


if __name__ == "__main__":
    main()
