"""Profile the host in a step: kernels launched, waits for the GPU, and work between epochs."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import networks
from torch.profiler import ProfilerActivity, profile
from visit import Rows, Visit

from nnunet_iac.benchmark.step import finetune_step, fused_step, plain_step
from nnunet_iac.benchmark.timing import synchronise, timed
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.checkpoint import LATEST
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.training.checkpoints import write_checkpoint
from nnunet_iac.training.controller import Phase, SearchController
from nnunet_iac.training.method import IAC_LTH
from nnunet_iac.training.optimisation import fault_of_training
from nnunet_iac.training.recorder import Recorder

STEPS = 3
"""Profiled after as many that warm up; counts are per step."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx")
SHOWN = 12
"""Kernels, the longest first."""


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return the profile of a step of each kind, whether one can be captured, and the host's."""
    plain = networks(visit)["plain 2-D"]
    genotype = random_genotype(0)
    steps = {
        "plain step": partial(plain_step, plain),
        "search step": partial(fused_step, plain, 7),
        "search step, 1 operation per edge": partial(fused_step, plain, 1),
        "finetuning step": partial(finetune_step, plain, genotype),
    }
    profiled = {name: partial(row, make, visit.device) for name, make in steps.items()}
    host = {"between epochs": partial(host_row, plain, scratch)}
    if visit.device == "cpu":
        return profiled | host
    captured = {
        "CUDA graph, search": partial(graph_row, plain, searching=True),
        "CUDA graph, finetuning": partial(graph_row, plain, searching=False),
    }
    return profiled | host | captured


def row(make: Callable[[], Callable[[], Any]], device: str) -> dict[str, Any]:
    """Return counts per step, the seconds of the longest kernels, and where the host waits."""
    step = make()
    for _ in range(STEPS):
        step()
    synchronise(device)
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            step()
        synchronise(device)
    events = recorded.key_averages()
    calls = Counter({event.key: event.count for event in events})
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    longest = sorted(events, key=lambda event: -getattr(event, time_of))[:SHOWN]
    return {
        "launches": sum(calls[name] for name in LAUNCHES) / STEPS,
        "waits": sum(calls[name] for name in WAITS) / STEPS,
        "copies": calls["cudaMemcpyAsync"] / STEPS,
        "operators": sum(n for name, n in calls.items() if name.startswith("aten::")) / STEPS,
        "longest_ms": {e.key[:80]: getattr(e, time_of) / 1e3 / STEPS for e in longest},
        "waits_at": waits_at(step) if on_gpu else {},
    }


def waits_at(step: Callable[[], Any]) -> dict[str, int]:
    """Return the lines at which a step makes the host wait, and how often."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in noticed)
    return dict(found.most_common(SHOWN))


def graph_row(workload: Workload, searching: bool) -> dict[str, Any]:
    """Return whether forward and backward pass of a retrofit can be captured as a CUDA graph."""
    network, (images, targets), loss = workload.supernet(), workload.batch(), workload.loss()
    if not searching:
        network.discretise(random_genotype(0))

    def passes() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cuda"):
            loss(network(images), targets).backward()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(STEPS):
            passes()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes()
    return {
        "captured": True,
        "eager_s": min(timed(passes, "cuda") for _ in range(STEPS)),
        "graph_s": min(timed(graph.replay, "cuda") for _ in range(STEPS)),
    }


def host_row(workload: Workload, scratch: Path) -> dict[str, Any]:
    """Return the seconds of what happens between two epochs of a search, and of one step."""
    settings = workload.settings.replace(warmup_epochs=1)
    network = workload.retrofit()
    recorder = Recorder(settings, RunFolder(scratch / "iac"), lambda line: None)
    controller = SearchController(settings, IAC_LTH, recorder)
    controller.start(network, BackboneRecord("", "", 0, ""), {})
    seconds: dict[str, list[float]] = {name: [] for name in ("check", "record", "checkpoint")}
    epoch = 0
    while controller.phase is not Phase.FINETUNE:
        epoch += 1
        end = partial(controller.end_epoch, network, epoch, seconds=1.0, loss=0.5)
        seconds["check"].append(timed(partial(fault_of_training, network), "cpu"))
        seconds["record"].append(timed(end, "cpu"))
        state = {"network_weights": network.state_dict(), **controller.state_dict()}
        write = partial(write_checkpoint, state, scratch / LATEST)
        seconds["checkpoint"].append(timed(write, "cpu"))
    step = fused_step(workload, 7)
    step()
    per_step = min(timed(step, workload.device) for _ in range(STEPS))
    mean = {f"{name}_s": sum(values) / len(values) for name, values in seconds.items()}
    epoch_s = per_step * settings.schedule.iterations_per_epoch
    return {
        **mean,
        "found_cell_s": max(seconds["record"]),
        "checkpoint_mb": (scratch / LATEST).stat().st_size / 2**20,
        "epoch_s": epoch_s,
        "record_share": (mean["check_s"] + mean["record_s"]) / epoch_s,
        "checkpoint_share": mean["checkpoint_s"] / epoch_s,
    }
