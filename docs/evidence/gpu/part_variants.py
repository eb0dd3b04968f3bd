"""Steps with other settings of torch than a default run has, each against the default one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from networks import networks
from torch import Tensor, nn
from visit import Rows, Visit

from nnunet_iac.benchmark.step import finetune_step, fused_step, plain_step
from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.search.controls import random_genotype

Made = dict[str, Callable[[], Any]]


def rows(visit: Visit, scratch: Path) -> Rows:
    """Return the default, and a row per variant; compiling takes longest and comes last."""
    plain = networks(visit)["plain 2-D"]
    repeats = 1 if visit.quick else 10

    def varied(workload: Workload, finetuning_only: bool = False) -> dict[str, Any]:
        return {"seconds_of": interleaved(steps(workload, finetuning_only), repeats, visit.device)}

    def with_settings(finetuning_only: bool = False, **values: Any) -> dict[str, Any]:
        settings = plain.settings.replace(**values)
        return varied(plain.resized(None, None, None, settings), finetuning_only)

    def with_tf32() -> dict[str, Any]:
        with tf32():
            return varied(plain)

    def with_compiled_unet() -> dict[str, Any]:
        step = plain_step(Compiled(**vars(plain)))
        return {"seconds_of": interleaved({"plain": step}, repeats, visit.device)}

    innermost = ChannelsLast(**vars(plain))
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "default": partial(varied, plain),
        "deterministic=false": partial(with_settings, deterministic=False),
        "TF32 in float32 products": with_tf32,
        "backbone with channels innermost": partial(varied, innermost),
        "compile_cells=true": partial(with_settings, finetuning_only=True, compile_cells=True),
    }
    if visit.device == "cuda":  # On a CPU nnU-Net does not compile.
        found["the U-Net compiled, as nnU-Net's own trainers do"] = with_compiled_unet
    return found


def steps(workload: Workload, finetuning_only: bool) -> Made:
    """Return the steps that are timed."""
    finetuning = {"finetuning": finetune_step(workload, random_genotype(0))}
    if finetuning_only:
        return finetuning
    return {"plain": plain_step(workload), "search": fused_step(workload, 7), **finetuning}


@dataclass(frozen=True)
class ChannelsLast(Workload):
    """A workload whose backbone and images have their channels innermost in memory."""

    def unet(self) -> nn.Module:
        """Return the network."""
        return super().unet().to(memory_format=torch.channels_last)

    def batch(self) -> tuple[Tensor, list[Tensor]]:
        """Return images and labels."""
        images, targets = super().batch()
        return images.contiguous(memory_format=torch.channels_last), targets


@dataclass(frozen=True)
class Compiled(Workload):
    """A workload whose U-Net is compiled."""

    def unet(self) -> nn.Module:
        """Return the network, which is compiled when it is first run."""
        network = super().unet()
        network.compile()
        return network

    def batch(self) -> tuple[Tensor, list[Tensor]]:
        """Return images and labels, without compiling a network whose outputs have their shapes."""
        return Workload(**vars(self)).batch()


@contextmanager
def tf32() -> Iterator[None]:
    """Return a context in which products of float32 matrices are rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
