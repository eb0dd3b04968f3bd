"""The discrete cell of a genotype.

`PlainDiscreteCell` writes the cell edge by edge. `DiscreteCell` computes the same on a CPU in
fewer passes over the images:

- The norm behind a pointwise convolution needs no output of that convolution: with x centred, its
  variance is w^T cov(x) w. So norm, scale and shift merge into the weights, one set per sample, and
  a node is one sum of matrix products (`normalised_products`).
- A depthwise convolution's backward pass is made of convolutions for which the CPU has fast code
  (`nn.depthwise`).
- Every source is rectified and pooled once for all edges that leave it, and the gate of a residual
  cell is multiplied into the weights of the output convolution.

The channels of an image lie innermost in memory inside the cell.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_iac.nn.cell import Cell, CellShape, Image, Layers, Node
from nnunet_iac.nn.depthwise import depthwise, rectified_depthwise
from nnunet_iac.nn.normalised_products import Joined, Normalised, NormalisedProducts
from nnunet_iac.nn.samples import Samples, image_of, joined_samples, samples_of
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""With the channels innermost, by the number of axes of a batch of images."""


class PlainDiscreteCell(Cell):
    """The discrete cell edge by edge: the reference of `DiscreteCell`, and its path on a GPU."""

    def __init__(self, shape: CellShape, layers: Layers, genotype: Genotype) -> None:
        operations = {edge: (operation,) for edge, operation in genotype.operations.items()}
        super().__init__(shape, layers, operations)
        self.genotype = genotype

    def forward(self, skip: Image, up: Image) -> Image:
        """Return the skip tensor's replacement, of the same shape."""
        nodes = [_channels_last(x) for x in self.inputs(skip, up)]
        for node in INTERMEDIATE_NODES:
            terms = (
                self.operations(edge)[operation](nodes[edge.source])
                for edge, operation in self.genotype.operations.items()
                if edge.target == node
            )
            nodes.append(_channels_last(reduce(add, terms)))
        return self.joined(nodes)

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters on which the last R nodes, the output, do not depend."""
        used = {*INTERMEDIATE_NODES[-self.shape.output_nodes :]}
        for edge in sorted(self.genotype.operations, key=lambda edge: -edge.target):
            if edge.target in used:
                used.add(edge.source)
            else:
                yield from self.operations(edge).parameters()
        for node, project in enumerate(self.projections):
            yield from project.parameters() if node not in used else ()


class DiscreteCell(PlainDiscreteCell):
    """The cell of a genotype: a node is the plain sum of its two edges, on all C channels.

    It maps the encoder's skip tensor and the decoder's upsampled tensor, (batch, C_skip, *spatial)
    each, to a tensor of that shape, as a replacement for the skip tensor:

        cell = DiscreteCell(CellShape.of_level(64), Layers(2, nn.InstanceNorm2d), genotype)
        replacement = cell(skip, up)  # (batch, 64, height, width)

    On a GPU, under autocast, and where the cell is compiled or exported, it is computed edge by
    edge. Otherwise the modules inside it are not called, so hooks on them do not run.

    Args:
        shape: the cell's channels (`CellShape.of_level`).
        layers: constructors with the dimension and the norm of the U-Net around it.
        genotype: two edges into each of the four nodes, with one operation each.

    Raises:
        ValueError: a norm that is neither instance nor batch norm.
    """

    takes_gate = True
    edge_by_edge = False

    def forward(self, skip: Image, up: Image, gate: Tensor | None = None) -> Image:
        """Return the skip tensor's replacement, of the same shape.

        Args:
            skip: of the encoder.
            up: of the decoder, upsampled to the skip's resolution.
            gate: a scalar; with it the result is skip + gate * replacement.
        """
        if not self.edge_by_edge and _may_be_fast(skip, up):
            rounds = {name: _round(layers) for name, layers in self._rounds()}
            if _have_one_mode(rounds.values(), skip):
                return _Evaluation(self, rounds, skip).output(skip, up, gate)
        replacement = super().forward(skip, up)
        return replacement if gate is None else skip + gate * replacement

    def _rounds(self) -> Iterator[tuple[str, Any]]:
        """Yield every convolution with its norm, and a name for it."""
        yield from ((f"projection {i}", layers) for i, layers in enumerate(self.projections))
        for edge, operation in self.genotype.operations.items():
            module: Any = self.operations(edge)[operation]
            if operation.startswith("sep_conv"):
                yield from ((f"{edge.name} {i}", layers) for i, layers in enumerate(module))
            elif operation.startswith("dil_conv"):
                yield f"{edge.name} 0", module


def _channels_last(x: Node) -> Node:
    """Return `x` with its channels innermost in memory, where depthwise convolutions are fast.

    Not of one image that is trained on a CPU: torch 2.14 computes wrong gradients of its instance
    norm then.
    """
    if len(x) == 1 and x.device.type == "cpu" and torch.is_grad_enabled():
        return x.contiguous()
    return x.contiguous(memory_format=LAYOUTS[x.ndim])


@contextmanager
def edge_by_edge(network: nn.Module) -> Iterator[None]:
    """Return a context in which the discrete cells of a network are computed edge by edge.

    Their multiply-accumulates are then those of their convolutions, and the memory that they keep
    is that on a GPU.
    """
    cells = [module for module in network.modules() if isinstance(module, DiscreteCell)]
    before = [cell.edge_by_edge for cell in cells]
    try:
        for cell in cells:
            cell.edge_by_edge = True
        yield
    finally:
        for cell, was in zip(cells, before, strict=True):
            cell.edge_by_edge = was


class Round(NamedTuple):
    """A depthwise convolution, or None, a pointwise one, and its norm."""

    depthwise: Any
    pointwise: Any
    norm: Any

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The matrix of the pointwise convolution."""
        return self.pointwise.weight.flatten(1)

    @property
    def takes_statistics(self) -> bool | None:
        """Whether the norm uses the statistics of what it gets; None if this cannot be merged."""
        norm = self.norm
        if isinstance(norm, _InstanceNorm):
            found = None if norm.track_running_stats else True
        elif isinstance(norm, _BatchNorm):
            found = norm.training or norm.running_mean is None
        else:
            found = False if isinstance(norm, nn.Identity) else None
        return None if found and self.pointwise.bias is not None else found

    def merged(self) -> tuple[Float[Tensor, "outputs inputs"], Tensor | None]:
        """Return weight and bias of pointwise convolution and norm in one."""
        norm, bias = self.norm, self.pointwise.bias
        if isinstance(norm, nn.Identity):
            return self.weight, bias
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        mean = norm.running_mean if bias is None else norm.running_mean - bias
        return self.weight * scale.unsqueeze(1), norm.bias - mean * scale

    def observe(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics of a batch norm as torch does."""
        norm = self.norm
        if not norm.training or norm.running_mean is None:
            return
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = norm.num_batches_tracked.to(norm.running_mean).reciprocal()
        with torch.no_grad():
            unbiased = variance.flatten() * (count / (count - 1))
            norm.running_mean.lerp_(mean.flatten().to(norm.running_mean), momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)


def _round(layers: Any) -> Round:
    """Return the parts of a projection or of a separable convolution; both begin with a ReLU."""
    parts = list(layers)
    return Round(parts[1] if len(parts) == 4 else None, parts[-2], parts[-1])


def _may_be_fast(skip: Image, up: Image) -> bool:
    """Return whether a CPU computes with these images now, in one precision."""
    return (
        skip.device.type == "cpu"
        and skip.dtype == up.dtype
        and skip.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and skip.shape[2:].numel() > 1
    )


def _have_one_mode(rounds: Collection[Round], image: Image) -> bool:
    """Return whether the weights fit an image, and all norms can be merged in the same way."""
    modes = {found.takes_statistics for found in rounds}
    fit = all(found.pointwise.weight.dtype == image.dtype for found in rounds)
    return fit and len(modes) == 1 and None not in modes


class _Evaluation:
    """One forward pass of a discrete cell."""

    def __init__(self, cell: DiscreteCell, rounds: dict[str, Round], like: Image) -> None:
        self.cell = cell
        self.rounds = rounds
        self.shape = like.shape
        norm = rounds["projection 0"].norm
        self.takes_statistics = rounds["projection 0"].takes_statistics
        self.over_batch = isinstance(norm, _BatchNorm)
        self.is_one_image = (
            isinstance(norm, _InstanceNorm) and like.shape[0] == 1 and not torch.is_grad_enabled()
        )
        self.nodes: list[Samples] = []
        self.cache: dict[tuple[str, int], Image] = {}

    def output(self, skip: Image, up: Image, gate: Tensor | None) -> Image:
        """Return the cell's output, gated and added to the skip tensor if there is a gate."""
        cell = self.cell
        self.nodes = [self._projected(index, x) for index, x in enumerate((skip, up))]
        for node in INTERMEDIATE_NODES:
            self.nodes.append(self._node(node))
        weight, bias = cell.output.weight.flatten(1), cell.output.bias
        total = None
        if gate is not None:
            weight, bias, total = gate * weight, gate * bias, skip.flatten(2)
        nodes = [x.view(len(skip), -1, x.shape[2]) for x in self.nodes[-cell.shape.output_nodes :]]
        return Joined.apply(total, bias, weight, *nodes).view(self.shape)

    def _projected(self, index: int, x: Image) -> Samples:
        """Return node 0 or 1."""
        found = self.rounds[f"projection {index}"]
        rectified = functional.relu(x).flatten(2).mT
        if self.is_one_image:
            return self._normalised(torch.mm(rectified[0], found.weight.mT), found.norm)
        weight, bias = (found.weight, None) if self.takes_statistics else found.merged()
        product = torch.bmm(rectified, weight.mT.expand(len(x), -1, -1))
        product = joined_samples(product, self.over_batch)
        if not self.takes_statistics:
            return product if bias is None else product + bias
        norm = found.norm
        result, mean, variance = Normalised.apply(product, norm.weight, norm.bias, norm.eps)
        if self.over_batch:
            found.observe(mean, variance, product.shape[1])
        return result

    def _node(self, node: int) -> Samples:
        """Return the sum of the edges into an intermediate node."""
        plain, products = [], []
        for edge, operation in self.cell.genotype.operations.items():
            if edge.target != node:
                continue
            if operation == "identity":
                plain.append(self.nodes[edge.source])
            elif operation in ("max_pool_3x3", "avg_pool_3x3"):
                plain.append(samples_of(self._pooled(operation, edge), self.over_batch))
            else:
                first = self.rounds[f"{edge.name} 0"]
                source = self._source(edge.source)
                x = self._convolved(first, source, self._rectified(edge.source))
                if operation.startswith("sep_conv"):
                    second = self.rounds[f"{edge.name} 1"]
                    between = image_of(self._summed([(x, first)], None), self.shape)
                    with torch.no_grad():  # The convolution applies the gradient of the ReLU.
                        between.relu_()
                    x, first = self._convolved(second, between, between), second
                products.append((x, first))
        if not products:
            return reduce(add, plain)
        return self._summed(products, reduce(add, plain) if plain else None)

    def _summed(self, products: Sequence[tuple[Samples, Round]], total: Samples | None) -> Samples:
        """Return `total` plus pointwise convolution and norm of every term."""
        if self.is_one_image:
            terms = [self._normalised(torch.mm(x[0], r.weight.mT), r.norm) for x, r in products]
            return reduce(add, terms) if total is None else reduce(add, terms, total)
        if self.takes_statistics:
            operands = [(x, r.weight, r.norm.weight, r.norm.bias) for x, r in products]
            eps = products[0][1].norm.eps
            result, *statistics = NormalisedProducts.apply(eps, total, *sum(operands, ()))
            if self.over_batch:
                for (x, found), mean, variance in zip(
                    products, statistics[::2], statistics[1::2], strict=True
                ):
                    found.observe(mean, variance, x.shape[1])
            return result
        for x, found in products:
            weight, bias = found.merged()
            result = functional.linear(x, weight, bias)
            total = result if total is None else total + result
        assert total is not None
        return total

    def _normalised(self, x: Float[Tensor, "_ _"], norm: Any) -> Samples:
        """Return the instance norm of one image: torch's batch norm of it, which is faster."""
        image, scale, shift = x.view(1, *self.shape[2:], -1).movedim(-1, 1), norm.weight, norm.bias
        found = torch.batch_norm(image, scale, shift, None, None, True, 0.0, norm.eps, False)
        return samples_of(found, self.over_batch)

    def _source(self, node: int) -> Image:
        return image_of(self.nodes[node], self.shape)

    def _rectified(self, source: int) -> Image:
        key = "rectified", source
        if key not in self.cache:
            with torch.no_grad():
                self.cache[key] = functional.relu(self._source(source))
        return self.cache[key]

    def _pooled(self, operation: str, edge: Any) -> Image:
        key = operation, edge.source
        if key not in self.cache:
            x, module = self._source(edge.source), self.cell.operations(edge)[operation]
            if operation == "avg_pool_3x3":
                pool: Any = module
                ones = x.new_ones(x.shape[1], 1, *pool.sides)
                self.cache[key] = depthwise(x, ones, (1,) * len(pool.sides)) / count_neighbours(
                    pool.sides, x
                )
            else:
                self.cache[key] = module(x)
        return self.cache[key]

    def _convolved(self, found: Round, x: Image, rectified: Image) -> Samples:
        layer = found.depthwise
        result = rectified_depthwise(x, rectified, layer.weight, layer.dilation)
        return samples_of(result, self.over_batch)


def count_neighbours(sides: tuple[int, ...], image: Image) -> Tensor:
    """Return the number of neighbours inside an image, for kernels of one or three voxels."""
    count = image.new_ones(())
    for side, voxels in zip(sides, image.shape[2:], strict=True):
        along = image.new_full((voxels,), side)
        if side == 3:
            along[0] -= 1
            along[-1] -= 1
        count = count.unsqueeze(-1) * along
    return count
