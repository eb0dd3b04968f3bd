"""Compare outputs and gradients of a GPU with those of a CPU, and of one step with its repetition.

Outputs and gradients are compared by the length of their difference as a share of the length of
the CPU's, in float32 without TF32 and in nnU-Net's mixed precision.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import networks
from torch import Tensor, nn
from visit import Rows, Visit

from nnunet_iac.benchmark.step import retrofit_step
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.planned_retrofit import IMPLANTS, retrofit
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.genotype import Genotype

TOLERANCES = {"single": {"outputs": 1e-4, "gradients": 1e-2}, "mixed": {"outputs": 2e-2}}
"""Gradients of half precision have no limit: rounding moves voxels over the kinks of ReLUs."""
SMALL = {"plain 2-D": (4, (64, 64)), "residual 2-D": (4, (64, 64)), "plain 3-D": (2, (64, 32, 32))}
"""Batch and patch that a CPU computes in a second."""
REPEATED = 5
"""Steps that are taken twice."""


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return a row per network and kind of implant, and then the repeated steps."""
    sized = networks(visit)
    small = {
        name: workload if visit.quick else workload.resized(*SMALL[name], None, None)
        for name, workload in sized.items()
    }
    kinds = ("search cell", "discrete cell", *(i for i in IMPLANTS if i != "cell"))
    agreement = {
        f"{kind}, {name}": partial(row, workload, kind)
        for name, workload in small.items()
        for kind in kinds
    }
    plain = small["plain 2-D"]
    repeats = {
        "search steps twice": partial(repeat_row, plain, None),
        "finetuning steps twice": partial(repeat_row, plain, random_genotype(0)),
    }
    return agreement | repeats


def row(workload: Workload, kind: str) -> dict[str, Any]:
    """Return how far the device is from the CPU, and whether that is within the tolerances."""
    network = implanted(workload, kind)
    batch = workload.batch()
    wanted = outputs_and_gradients(network.cpu(), batch, "cpu")
    result: dict[str, Any] = {}
    for precision, limits in TOLERANCES.items():
        mixed = precision == "mixed"
        if mixed and workload.device == "cpu":
            continue
        with single_precision():
            found = outputs_and_gradients(
                network.to(workload.device), batch, workload.device, mixed
            )
        parts = dict(zip(("outputs", "gradients"), map(distance, found, wanted), strict=True))
        result[precision] = parts
        result[f"{precision} holds"] = all(parts[part] <= limits[part] for part in limits)
    return {**result, "tolerances": TOLERANCES}


def implanted(workload: Workload, kind: str) -> Any:
    """Return a retrofit with open gates and given first weights, on the device."""
    implant = kind if kind in IMPLANTS else "cell"
    genotype = random_genotype(0) if kind == "discrete cell" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = retrofit(workload.unet().cpu(), genotype, implant=implant)
        load_ticket(network, draw_ticket(network, 0))
        for name, parameter in network.named_parameters():
            if "gate" in name:
                nn.init.constant_(parameter, 0.5)
            elif name in ("alpha", "beta"):
                nn.init.normal_(parameter, std=0.1)
    return network.to(workload.device)


def outputs_and_gradients(
    network: nn.Module, batch: tuple[Tensor, list[Tensor]], device: str, mixed: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the first output and all gradients, each as one float64 vector on the CPU."""
    images = batch[0].to(device)
    network.zero_grad(set_to_none=True)
    with torch.autocast(device, enabled=mixed):
        outputs: Any = network(images)
        loss = sum(output.float().square().mean() for output in outputs)
    loss.backward()
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return tuple(t.detach().cpu().double() for t in (outputs[0].flatten(), torch.cat(found)))


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the length of the difference in units of what it should be."""
    return float((found - wanted).norm() / wanted.norm())


@contextmanager
def single_precision() -> Iterator[None]:
    """Return a context in which float32 is not rounded to TF32."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def repeat_row(workload: Workload, genotype: Genotype | None) -> dict[str, Any]:
    """Return whether steps end with the same bits twice, and what torch knows not to repeat."""
    first, second = (weights_after_steps(workload, genotype) for _ in range(2))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            weights_after_steps(workload, genotype)
    finally:
        torch.use_deterministic_algorithms(False)
    texts = (
        str(warning.message).partition(" does not have a deterministic") for warning in noticed
    )
    return {
        "equal to the bit": torch.equal(first, second),
        "largest difference": float((first - second).abs().max()),
        "not deterministic": sorted({name for name, found, _ in texts if found}),
    }


def weights_after_steps(workload: Workload, genotype: Genotype | None) -> Tensor:
    """Return all that learns after `REPEATED` steps of search or finetuning, as one vector."""
    torch.manual_seed(0)
    network = workload.supernet()
    if genotype is not None:
        network.discretise(genotype)
        load_ticket(network, draw_ticket(network, 0))
    step = retrofit_step(workload, network)
    for _ in range(REPEATED):
        step()
    learning = [p.detach().flatten().cpu() for p in network.parameters() if p.requires_grad]
    return torch.cat(learning)
