"""Share of every kind of work in a search and in a finetuning step, by torch's profiler."""

import sys
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from nnunet_iac.benchmark.step import finetune_step, fused_step
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.training.cost import circumstances

KINDS = {
    "convolutions, forward": ("mkldnn_convolution", "slow_conv", "thnn_conv", "conv_transpose"),
    "convolutions, backward": ("convolution_backward", "slow_conv2d_backward"),
    "products (norm, sums, projections)": (
        *("mm", "bmm", "baddbmm", "addmm", "matmul", "NormalisedProducts", "Joined"),
    ),
    "norms of the backbone": ("batch_norm", "instance_norm"),
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


def seconds_of(steps):
    """Return the mean seconds of every kind of work over steps, ten times each."""
    for step in 3 * steps:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for step in 10 * steps:
            step()
    seconds: dict[str, float] = {}
    for event in recorded.key_averages():
        label, count = kind(event.key), 10 * len(steps)
        seconds[label] = seconds.get(label, 0) + event.self_cpu_time_total / 1e6 / count
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def main() -> None:
    """Profile and write."""
    workload = Workload()
    result = {
        **circumstances(),
        "search": seconds_of([fused_step(workload, 7)]),
        "finetuning": seconds_of([finetune_step(workload, random_genotype(n)) for n in range(5)]),
    }
    write_json(Path(sys.argv[1]), result)


if __name__ == "__main__":
    main()
