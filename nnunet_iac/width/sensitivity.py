"""Sensitivity of a network at initialisation to its input.

XTinyU-Net (arXiv 2605.09639), score: s(x) = || d(sum of all logits) / dx ||_2 of one image.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Score = Literal["sum", "frobenius"]
SCORES: tuple[Score, ...] = get_args(Score)

PROBES = 4
"""Random signs per image for the Frobenius norm."""


def prepared(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Return the network, changed in place for measuring: frozen, and in evaluation mode.

    Batch norms keep to the statistics of the image, since their running ones mean nothing before
    training. The last norm of every residual block, which nnU-Net starts at zero, is set to one:
    otherwise the blocks would not take part.
    """
    network.requires_grad_(False).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train()
        elif isinstance(module, BasicBlockD | BottleneckD):
            last = module.conv3 if isinstance(module, BottleneckD) else module.conv2
            weight = getattr(getattr(last, "norm", None), "weight", None)
            if weight is not None:
                nn.init.ones_(weight)
    return network.to(device)


def sensitivities(
    network: nn.Module,
    images: Sequence[Float[Tensor, "1 channels *spatial"]],
    score: Score = "sum",
) -> list[float]:
    """Return the score of every image, measured one by one.

    `sum` is the published one. `frobenius` is the Frobenius norm of the whole Jacobian J of the
    logits, by Hutchinson's estimator: the root of the mean of ||J^T v||^2 over `PROBES` vectors v
    of random signs, the same for all networks. Of several outputs of a network the first counts.
    """
    if score not in SCORES:
        raise ValueError(f"the score must be one of {', '.join(SCORES)}; got {score!r}")
    device = next(network.parameters()).device
    exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}
    with torch.backends.cudnn.flags(enabled=True, **exact):
        return [
            _sensitivity(network, image.to(device), score, seed)
            for seed, image in enumerate(images)
        ]


def _sensitivity(network: nn.Module, image: Tensor, score: Score, seed: int) -> float:
    image = image.clone().requires_grad_()
    try:
        logits = network(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "norms that take the statistics of the image need more than one voxel per channel at "
            f"the bottleneck; of a patch of {' x '.join(map(str, image.shape[2:]))} it has one "
            f"({error}): choose the width with a trainer without batch norms, or take it with --cap"
        ) from error
    if not isinstance(logits, Tensor):
        logits = logits[0]
    if score == "sum":
        (gradient,) = torch.autograd.grad(logits.sum(), image)
        return float(gradient.cpu().double().norm())
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for probe in range(PROBES):
        signs = torch.randint(2, logits.shape, generator=generator).to(logits) * 2 - 1
        (gradient,) = torch.autograd.grad(logits, image, signs, retain_graph=probe < PROBES - 1)
        total += float(gradient.cpu().double().square().sum())
    return (total / PROBES) ** 0.5
