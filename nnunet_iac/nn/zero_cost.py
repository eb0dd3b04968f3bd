"""A genotype without training: Zero-Cost-PT (Xiang et al. 2023) on a frozen backbone.

The supernet at its initial weights is scored without each operation in turn, and every edge keeps
the operation whose removal costs most; then every node keeps its two edges the same way. The score
is that of Mellor et al. 2021 (NASWOT): log |det K| with K_ij the number of units at which two
images are on the same side of zero. Our units are the activations of the frozen decoder, which are
the same for every cell; the score measures how differently the decoder responds to the images.
One genotype is found; the paper's validation of several is not implemented.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from nnunet_iac.nn.cell import Image, ReZero
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import (
    EDGES,
    EDGES_PER_NODE,
    INTERMEDIATE_NODES,
    OPERATIONS,
    edges_into,
)

ACTIVATIONS = (nn.LeakyReLU, nn.ReLU)


@torch.no_grad()
def zero_cost_genotype(network: IACUNet, batches: Sequence[Image], seed: int) -> Genotype:
    """Return the genotype of the best scores at the initial weights.

    Args:
        network: with unpruned search cells at their initial weights. Gates count as open.
        batches: each (images, channels, spatial) of training cases, two images at least; a score is
            the mean over them.
        seed: of the order in which edges are decided, then nodes.

    Raises:
        ValueError: fewer than two images in a batch, or images to which the decoder responds alike.
    """
    if (fewest := min(map(len, batches))) < 2:
        raise ValueError(
            "a zero-cost genotype compares images, so a batch must have at least 2; the plans' "
            f"batch_size is {fewest}: give the plans a larger one, or search"
        )
    order = random.Random(seed)
    phi, psi = (weights.clone() for weights in network.mixing())
    with _open_gates(network), _codes(network) as codes, network.mixed_by(phi, psi):

        def score() -> float:
            found = []
            for images in batches:
                codes.clear()
                network(images)
                found.append(naswot(codes))
            return fmean(found)

        def scores_without(weights: Tensor, entries: Iterable[Any]) -> list[float]:
            found = []
            for entry in entries:
                before = weights[entry].clone()
                weights[entry] = 0.0
                found.append(score())
                weights[entry] = before
            return found

        if not math.isfinite(whole := score()):
            raise ValueError(
                "a zero-cost genotype compares images, so the decoder must see each of a batch "
                f"differently; the score of the whole cell is {whole}: take another seed, a "
                "trained backbone, or search"
            )
        for edge in order.sample(range(len(EDGES)), len(EDGES)):
            without = scores_without(phi, [(edge, o) for o in range(len(OPERATIONS))])
            phi[edge] = 0.0
            phi[edge, without.index(min(without))] = 1.0
        for node in order.sample(INTERMEDIATE_NODES, len(INTERMEDIATE_NODES)):
            kept = list(edges_into(node))
            while len(kept) > EDGES_PER_NODE:
                without = scores_without(psi, kept)
                psi[kept.pop(without.index(max(without)))] = 0.0
    kept_edges = [edge for edge in range(len(EDGES)) if psi[edge] > 0]
    operations = phi.argmax(dim=1).tolist()
    return Genotype(tuple(Choice(EDGES[e], OPERATIONS[operations[e]]) for e in kept_edges))


def naswot(codes: Sequence[Bool[Tensor, "images _"]]) -> float:
    """Return log |det K| of binary codes, -inf where two images have the same (Mellor et al. 2021).

    K is summed over all units of all layers, one code each.
    """
    units = (code.double() for code in codes)
    kernel: Any = sum(x @ x.mT + (1 - x) @ (1 - x).mT for x in units)
    return float(torch.linalg.slogdet(kernel).logabsdet)


@contextmanager
def _codes(network: IACUNet) -> Iterator[list[Tensor]]:
    """Return a context in which a list receives the signs of the decoder's units."""
    codes: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        codes.append((inputs[0] > 0).flatten(1).cpu())

    # Not the decoder's own modules, since the encoder is among them.
    stages = network.decoder.stages.modules()
    with ExitStack() as hooks:
        for module in stages:
            if isinstance(module, ACTIVATIONS):
                hooks.enter_context(module.register_forward_pre_hook(note))
        yield codes


@contextmanager
def _open_gates(network: IACUNet) -> Iterator[None]:
    """Return a context in which all gates are open."""
    gates = [m.gate for m in network.implants if isinstance(m, ReZero)]
    before = [gate.detach().clone() for gate in gates]
    try:
        for gate in gates:
            gate.fill_(1.0)
        yield
    finally:
        for gate, value in zip(gates, before, strict=True):
            gate.copy_(value)
