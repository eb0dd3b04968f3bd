"""Seconds and peak memory of competing callables."""

import gc
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def interleaved(
    steps: Mapping[str, Callable[[], Any]], repeats: int, device: str
) -> dict[str, float]:
    """Return the median seconds of every callable, run in turn so that drifts hit all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(step: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call, the device's work included."""
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: str) -> None:
    """Wait for the work of a GPU."""
    if device != "cpu":
        getattr(torch, device).synchronize()


@contextmanager
def cudnn_choice(by_timing: bool) -> Iterator[None]:
    """Return a context in which cuDNN times its algorithms, or takes a deterministic one.

    nnU-Net's commands have it time them; our trainers do not, unless `deterministic=false`.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = by_timing, not by_timing
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def peak_mb(make: Callable[..., Callable[[], Any]], *arguments: Any, device: str) -> float:
    """Return the MB that three calls of `make(*arguments)` need at their peak.

    On a CUDA GPU the growth of what the allocator has given out; on an Apple GPU that of what the
    driver has, which the allocator keeps; on a CPU that of a fresh process, since a process does
    not give back all it has freed.

    Raises:
        torch.OutOfMemoryError: there is not so much.
    """
    if device == "cuda":
        gc.collect()
        before = torch.cuda.memory_allocated()
        step = make(*arguments)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if device == "mps":
        torch.mps.empty_cache()
        before = torch.mps.driver_allocated_memory()
        step = make(*arguments)
        for _ in range(3):
            step()
        return (torch.mps.driver_allocated_memory() - before) / 2**20
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_growth, make, arguments, torch.get_num_threads()).result()
        except BrokenProcessPool as error:  # A pool of multiprocessing would wait for ever.
            raise torch.OutOfMemoryError(
                "a training step must fit in memory; the process that ran it was killed, as the "
                "system does where memory runs out: use a smaller batch or patch"
            ) from error


def present_mb(device: str) -> float:
    """Return the memory of the GPU, or of the machine."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1] / 2**20
    if device == "mps":
        return torch.mps.recommended_max_memory() / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def _growth(make: Callable[..., Callable[[], Any]], arguments: Any, threads: int) -> float:
    torch.set_num_threads(threads)
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3))
    before = _peak_kilobytes()
    step = make(*arguments)
    for _ in range(3):
        step()
    return (_peak_kilobytes() - before) / 1024


def _peak_kilobytes() -> int:
    """Return the most memory this process has held; Linux counts a parent's in getrusage."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most
