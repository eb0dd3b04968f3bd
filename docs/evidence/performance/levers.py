"""Time every lever of cells and steps against what it replaced, into levers.json."""

import argparse
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from nnunet_iac.benchmark.step import Step, plain_step, training_step
from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.workload import Workload
from nnunet_iac.nn.cell import CellShape, Layers
from nnunet_iac.nn.depthwise import depthwise, of_frames, of_window, rectified_depthwise
from nnunet_iac.nn.discrete_cell import (
    DiscreteCell,
    PlainDiscreteCell,
    count_neighbours,
    edge_by_edge,
)
from nnunet_iac.nn.normalised_products import NormalisedProducts
from nnunet_iac.nn.retrofitted_unet import ImplantedUNet
from nnunet_iac.nn.search_cell import normalised_sum
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.training.optimisation import finetune_optimiser
from nnunet_iac.training.provenance import circumstances

Pair = tuple[Step, Step]
INNERMOST = torch.channels_last
LAYERS = Layers(2, nn.InstanceNorm2d)
EDGES, WIDTH = 4, 4
"""Shape of a node of the search cell, with C/K channels."""
CHANNELS = 16
"""Shape of a node of the discrete cell; the narrow network has half of them at full resolution."""

SEARCH = "Search cell: one node with four outgoing edges (4 of 16 channels); forward and backward"
CELL = "Discrete cell: 16 channels, patch 128 x 128, batch 6; forward and backward"
STEPS = "Whole steps, Hippocampus plan"


@dataclass(frozen=True)
class Lever:
    """A lever: its name on the page, and functions that make the states before and after it."""

    part: str
    lever: str
    verdict: str
    make: Callable[[], Pair]


LEVERS: list[Lever] = []


def lever(part: str, verdict: str, *kernels: tuple[int, int]) -> Callable[[Any], None]:
    """Return a decorator that adds a lever, named by its docstring, or one for each kernel.

    The function returns what was before and what is after; a kernel is side and dilation.
    """

    def add(make: Any) -> None:
        text = " ".join(make.__doc__.rstrip(".").split())
        for kernel in kernels or ((),):
            name = "{0}x{0}{1}".format(kernel[0], " dilated" * (kernel[1] > 1)) if kernel else ""
            LEVERS.append(Lever(part, text.format(name), verdict, partial(make, *kernel)))

    return add


def differentiated(function, *operands) -> Step:
    """Return a call that runs the function forward and backward."""
    operands = [x.detach().requires_grad_() for x in operands]
    gradient = torch.randn_like(function(*operands))
    return lambda: torch.autograd.grad(function(*operands), operands, gradient)


def inferred(function, *operands) -> Step:
    """Return a call that runs the function without gradients."""

    def run():
        with torch.inference_mode():
            function(*operands)

    return run


def convolved(x, weight, dilation=1, groups=1):
    """Return torch's convolution, padded."""
    padding = dilation * (weight.shape[2] // 2)
    return functional.conv2d(x, weight, padding=padding, dilation=dilation, groups=groups)


# --- the search cell -----------------------------------------------------------------------------


def images(channels, layout=torch.contiguous_format):
    """Return random images in a memory layout."""
    return torch.randn(12, channels, 56, 40).contiguous(memory_format=layout)


KERNELS = (3, 1), (5, 1), (3, 2), (5, 2)


def edges(kernel, dilation, width=WIDTH):
    """Return the first round of the edges out of one node: edge by edge, at once, and weights."""
    count = EDGES * width
    weights = [torch.randn(count, 1, kernel, kernel), torch.randn(count, width, 1, 1)]

    def by_edge(x, depths, points):
        parts = zip(depths.split(width), points.split(width), strict=True)
        return torch.cat([convolved(convolved(x, d, dilation, width), p) for d, p in parts], 1)

    def at_once(x, depths, points):
        depths, points = depths.view(-1, 1, width, kernel, kernel), points.view(-1, width, width)
        return convolved(x, (depths * points[..., None, None]).flatten(0, 1), dilation)

    return by_edge, at_once, weights


@lever(SEARCH, "kept up to 32 channels", *KERNELS)
def products(kernel, dilation) -> Pair:
    """Depthwise and pointwise {} of all edges as one convolution with the products of weights."""
    by_edge, at_once, weights = edges(kernel, dilation)
    x = images(WIDTH)
    return differentiated(by_edge, x, *weights), differentiated(at_once, x, *weights)


@lever(SEARCH, "dropped there", (3, 1), (5, 1))
def wide_products(kernel, dilation) -> Pair:
    """The same {} instead of one grouped call: 64 channels per operation, images of 14 x 10."""
    _, at_once, weights = edges(kernel, dilation, 64)
    x = torch.randn(12, 64, 14, 10).contiguous(memory_format=INNERMOST)

    def grouped(x, depths, points):
        each = convolved(torch.cat([x] * EDGES, 1), depths, dilation, len(depths))
        return convolved(each, points, 1, EDGES)

    return differentiated(grouped, x, *weights), differentiated(at_once, x, *weights)


@lever(SEARCH, "kept", *KERNELS)
def products_innermost(kernel, dilation) -> Pair:
    """The convolution with the products, {}, with the channels innermost in memory."""
    _, at_once, weights = edges(kernel, dilation)
    before, after = (images(WIDTH, layout) for layout in (torch.contiguous_format, INNERMOST))
    return differentiated(at_once, before, *weights), differentiated(at_once, after, *weights)


@lever(SEARCH, "kept: nothing normalised is stored")
def sums() -> Pair:
    """Norm, φ, Ψ and the sum over all terms as one product."""
    terms = [images(WIDTH, INNERMOST) for _ in range(4 * EDGES)]
    sequences = [torch.randn(12, 56 * 40, EDGES * WIDTH) for _ in range(4)]
    total, weight = torch.zeros(12, 56 * 40, 4 * WIDTH), torch.randn(4 * EDGES * WIDTH, 4 * WIDTH)

    def by_term(weights, *terms):
        return sum(w * functional.instance_norm(x) for w, x in zip(weights, terms, strict=True))

    def at_once(weight, *terms):
        return normalised_sum(terms, weight, total, 1e-5)

    return (
        differentiated(by_term, torch.rand(len(terms)), *terms),
        differentiated(at_once, weight, *sequences),
    )


def own_mean(x):
    """Return torch's mean of the neighbours inside an image."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@lever(SEARCH, "kept")
def pools() -> Pair:
    """Pooling once per node instead of once per edge."""
    largest, x = LAYERS.max_pool(), images(WIDTH, INNERMOST)
    return (
        differentiated(lambda x: sum(largest(x) + own_mean(x) for _ in range(EDGES)), x),
        differentiated(lambda x: largest(x) + own_mean(x), x),
    )


@lever(SEARCH, "kept")
def mean() -> Pair:
    """The mean as a convolution."""
    x = images(WIDTH, INNERMOST)
    return differentiated(own_mean, x), differentiated(LAYERS.avg_pool(), x)


@lever(SEARCH, "dropped: more arithmetic than the saved calls are worth")
def padded() -> Pair:
    """The convolutions with the products, their kernels padded to one size and joined."""
    weights = [torch.randn(EDGES * WIDTH, WIDTH, kernel, kernel) for kernel, _ in KERNELS]

    def apart(x, *weights):
        pairs = zip(weights, KERNELS, strict=True)
        return torch.cat([convolved(x, w, dilation) for w, (_, dilation) in pairs], 1)

    def joined(x, *weights):
        return convolved(
            x, torch.cat([spread(*pair) for pair in zip(weights, KERNELS, strict=True)])
        )

    def spread(weight, shape):
        kernel, dilation = shape
        apart = torch.zeros(*weight.shape[:2], *[dilation * (kernel - 1) + 1] * 2)
        apart[..., ::dilation, ::dilation] = weight
        return functional.pad(apart, [(9 - apart.shape[-1]) // 2] * 4)

    x = images(WIDTH, INNERMOST)
    return differentiated(apart, x, *weights), differentiated(joined, x, *weights)


@lever(SEARCH, "dropped")
def one_by_one() -> Pair:
    """Every node from those before it instead of all at once from what operations add."""
    added = torch.randn(12, 56 * 40, 2 * 4 * WIDTH + EDGES * 4 * WIDTH)
    weight = torch.randn(added.shape[2], EDGES * 4 * WIDTH)

    def at_once(added, weight):
        return added @ weight

    def in_turn(added, weight):
        parts = enumerate(weight.split(4 * WIDTH, 1), 3)
        return torch.cat([added[..., : 4 * WIDTH * k] @ w[: 4 * WIDTH * k] for k, w in parts], 2)

    return differentiated(at_once, added, weight), differentiated(in_turn, added, weight)


# --- the discrete cell ---------------------------------------------------------------------------


def node():
    """Return the images of a node, with the channels innermost in memory."""
    return torch.randn(6, CHANNELS, 128, 128).contiguous(memory_format=INNERMOST)


def samples():
    """Return the same, one voxel after another."""
    return torch.randn(6, 128 * 128, CHANNELS)


def cell_step(kind=DiscreteCell, images=6) -> Step:
    """Return a step of a random cell that computes so many of the six images together."""
    cell = kind(CellShape.of_level(CHANNELS // 2), LAYERS, random_genotype(0))
    skip, up = (torch.randn(6, CHANNELS // 2, 128, 128, requires_grad=True) for _ in range(2))
    gradient = torch.randn_like(skip)

    def step():
        parts = zip(skip.split(images), up.split(images), strict=True)
        torch.cat([cell(*part) for part in parts]).backward(gradient)

    return step


@lever(CELL, "kept")
def cell() -> Pair:
    """All of it: edge by edge, and as below."""
    return cell_step(PlainDiscreteCell), cell_step()


@lever(CELL, "dropped: a little faster on one thread, slower on two")
def parts() -> Pair:
    """A batch in parts of two images, whose nodes of 2 MiB fit the cache."""
    return cell_step(), cell_step(images=2)


def kernels(kernel, dilation):
    """Return torch's depthwise convolution and ours, and random weights."""
    weight = torch.randn(CHANNELS, 1, kernel, kernel)
    own = partial(depthwise, dilation=(dilation, dilation))
    return partial(convolved, dilation=dilation, groups=CHANNELS), own, weight


@lever(CELL, "kept", (3, 1), (5, 2))
def image_gradient(kernel, dilation) -> Pair:
    """Depthwise {}: the gradient of the image as a convolution with the flipped kernel."""
    *kinds, weight = kernels(kernel, dilation)
    before, after = (differentiated(partial(kind, weight=weight), node()) for kind in kinds)
    return before, after


@lever(CELL, "kept where images are not small", (5, 1), (3, 2), (5, 2))
def weight_gradient(kernel, dilation) -> Pair:
    """Depthwise {}: the gradient of the weights from phases and windows of 3x3."""
    *kinds, weight = kernels(kernel, dilation)
    before, after = (differentiated(partial(kind, node()), weight) for kind in kinds)
    return before, after


@lever(CELL, "dropped for small images", (5, 1), (5, 2))
def small_weight_gradient(kernel, dilation) -> Pair:
    """The same {}, alone, for 12 images of 14 x 10."""
    own, window = (dilation, dilation), torch.randn(CHANNELS, 1, kernel, kernel)
    x, grad = (torch.randn(12, CHANNELS, 14, 10).contiguous(memory_format=INNERMOST) for _ in "xy")

    return tuple(partial(kind, x, grad, window, own) for kind in (of_window, of_frames))


@lever(CELL, "kept")
def rectified() -> Pair:
    """The gradient of a ReLU applied inside the convolution's."""
    _, own, weight = kernels(3, 1)

    def inside(x):
        with torch.no_grad():
            positive = functional.relu(x)
        return rectified_depthwise(x, positive, weight, (1, 1))

    return (
        differentiated(lambda x: own(functional.relu(x), weight), node()),
        differentiated(inside, node()),
    )


@lever(CELL, "kept")
def shared() -> Pair:
    """Every source rectified and pooled once, for two edges."""
    pool = LAYERS.max_pool()

    def once(x):
        positive, largest = functional.relu(x), pool(x)
        return positive + positive + largest + largest

    def twice(x):
        return functional.relu(x) + functional.relu(x) + pool(x) + pool(x)

    return differentiated(twice, node()), differentiated(once, node())


@lever(
    CELL, "dropped: random cells hardly have such edges, and torch has no fast code for it", (3, 1)
)
def grouped(kernel, dilation) -> Pair:
    """Depthwise {} of two edges that leave one source as one grouped call."""
    _, own, _ = kernels(kernel, dilation)
    weights = [torch.randn(CHANNELS, 1, kernel, kernel) for _ in range(2)]

    def apart(x, *weights):
        return sum(own(x, weight) for weight in weights)

    def together(x, *weights):
        both = convolved(x, torch.stack(weights, 1).flatten(0, 1), dilation, CHANNELS)
        return both.unflatten(1, (-1, 2)).sum(2)

    return differentiated(apart, node(), *weights), differentiated(together, node(), *weights)


@lever(CELL, "kept")
def merged() -> Pair:
    """Pointwise convolutions and norms of two edges merged, the variance as w cov(x) w."""
    weights = [torch.randn(CHANNELS, CHANNELS), torch.ones(CHANNELS), torch.zeros(CHANNELS)] * 2

    def apart(x, y, *weights):
        terms = ((x, *weights[:3]), (y, *weights[3:]))
        return sum(
            functional.instance_norm(convolved(x, w[..., None, None]), weight=g, bias=b)
            for x, w, g, b in terms
        )

    def together(x, y, *weights):
        return NormalisedProducts.apply(1e-5, None, x, *weights[:3], y, *weights[3:])[0]

    return (
        differentiated(apart, node(), node(), *weights),
        differentiated(together, samples(), samples(), *weights),
    )


@lever(CELL, "kept")
def gated() -> Pair:
    """The gate multiplied into the weights of the output convolution."""
    skip, weight, gate = torch.randn(6, 8, 128, 128), torch.randn(8, 4 * CHANNELS), torch.rand(())

    def after_it(skip, weight, gate, *nodes):
        return skip + gate * convolved(torch.cat(nodes, 1), weight[..., None, None])

    def inside(skip, weight, gate, *nodes):
        total = skip.flatten(2)
        for part, x in zip((gate * weight).chunk(4, 1), nodes, strict=True):
            total = torch.baddbmm(total, part.expand(6, -1, -1), x.mT)
        return total

    return (
        differentiated(after_it, skip, weight, gate, *(node() for _ in range(4))),
        differentiated(inside, skip, weight, gate, *(samples() for _ in range(4))),
    )


@lever(CELL, "kept")
def one_image() -> Pair:
    """Prediction of one image of 56 x 40: the instance norm as a batch norm."""
    x = torch.randn(1, CHANNELS, 56, 40).contiguous(memory_format=INNERMOST)
    scale, shift = torch.ones(CHANNELS), torch.zeros(CHANNELS)

    def as_batch(x):
        return torch.batch_norm(x, scale, shift, None, None, True, 0.0, 1e-5, False)

    return (
        inferred(lambda x: functional.instance_norm(x, weight=scale, bias=shift), x),
        inferred(as_batch, x),
    )


@lever(CELL, "kept")
def layout() -> Pair:
    """A separable convolution 3x3 and its norm with the channels innermost, without conversions."""
    depths, points = torch.randn(CHANNELS, 1, 3, 3), torch.randn(CHANNELS, CHANNELS, 1, 1)
    ones, zeros = torch.ones(CHANNELS), torch.zeros(CHANNELS)

    def by_torch(x, depths, points, ones, zeros):
        product = convolved(convolved(x, depths, groups=CHANNELS), points)
        return functional.instance_norm(product, weight=ones, bias=zeros)

    def innermost(x, depths, points, ones, zeros):
        between = depthwise(x, depths, (1, 1)).movedim(1, -1).flatten(1, -2)
        return NormalisedProducts.apply(1e-5, None, between, points.flatten(1), ones, zeros)[0]

    operands = depths, points, ones, zeros
    return (
        differentiated(by_torch, node().contiguous(), *operands),
        differentiated(innermost, node(), *operands),
    )


@lever(CELL, "kept")
def added() -> Pair:
    """An identity or a pool as the summand of the other edge's matrix product."""
    weights = [torch.randn(CHANNELS, CHANNELS), torch.ones(CHANNELS), torch.zeros(CHANNELS)]

    def after_it(total, x, *weights):
        return total + NormalisedProducts.apply(1e-5, None, x, *weights)[0]

    def inside(total, x, *weights):
        return NormalisedProducts.apply(1e-5, total, x, *weights)[0]

    return (
        differentiated(after_it, samples(), samples(), *weights),
        differentiated(inside, samples(), samples(), *weights),
    )


@lever(CELL, "dropped: the images have to be centred anyway")
def one_pass() -> Pair:
    """Mean and variance in one pass (`torch.var_mean`) instead of two."""
    x = samples()

    def two(x):
        centred = x - x.mean(1, keepdim=True)
        return centred.square().mean(1, keepdim=True)

    return inferred(two, x), inferred(lambda x: torch.var_mean(x, 1, correction=0), x)


@lever(CELL, "dropped for one image, where the product is cheaper than its covariance")
def folded_norm() -> Pair:
    """Prediction of one image of 56 x 40: the instance norm folded, the variance as w cov(x) w."""
    x, w = torch.randn(1, 56 * 40, CHANNELS), torch.randn(CHANNELS, CHANNELS)
    scale, shift = torch.ones(CHANNELS), torch.zeros(CHANNELS)

    def after_it(x):
        product = torch.mm(x[0], w.mT).view(1, 56, 40, CHANNELS).movedim(-1, 1)
        return torch.batch_norm(product, scale, shift, None, None, True, 0.0, 1e-5, False)

    def inside(x):
        return NormalisedProducts.apply(1e-5, None, x.clone(), w, scale, shift)[0]

    return inferred(after_it, x), inferred(inside, x)


@lever(CELL, "kept")
def folded() -> Pair:
    """Prediction of one image of 56 x 40: a projection's batch norm folded into its weights."""
    x, weight = torch.randn(56 * 40, CHANNELS), torch.randn(CHANNELS, CHANNELS)
    mean, shift, variance, scale = torch.randn(2, CHANNELS).unbind() + (torch.ones(CHANNELS),) * 2
    merged, bias = (scale * weight.mT).mT, shift - scale * mean

    def after_it(x):
        return functional.batch_norm(x @ weight.mT, mean, variance, scale, shift)

    return inferred(after_it, x), inferred(lambda x: torch.addmm(bias, x, merged.mT), x)


@lever(CELL, "dropped: it pays for the few channels of a search only")
def dense() -> Pair:
    """Depthwise and pointwise 3x3 of an edge as one convolution with the product of weights."""
    _, own, depths = kernels(3, 1)
    points = torch.randn(CHANNELS, CHANNELS, 1, 1)

    def product(x, depths, points):
        return convolved(x, points * depths.movedim(0, 1))

    return (
        differentiated(lambda x, d, p: convolved(own(x, d), p), node(), depths, points),
        differentiated(product, node(), depths, points),
    )


@lever(CELL, "kept")
def neighbours() -> Pair:
    """The number of neighbours inside the image counted, instead of a convolution of ones."""
    x, ones = node(), torch.ones(1, 1, 3, 3)
    before = inferred(lambda x: convolved(x.new_ones(1, 1, *x.shape[2:]), ones), x)
    return before, inferred(lambda x: count_neighbours((3, 3), x), x)


@lever(CELL, "dropped")
def torch_mean() -> Pair:
    """The mean of the neighbours by torch instead of as a convolution."""
    _, own, _ = kernels(3, 1)
    ones = torch.ones(CHANNELS, 1, 3, 3)
    count = convolved(torch.ones(1, 1, 128, 128), ones[:1])
    return differentiated(lambda x: own(x, ones) / count, node()), differentiated(own_mean, node())


# --- whole steps ---------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A skip connection with one parameter, so that gradients pass the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, skip: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return the scaled skip tensor."""
        return self.scale * skip


def backbone_step(layout=torch.contiguous_format) -> Step:
    """Return a step whose only trainable parameters scale the skip tensors."""
    workload = Workload()
    network = ImplantedUNet(workload.unet(), [Scaled() for _ in workload.features[1:]])
    network.encoder.requires_grad_(False)
    network.decoder.requires_grad_(False)
    network = network.to(memory_format=layout)
    parameters = list(network.implants.parameters())
    return training_step(workload, network, [SGD(parameters, 0.01)], parameters)


@lever(STEPS, "kept")
def frozen() -> Pair:
    """Frozen backbone: no graph in the encoder, no weight gradients in the decoder."""
    return plain_step(Workload()), backbone_step()


@lever(STEPS, "dropped")
def innermost() -> Pair:
    """The frozen backbone with the channels innermost."""
    return backbone_step(), backbone_step(INNERMOST)


def finetuning(change=lambda network: None) -> Step:
    """Return a finetuning step of a random cell, after a change of its network."""
    workload = Workload()
    network, settings = workload.supernet(), workload.settings
    network.discretise(random_genotype(0))
    change(network)
    optimizer, _ = finetune_optimiser(network.weights(), settings.optimisation, 1, 0)
    return training_step(workload, network, [optimizer], network.weights())


@lever(STEPS, "dropped")
def out_of_place() -> Pair:
    """Finetuning: the decoder's LeakyReLU out of place."""

    def change(network):
        for module in network.decoder.stages.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = False

    return finetuning(), finetuning(change)


@lever(STEPS, "kept")
def finetuned() -> Pair:
    """Finetuning: the cells edge by edge, and as above."""

    def change(network):
        for module in network.modules():
            if isinstance(module, DiscreteCell):
                module.edge_by_edge = True

    return finetuning(change), finetuning()


@lever(STEPS, "kept")
def predicted() -> Pair:
    """Prediction of one patch: the cells edge by edge, and as above."""
    network = Workload().supernet()
    network.discretise(random_genotype(0))
    network.eval()
    network.decoder.deep_supervision = False
    x = torch.randn(1, 1, *Workload().patch_size)

    def by_edge(x):
        with edge_by_edge(network):
            return network(x)

    return inferred(by_edge, x), inferred(network, x)


@lever(STEPS, "kept in the search; nnU-Net's own step, which the finetuning has, waits as often")
def one_norm() -> Pair:
    """Whether all gradients are finite, and their clipping, from one norm."""
    network = Workload().supernet()
    network.discretise(random_genotype(0))
    for parameter in network.weights():
        parameter.grad = torch.randn_like(parameter)

    def apart():
        assert all(bool(p.grad.isfinite().all()) for p in network.weights())
        nn.utils.clip_grad_norm_(network.weights(), 12)

    def together():
        norm = nn.utils.get_total_norm([p.grad for p in network.weights()])
        assert norm.isfinite()
        nn.utils.clip_grads_with_norm_(network.weights(), 12, norm)

    return apart, together


@lever(STEPS, "dropped: nnU-Net's, and far below 1 % of a step")
def no_head() -> Pair:
    """The head of the lowest resolution, whose loss has no weight, not computed."""
    head = Workload().unet().decoder.seg_layers[0].requires_grad_(False)
    x = torch.randn(12, head.in_channels, 14, 10, requires_grad=True)
    return lambda: head(x), lambda: None


@lever(STEPS, "dropped: rounds otherwise, for little of a step")
def fused_adam() -> Pair:
    """Adam's step on all cell weights as one fused call."""

    def stepped(**how):
        network = Workload().supernet()
        network.discretise(random_genotype(0))
        for parameter in network.weights():
            parameter.grad = torch.randn_like(parameter)
        return Adam(network.weights(), 1e-3, **how).step

    return stepped(), stepped(fused=True)


def keep_freed_memory() -> None:
    """Set glibc not to return memory to the system."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)
    libc.mallopt(-1, 2**31 - 1)


def row(measured: Lever, seconds: Sequence[float]) -> dict[str, str | float]:
    """Return a row of the page."""
    text = {"part": measured.part, "lever": measured.lever, "verdict": measured.verdict}
    return {**text, "before_s": seconds[0], "after_s": seconds[1]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()

    def seconds(*steps):
        return list(interleaved(dict(enumerate(steps)), arguments.repeats, "cpu").values())

    rows = {one: seconds(*one.make()) for one in LEVERS}
    before = seconds(plain_step(Workload()))
    keep_freed_memory()  # For good, so the two cannot be measured in turn.
    text, verdict = "Memory kept by the process (glibc `mallopt`), plain step", "dropped: not ours"
    kept = Lever(STEPS, text, verdict, plain_step)
    rows[kept] = [*before, *seconds(plain_step(Workload()))]
    result = {
        **circumstances(),
        "repeats": arguments.repeats,
        "levers": [row(*pair) for pair in rows.items()],
    }
    write_json(arguments.file, result)


if __name__ == "__main__":
    main()
