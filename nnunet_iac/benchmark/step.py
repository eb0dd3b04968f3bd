"""A training step of the plain U-Net against the supernet's, as operations are pruned."""

import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nnunet_iac.benchmark.hours import NO_VALIDATION, run_hours
from nnunet_iac.benchmark.timing import cudnn_choice, interleaved, peak_mb, present_mb
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cost import step_memory
from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.nn.search_cell import PlainSearchCell
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS
from nnunet_iac.training import optimisation
from nnunet_iac.training.compilation import compile_cells, compiles_cells

Step = Callable[[], Any]

FINETUNED = 3
"""Random cells behind the median seconds of a finetuning step."""


def step_benchmark(workload: Workload, repeats: int) -> dict[str, Any]:
    """Return seconds, peak memory and their ratios; `naive` cells work edge by edge.

    Where these do not fit into memory, which no run needs, their numbers are left out. The memory
    of finetuning is that of the random cell with the highest estimate.
    """
    genotypes = [random_genotype(seed) for seed in range(FINETUNED)]
    largest = max(genotypes, key=partial(_estimated_bytes, workload))
    makers: dict[str, tuple[Any, ...]] = {
        "plain": (plain_step, workload),
        "fused": (fused_step, workload, len(OPERATIONS)),
        "finetune": (finetune_step, workload, largest),
    }
    memory = {name: peak_mb(*made, device=workload.device) for name, made in makers.items()}
    del makers["finetune"]
    with suppress(torch.OutOfMemoryError):
        memory["naive"] = peak_mb(naive_step, workload, device=workload.device)
        makers["naive"] = naive_step, workload
    steps: dict[str, Step] = {name: make(*arguments) for name, (make, *arguments) in makers.items()}
    steps |= {f"fused_{count}": fused_step(workload, count) for count in (4, 1)}
    finetuned = {f"finetune {n}": finetune_step(workload, g) for n, g in enumerate(genotypes)}
    seconds = interleaved(steps | finetuned, repeats, workload.device)
    seconds["finetune"] = statistics.median(seconds.pop(name) for name in finetuned)
    most = max(memory["fused"], memory["finetune"])
    return {
        **{f"{name}_step_s": value for name, value in seconds.items()},
        **{
            f"{name}_over_plain": seconds[name] / seconds["plain"]
            for name in ("fused", "fused_4", "fused_1", "finetune", "naive")
            if name in seconds
        },
        **({"naive_over_fused": seconds["naive"] / seconds["fused"]} if "naive" in seconds else {}),
        **{f"peak_mb_{name}": value for name, value in memory.items()},
        **{
            f"peak_mb_{name}_over_plain": memory[name] / memory["plain"]
            for name in ("fused", "finetune")
        },
        "estimate": {
            **estimate(workload.settings, seconds),
            "memory_mb": most,
            "memory_mb_present": present_mb(workload.device),
            "fits": most < present_mb(workload.device),
        },
    }


def estimate(settings: Settings, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the hours of training steps that whole runs need; validation comes on top."""
    steps = {"search_first": seconds["fused"], "search_last": seconds["fused_1"]}
    steps = {**seconds, **steps, **NO_VALIDATION}
    own, full = (run_hours(settings, run, steps) for run in (settings.schedule.preset, "iac"))
    return {
        "iac_search_h": full["search"],
        "lth_search_h": own["search"],
        "finetune_h": own["finetune"],
    }


def _estimated_bytes(workload: Workload, genotype: Genotype) -> int:
    network = workload.retrofit()
    network.discretise(genotype)
    network.unfreeze()
    shape = (workload.batch_size, workload.input_channels, *workload.patch_size)
    return step_memory(network, shape, torch.device(workload.device)).kept


def random_mask(count: int) -> Tensor:
    """Return a mask with `count` random operations active on every edge."""
    generator = torch.Generator().manual_seed(0)
    active = torch.zeros(len(EDGES), len(OPERATIONS), dtype=torch.bool)
    for row in active:
        row[torch.randperm(len(OPERATIONS), generator=generator)[:count]] = True
    return active


def plain_step(workload: Workload) -> Step:
    """Return nnU-Net's training step: SGD with momentum on the whole network."""
    network = workload.unet()
    parameters = list(network.parameters())
    optimizer = SGD(parameters, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    return training_step(workload, network, [optimizer], parameters)


def fused_step(workload: Workload, operations: int) -> Step:
    """Return a search step with that many random operations active on every edge."""
    return retrofit_step(workload, workload.supernet(random_mask(operations)))


def naive_step(workload: Workload) -> Step:
    """Return a search step whose cells work edge by edge."""
    network = workload.supernet()
    for cell in network.cells():
        cell.__class__ = PlainSearchCell
    return retrofit_step(workload, network)


def finetune_step(workload: Workload, genotype: Genotype, unet: nn.Module | None = None) -> Step:
    """Return a finetuning step of a discrete cell in a new U-Net, or in one that is given."""
    network = workload.supernet(unet=unet)
    network.discretise(genotype)
    return retrofit_step(workload, network)


def retrofit_step(workload: Workload, network: IACUNet) -> Step:
    """Return a step of the accelerated search or, of a network with discrete cells, finetuning.

    The finetuning trains what `trainable_part` asks for.
    """
    schedule, rates = workload.settings.schedule, workload.settings.optimisation
    weights, searching = network.weights(), network.genotype is None
    for parameter in network.norm_weights():
        parameter.requires_grad_(not searching)
    network.unfreeze(not searching)
    if searching:
        own, _ = optimisation.search_optimiser(network, rates, schedule.search_epochs)
        architecture = optimisation.architecture_optimiser(network, rates)
        return training_step(workload, network, [own, architecture], weights)
    weights += [*network.norm_weights(), *network.backbone_weights()]
    own, _ = optimisation.finetune_optimiser(weights, rates, schedule.finetune_epochs, 0)
    if compiles_cells(rates, torch.device(workload.device)):
        compile_cells(network)
    return training_step(workload, network, [own], weights)


def forward_pass(workload: Workload, network: Any) -> Step:
    """Return a pass as in nnU-Net's validation after an epoch: without gradients, with the loss."""
    images, targets = workload.batch()
    loss, on_gpu = workload.loss(), workload.device == "cuda"
    network.eval()

    def run() -> None:
        autocast = torch.autocast(workload.device, enabled=on_gpu)
        with torch.no_grad(), _cudnn_as_trained(workload, network), autocast:
            loss(network(images), targets)

    return run


def training_step(
    workload: Workload, network: Any, optimizers: list[Optimizer], clipped: Any
) -> Step:
    """Return a call that runs forward and backward pass and steps, mixed precision on a GPU."""
    images, targets = workload.batch()
    loss = workload.loss()
    scaler = torch.amp.GradScaler("cuda") if workload.device == "cuda" else None
    network.train()

    def run() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with _cudnn_as_trained(workload, network):
            with torch.autocast(workload.device, enabled=scaler is not None):
                value = loss(network(images), targets)
            optimisation.step(value, optimizers, clipped, scaler)

    return run


def _cudnn_as_trained(workload: Workload, network: Any) -> AbstractContextManager[None]:
    """Return a context with cuDNN's choice of algorithms as in a training of the network."""
    ours = isinstance(network, RetrofittedUNet)
    return cudnn_choice(by_timing=not (ours and workload.settings.optimisation.deterministic))
