"""The search cell: all active operations of all edges, evaluated together.

`PlainSearchCell` writes the same cell edge by edge. Here few large calls do the work:

- All outgoing edges of a node are evaluated at once. Pooling happens once for all of them, and
  since nothing lies between a depthwise and a pointwise convolution, a first round of all edges
  is one ordinary convolution with the products of their weights.
- Everything but the operations is linear: bypass, identity, shuffle, Psi and the output. So nodes
  are never built. A `basis`, the two inputs and what the operations add to each node, is
  multiplied by small matrices that hold all of it.
- Norm, phi, Psi and the sums into the nodes are one product (`normalised_sum`).

The channels of an image lie innermost in memory throughout. No norm here has scale, shift or
running statistics.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nnunet_iac.nn.cell import Cell, CellShape, Image, Layers, Node
from nnunet_iac.nn.samples import Samples, image_of, joined_samples, samples_of
from nnunet_iac.search.relaxation import Active, Matrix, PerEdge
from nnunet_iac.search.space import (
    EDGES,
    IDENTITY,
    INTERMEDIATE_NODES,
    OPERATIONS,
    Edge,
    edges_into,
)


def normalised(x: Samples, eps: float, rectify: bool = False) -> Samples:
    """Return (x - mean) / sqrt(variance + eps), and of that the positive part if `rectify`."""
    with torch.autocast(x.device.type, enabled=False):
        return _Normalised.apply(x, eps, rectify)


def normalised_sum(
    terms: Sequence[Tensor],
    weight: Float[Tensor, "features outputs"],
    total: Float[Tensor, "samples voxels outputs"],
    eps: float,
) -> Float[Tensor, "samples voxels outputs"]:
    """Return `total + normalised(cat(terms), eps) @ weight`; nothing normalised is ever held.

    The terms are (samples, voxels, some of the features) each. Once its statistics are known the
    norm is linear, so it merges with the product that follows: x @ (w / deviation) -
    mean @ (w / deviation), with a weight of each sample's own. Backward, the gradient for x is one
    product and one scaled copy of x.
    """
    with torch.autocast(total.device.type, enabled=False):
        return _NormalisedSum.apply(eps, weight, total, *terms)


def _mean(x: Samples) -> Float[Tensor, "samples 1 features"]:
    return x.mean(1, keepdim=True, dtype=_exact(x))


def _scale(centred: Samples, eps: float) -> Float[Tensor, "samples 1 features"]:
    """Return 1 / sqrt(variance + eps); uncentred values would cancel, squares in half overflow."""
    return _mean(centred.to(_exact(centred)).square()).add_(eps).rsqrt_()


def _exact(x: Tensor) -> torch.dtype:
    """Return the type for statistics: float32, or that of `x` if it has more digits."""
    return torch.promote_types(x.dtype, torch.float32)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, rectify: bool) -> Tensor:
        result = x - _mean(x).to(x.dtype)
        scale = _scale(result, eps)
        result.mul_(scale)
        ctx.save_for_backward(result, scale)
        ctx.rectify = rectify
        return result.relu() if rectify else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        result, scale = ctx.saved_tensors
        if ctx.rectify:
            grad = grad * (result > 0)
        offset, slope = _mean(grad), _mean(grad * result)
        # scale * (grad - offset - result * slope)
        gradient = torch.addcmul(-offset * scale, result, slope * scale, value=-1)
        return gradient.addcmul_(grad, scale).to(result.dtype), None, None


class _NormalisedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, weight: Tensor, total: Tensor, *terms: Tensor) -> Tensor:
        centred = torch.cat(terms, dim=2)
        centred.sub_(_mean(centred))
        scale = _scale(centred, eps)
        ctx.save_for_backward(centred, scale, weight)
        ctx.sizes = [term.shape[2] for term in terms]
        return torch.baddbmm(total, centred, (scale.mT * weight).to(total.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, scale, weight = ctx.saved_tensors
        grad = grad.contiguous()
        # Of each sample: normalised(x)^T grad.
        products = scale.mT * torch.bmm(centred.mT, grad)
        scaled = weight.mT * scale
        offset = _mean(grad) @ scaled
        slope = (products.mT * scaled).sum(1, keepdim=True) * scale / grad.shape[1]
        scaled = scaled.to(grad.dtype)
        parts = zip(*(t.split(ctx.sizes, 2) for t in (centred, offset, slope, scaled)), strict=True)
        gradients = [
            torch.addcmul(-offset, x, slope, value=-1).to(x.dtype).baddbmm_(grad, scaled)
            for x, offset, slope, scaled in parts
        ]
        return None, products.sum(0).to(weight.dtype), grad, *gradients


SOURCES = range(INTERMEDIATE_NODES[-1])
POOLS = ("max_pool_3x3", "avg_pool_3x3")
LARGEST_PRODUCT = 32
"""Channels up to which the product of depthwise and pointwise weights pays (measured)."""


class Term(NamedTuple):
    """One operation on edges that leave the same node; those of a pool share one result."""

    operation: str
    edges: list[int]

    @property
    def rows(self) -> list[list[int]]:
        """The edges that every result of the term goes to."""
        return [self.edges] if self.operation in POOLS else [[edge] for edge in self.edges]


class SearchCell(Cell):
    """The relaxed cell: every edge is the phi-weighted sum of its active operations.

    Operations see the first C/K channels; the rest bypass them, and a channel shuffle with K
    groups follows (PC-DARTS, Xu et al. 2020). Norms take the statistics of the batch at hand, in
    evaluation too: running ones would describe a cell that has since lost operations.

    It maps the encoder's skip tensor and the decoder's upsampled tensor, (batch, C_skip, *spatial)
    each, to a tensor of that shape, as a replacement for the skip tensor:

        cell = SearchCell(CellShape.of_level(64), Layers(2, nn.InstanceNorm2d))
        phi = operation_weights(alpha, active)  # (14, 7), softmax over the active operations
        psi = edge_weights(beta)  # (14,), over the edges into each node
        replacement = cell(skip, up, phi, psi)  # (batch, 64, height, width)

    Rows and entries are in the order of `search.space.EDGES` and `OPERATIONS`.

    Args:
        shape: the cell's channels (`CellShape.of_level`).
        layers: constructors with the dimension and the norm of the U-Net around it.

    Raises:
        ValueError: a norm that is neither instance nor batch norm.
    """

    placing: Float[Tensor, "coefficients places"]

    def __init__(self, shape: CellShape, layers: Layers) -> None:
        super().__init__(shape, layers, dict.fromkeys(EDGES, OPERATIONS), searching=True)
        self.eps = layers.eps
        self.over_batch = layers.over_batch
        self._arrange()

    def prune(self, active: Active) -> None:
        """Delete the operations that `active` no longer holds, with their weights."""
        for edge, row in zip(EDGES, active.tolist(), strict=True):
            operations = self.operations(edge)
            for name, is_active in zip(OPERATIONS, row, strict=True):
                if not is_active and name in operations:
                    del operations[name]
        self._arrange()

    def forward(self, skip: Image, up: Image, phi: Matrix, psi: PerEdge) -> Image:
        """Return the skip tensor's replacement, of the same shape; v_j = sum_i Psi_ij f_ij(v_i).

        Args:
            skip: of the encoder.
            up: of the decoder, upsampled to the skip's resolution.
            phi: weights of the operations; a pruned one has none.
            psi: weights of the edges.
        """
        inputs = self._inputs(skip, up)
        coefficients = phi * psi.unsqueeze(1)
        nodes = self._nodes(coefficients[:, IDENTITY], psi).to(inputs.dtype)
        weights = self._weights(coefficients)

        seen = nodes[:-1, :, : self.width]
        of_inputs, of_mixed = seen.tensor_split([inputs.shape[2]], dim=1)
        xs = torch.matmul(inputs, of_inputs.movedim(0, 1).flatten(1)).split(self.width, dim=2)
        mixed = inputs.new_zeros(*inputs.shape[:2], of_mixed.shape[1])
        for source, x in zip(SOURCES, xs, strict=True):
            if source in INTERMEDIATE_NODES:
                x = x + torch.matmul(mixed, of_mixed[source])
            if terms := list(self._terms(source, x.contiguous(), skip.shape)):
                mixed = normalised_sum(terms, weights[source], mixed, self.eps)
        return self._output(torch.cat((inputs, mixed), dim=2), nodes, skip.shape)

    def _arrange(self) -> None:
        """List the terms of every source and the places of their coefficients in the weights."""
        self.terms: list[list[Term]] = []
        for source in SOURCES:
            leaving = [i for i, edge in enumerate(EDGES) if edge.source == source]
            having = {
                name: [i for i in leaving if name in self.operations(EDGES[i])]
                for name in OPERATIONS
                if name != "identity"
            }
            self.terms.append([Term(name, edges) for name, edges in having.items() if edges])
        rows = [
            [(edge, term.operation) for edge in edges]
            for term in chain.from_iterable(self.terms)
            for edges in term.rows
        ]
        # nnU-Net's predictor prunes in inference mode, whose tensors could not be trained with.
        with torch.inference_mode(False):
            placing = torch.zeros(len(EDGES), len(OPERATIONS), len(rows), len(INTERMEDIATE_NODES))
            for row, entries in enumerate(rows):
                for edge, name in entries:
                    target = INTERMEDIATE_NODES.index(EDGES[edge].target)
                    placing[edge, OPERATIONS.index(name), row, target] = 1
            placing = placing.flatten(2).flatten(0, 1)
            placing = placing.to(self.output.weight.device, self.output.weight.dtype)
        self.register_buffer("placing", placing, persistent=False)

    def _inputs(self, skip: Image, up: Image) -> Samples:
        """Return nodes 0 and 1, one after the other."""
        rectified = functional.relu(torch.cat((skip, up), dim=1)).flatten(2)
        weight = torch.block_diag(*[project[1].weight.flatten(1) for project in self.projections])
        projected = torch.bmm(weight.expand(len(skip), -1, -1), rectified).mT.contiguous()
        return normalised(joined_samples(projected, self.over_batch), self.eps)

    def _nodes(self, identity: PerEdge, psi: PerEdge) -> Float[Tensor, "nodes basis channels"]:
        """Return the matrices by which the basis gives every node.

        The basis is nodes 0 and 1 and what the operations add to each intermediate node.
        """
        channels, width = self.shape.channels, self.width
        basis = 2 * channels + len(INTERMEDIATE_NODES) * width
        unit = torch.eye(basis, dtype=psi.dtype, device=psi.device)
        nodes = unit[:, : 2 * channels].unflatten(1, (2, channels)).movedim(1, 0)
        added = functional.pad(
            unit[:, 2 * channels :].unflatten(1, (-1, width)), (0, channels - width)
        )
        around = psi.unsqueeze(1).expand(-1, channels - width)
        scales = torch.cat((identity.unsqueeze(1).expand(-1, width), around), 1).unsqueeze(1)
        for place, node in enumerate(INTERMEDIATE_NODES):
            into = edges_into(node)
            passed = (scales[into[0] : into[-1] + 1] * nodes).sum(0)
            grouped = (passed + added[:, place]).unflatten(1, (-1, width))  # the K groups
            nodes = torch.cat((nodes, grouped.mT.flatten(1).unsqueeze(0)))
        return nodes

    def _weights(self, coefficients: Matrix) -> Sequence[Tensor]:
        """Return for every source the matrix (channels of its terms, those of all targets)."""
        placed = (coefficients.flatten() @ self.placing).view(-1, 1, len(INTERMEDIATE_NODES), 1)
        unit = torch.eye(self.width, dtype=placed.dtype, device=placed.device)
        weights = (placed * unit.unsqueeze(1)).flatten(2).flatten(0, 1)
        return weights.split([sum(len(t.rows) for t in ts) * self.width for ts in self.terms])

    def _terms(self, source: int, x: Samples, shape: torch.Size) -> Iterator[Samples]:
        """Yield what each operation gives on all edges that leave a node, before its norm."""
        image, over = image_of(x, shape), self.over_batch
        rectified = functional.relu(image)
        for name, edges in self.terms[source]:
            modules: list[Any] = [self.operations(EDGES[edge])[name] for edge in edges]
            if name in POOLS:
                # Autocast on the CPU pools volumes in float32.
                yield samples_of(modules[0][0](image), over).to(x.dtype)
            elif isinstance(modules[0][0], nn.Sequential):
                first = self._first_round([module[0] for module in modules], rectified)
                between = normalised(samples_of(first, over), self.eps, rectify=True)
                second = [module[1] for module in modules]
                yield samples_of(self._second_round(second, image_of(between, shape)), over)
            else:
                yield samples_of(self._first_round(modules, rectified), over)

    def _first_round(self, rounds: Sequence[Any], rectified: Image) -> Tensor:
        """Return the convolutions of several edges that see the same image."""
        if self.width > LARGEST_PRODUCT:
            return self._second_round(rounds, torch.cat([rectified] * len(rounds), dim=1))
        depthwise = torch.stack([r[1].weight for r in rounds])
        pointwise = torch.stack([r[2].weight for r in rounds])
        both = pointwise.flatten(2).unsqueeze(3) * depthwise.flatten(2).unsqueeze(1)
        weight = both.flatten(0, 1).unflatten(2, depthwise.shape[3:])
        return _convolved(rectified, weight, rounds[0][1], groups=1)

    def _second_round(self, rounds: Sequence[Any], rectified: Image) -> Tensor:
        """Return the convolutions of several edges that see an image each."""
        depthwise = torch.cat([r[1].weight for r in rounds])
        pointwise = torch.cat([r[2].weight for r in rounds])
        x = _convolved(rectified, depthwise, rounds[0][1], groups=len(depthwise))
        return _convolved(x, pointwise, rounds[0][2], groups=len(rounds))

    def _output(
        self, basis: Samples, nodes: Float[Tensor, "nodes basis channels"], shape: torch.Size
    ) -> Tensor:
        """Return the last R nodes, concatenated and projected to C_skip."""
        last = nodes[-self.shape.output_nodes :].movedim(0, 1).flatten(1)
        weight = last @ self.output.weight.flatten(1).mT.to(last.dtype)
        return image_of(torch.matmul(basis, weight).add_(self.output.bias), shape)


def _convolved(x: Tensor, weight: Tensor, like: Any, groups: int) -> Tensor:
    """Return the convolution of `x`, padded and dilated as the layer `like`."""
    convolution = functional.conv2d if x.ndim == 4 else functional.conv3d
    return convolution(x, weight, padding=like.padding, dilation=like.dilation, groups=groups)


class PlainSearchCell(SearchCell):
    """The search cell edge by edge: its reference, and its baseline in time.

    v_j = sum_i Psi_ij f_ij(v_i); f mixes the operations on the first C/K channels.
    """

    def forward(self, skip: Image, up: Image, phi: Matrix, psi: PerEdge) -> Image:
        """Return the skip tensor's replacement."""
        nodes = self.inputs(skip, up)
        for node in INTERMEDIATE_NODES:
            terms = (
                psi[index] * self._mixed_edge(edge, nodes[edge.source], phi[index])
                for index, edge in enumerate(EDGES)
                if edge.target == node
            )
            nodes.append(reduce(add, terms))
        return self.joined(nodes)

    def _mixed_edge(self, edge: Edge, x: Node, phi: Float[Tensor, " operations"]) -> Node:
        first, rest = x[:, : self.width], x[:, self.width :]
        terms = (
            phi[OPERATIONS.index(name)] * operation(first)
            for name, operation in self.operations(edge).items()
        )
        mixed = torch.cat((reduce(add, terms), rest), dim=1)
        return channel_shuffle(mixed, self.shape.partial_channels)


def channel_shuffle(x: Node, groups: int) -> Node:
    """Return `x` with its channels interleaved over `groups` (ShuffleNet, Zhang et al. 2018)."""
    batch, channels, *spatial = x.shape
    grouped = x.view(batch, groups, channels // groups, *spatial)
    return grouped.transpose(1, 2).reshape(x.shape)
