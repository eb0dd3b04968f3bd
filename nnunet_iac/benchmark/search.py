"""Benchmark of whole searches on the same batches, the full one and the accelerated ones."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from nnunet_iac.benchmark.step import training_step
from nnunet_iac.benchmark.timing import synchronise, timed
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.training.controller import Phase, SearchController
from nnunet_iac.training.method import IAC, IAC_LTH, Method
from nnunet_iac.training.optimisation import architecture_optimiser, search_optimiser
from nnunet_iac.training.recorder import Recorder


def search_benchmark(workload: Workload, batches: int, validation_batches: int) -> dict[str, Any]:
    """Return the wall clock of the five searches, with every epoch of every search really run.

    `adaptive` ends when this batch lets it; its threshold is that of epochs as long as here.
    `swift` has its own warm-up unless the settings give one. Only training steps count; validation,
    and pruning with the record between epochs, stand apart, and nothing is plotted.
    """
    presets: dict[str, tuple[Method, Any]] = {
        **{"iac": (IAC, "paper"), "lth": (IAC_LTH, "paper")},
        **{preset: (IAC_LTH, preset) for preset in ("literal", "adaptive", "swift")},
    }
    sized = {}
    for name, (method, preset) in presets.items():
        settings = workload.settings.replace(preset=preset, iterations_per_epoch=batches)
        if method.prunes:
            try:
                settings.require_prunable()
            except ValueError as error:
                raise ValueError(f"preset={preset}, which is timed as well: {error}") from error
        sized[name] = dataclasses.replace(workload, settings=settings)
    searches = {
        name: _search(sized[name], method, batches, validation_batches)
        for name, (method, _) in presets.items()
    }
    seconds = {name: search["training_s"] for name, search in searches.items()}
    compared = ("iac", "lth", "literal", "swift")
    return {
        **{f"{name}_search_s": seconds[name] for name in compared},
        "speedup": seconds["iac"] / seconds["lth"],
        "speedup_literal": seconds["iac"] / seconds["literal"],
        "speedup_swift": seconds["iac"] / seconds["swift"],
        "epochs_ratio": searches["iac"]["epochs"] / searches["lth"]["epochs"],
        "batches_per_epoch": batches,
        "validation_batches_per_epoch": validation_batches,
        "searches": searches,
    }


def _search(
    workload: Workload, method: Method, batches: int, validation_batches: int
) -> dict[str, Any]:
    network = workload.supernet()
    images, _ = workload.batch()
    seconds = {"warmup": 0.0, "search": 0.0}
    validation = between = 0.0
    epoch_seconds = []
    with tempfile.TemporaryDirectory() as folder:
        record = RunFolder(Path(folder))
        recorder = Recorder(workload.settings, record, lambda line: None)
        controller = SearchController(workload.settings, method, recorder)
        controller.start(network, BackboneRecord("", "", 0, ""), {})
        steps: list[Any] = []
        epoch = 0
        while controller.phase is not Phase.FINETUNE:
            if not steps:
                steps = _steps(workload, method, controller.phase, network)
            synchronise(workload.device)
            started = time.perf_counter()
            for batch in range(batches):
                steps[batch % len(steps)]()
            synchronise(workload.device)
            epoch_seconds.append(time.perf_counter() - started)
            seconds[controller.phase.value] += epoch_seconds[-1]
            on_gpu = workload.device == "cuda"
            with torch.no_grad(), torch.autocast(workload.device, enabled=on_gpu):
                for _ in range(validation_batches):
                    validation += timed(lambda: network(images), workload.device)
            epoch += 1
            started = time.perf_counter()
            if controller.end_epoch(network, epoch, epoch_seconds[-1], loss=0.0).structure:
                steps = []
            between += time.perf_counter() - started
    return {
        "epochs": epoch,
        "training_s": sum(seconds.values()),
        "warmup_s": seconds["warmup"],
        "search_s": seconds["search"],
        "validation_s": validation,
        "between_epochs_s": between,
        "first_epoch_s": epoch_seconds[0],
        "last_epoch_s": epoch_seconds[-1],
        "epoch_s": epoch_seconds,
    }


def _steps(workload: Workload, method: Method, phase: Phase, network: Any) -> list[Any]:
    """Return the steps that an epoch's batches take in turn."""
    searching = phase is Phase.SEARCH
    network.alpha.requires_grad_(searching)
    network.beta.requires_grad_(searching)
    optimisation = workload.settings.optimisation
    weights, _ = search_optimiser(network, optimisation, workload.settings.schedule.search_epochs)
    if not searching:
        return [training_step(workload, network, [weights], network.weights())]
    architecture = architecture_optimiser(network, optimisation)
    if not method.bilevel:
        return [training_step(workload, network, [weights, architecture], network.weights())]
    first = training_step(workload, network, [weights], network.weights())
    return [first, training_step(workload, network, [architecture], [])]
