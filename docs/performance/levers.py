"""Time what makes the search cell fast, each lever against what it replaced, into levers.json."""

import argparse
import ctypes
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from nnunet_iac.benchmark.step import plain_step, training_step
from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cell import Layers
from nnunet_iac.nn.retrofitted_unet import ImplantedUNet
from nnunet_iac.nn.search_cell import normalised_sum
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.training.cost import circumstances

BATCH, EDGES, WIDTH, SIDES = 12, 4, 4, (56, 40)


class Scaled(nn.Module):
    """A skip connection with one parameter, so that gradients pass the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, skip: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return the scaled skip tensor."""
        return self.scale * skip


def differentiated(function, *operands):
    """Return a call that runs the function forward and backward."""
    operands = [x.detach().requires_grad_() for x in operands]
    gradient = torch.randn_like(function(*operands))
    return lambda: function(*operands).backward(gradient)


def images(channels, layout=torch.contiguous_format):
    """Return random images in a memory layout."""
    return torch.randn(BATCH, channels, *SIDES).contiguous(memory_format=layout)


def separable(x, depthwise, pointwise, dilation, kernel):
    """Return depthwise and pointwise convolution, one after the other."""
    padding = dilation * (kernel // 2)
    x = functional.conv2d(x, depthwise, padding=padding, dilation=dilation, groups=len(depthwise))
    return functional.conv2d(x, pointwise, groups=len(pointwise) // WIDTH)


def product(x, depthwise, pointwise, dilation, kernel):
    """Return the same for several edges that see one image."""
    depthwise = depthwise.view(-1, 1, WIDTH, kernel, kernel)
    pointwise = pointwise.view(-1, WIDTH, WIDTH, 1, 1)
    weight = (depthwise * pointwise).flatten(0, 1)
    return functional.conv2d(x, weight, padding=dilation * (kernel // 2), dilation=dilation)


def convolutions(kernel, dilation):
    """Return a first round of the edges out of one node: edge by edge, and as one product."""
    shapes = (EDGES * WIDTH, 1, kernel, kernel), (EDGES * WIDTH, WIDTH, 1, 1)
    weights = [torch.randn(shape) for shape in shapes]

    def by_edge(x, depthwise, pointwise):
        parts = zip(depthwise.split(WIDTH), pointwise.split(WIDTH), strict=True)
        return torch.cat([separable(x, d, p, dilation, kernel) for d, p in parts], 1)

    one = partial(product, dilation=dilation, kernel=kernel)
    return (
        differentiated(by_edge, images(WIDTH), *weights),
        differentiated(one, images(WIDTH), *weights),
        differentiated(one, images(WIDTH, torch.channels_last), *weights),
    )


def sums():
    """Return norm and weighted sum of one node's terms: term by term, and as one product."""
    terms = [images(WIDTH, torch.channels_last) for _ in range(4 * EDGES)]
    weights = torch.rand(len(terms))

    def by_term(weights, *terms):
        return sum(w * functional.instance_norm(x) for w, x in zip(weights, terms, strict=True))

    sequences = [torch.randn(BATCH, SIDES[0] * SIDES[1], EDGES * WIDTH) for _ in range(4)]
    total = torch.zeros(BATCH, SIDES[0] * SIDES[1], 4 * WIDTH)
    weight = torch.randn(4 * EDGES * WIDTH, 4 * WIDTH)

    def at_once(weight, *terms):
        return normalised_sum(terms, weight, total, 1e-5)

    return differentiated(by_term, weights, *terms), differentiated(at_once, weight, *sequences)


def pools():
    """Return maximum and mean of one node: for every edge, and once in two ways."""
    layers = Layers(2, nn.InstanceNorm2d)
    largest, mean = layers.max_pool(), layers.avg_pool()
    torch_mean = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = images(WIDTH, torch.channels_last)
    return (
        differentiated(lambda x: sum(largest(x) + torch_mean(x) for _ in range(EDGES)), x),
        differentiated(lambda x: largest(x) + torch_mean(x), x),
        differentiated(lambda x: largest(x) + mean(x), x),
    )


def backbone_step(workload, layout=torch.contiguous_format):
    """Return a step whose only trainable parameters scale the skip tensors."""
    unet = workload.unet()
    network = ImplantedUNet(unet, [Scaled() for _ in workload.features[1:]])
    network.encoder.requires_grad_(False)
    network.decoder.requires_grad_(False)
    network = network.to(memory_format=layout)
    parameters = list(network.implants.parameters())
    return training_step(workload, network, [torch.optim.SGD(parameters, 0.01)], parameters)


def keep_freed_memory() -> None:
    """Tell glibc not to return memory to the system."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)
    libc.mallopt(-1, 2**31 - 1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    workload = Workload()
    groups = {
        "products of weights, 3x3": convolutions(3, 1),
        "products of weights, 5x5": convolutions(5, 1),
        "products of weights, 3x3 dilated": convolutions(3, 2),
        "products of weights, 5x5 dilated": convolutions(5, 2),
        "norm and sum": sums(),
        "pools": pools(),
        "backbone": (
            plain_step(workload),
            backbone_step(workload),
            backbone_step(workload, torch.channels_last),
        ),
    }
    seconds = {
        name: list(interleaved(dict(enumerate(steps)), arguments.repeats, "cpu").values())
        for name, steps in groups.items()
    }
    before = interleaved({"plain": plain_step(workload)}, arguments.repeats, "cpu")["plain"]
    keep_freed_memory()
    after = interleaved({"plain": plain_step(workload)}, arguments.repeats, "cpu")["plain"]
    result = {
        **circumstances(),
        "repeats": arguments.repeats,
        "seconds": {**seconds, "memory kept by the process": [before, after]},
    }
    write_json(arguments.file, result)


if __name__ == "__main__":
    main()
