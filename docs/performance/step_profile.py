"""Share of every kind of work in one supernet step, measured by torch's profiler, into a file."""

import sys
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from nnunet_iac.benchmark.step import fused_step
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.training.cost import circumstances

KINDS = {
    "convolutions, forward": ("mkldnn_convolution", "slow_conv", "thnn_conv", "conv_transpose"),
    "convolutions, backward": ("convolution_backward", "slow_conv2d_backward"),
    "products (norm, phi, Psi, projections)": ("mm", "bmm", "baddbmm", "addmm", "matmul"),
    "norms of the backbone": ("batch_norm", "instance_norm"),
    "pooling": ("pool",),
    "joining and copying": ("cat", "copy_", "clone", "contiguous", "repeat"),
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


def main() -> None:
    """Profile ten steps and write."""
    step = fused_step(Workload(), 7)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(10):
            step()
    seconds: dict[str, float] = {}
    for event in recorded.key_averages():
        label = kind(event.key)
        seconds[label] = seconds.get(label, 0) + event.self_cpu_time_total / 1e7
    result = {
        **circumstances(),
        "seconds": dict(sorted(seconds.items(), key=lambda item: -item[1])),
    }
    write_json(Path(sys.argv[1]), result)


if __name__ == "__main__":
    main()
