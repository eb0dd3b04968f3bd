"""What both cells share, and the discrete cell, which runs a genotype."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nnunet_iac.nn.layers import Layers, build_operation
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES, Edge

Image = Float[Tensor, "batch channels *spatial"]
Node = Float[Tensor, "batch width *spatial"]


@dataclass(frozen=True)
class CellShape:
    """The sizes of the cell at one skip level.

    Args:
        skip_channels: channels of the skip tensor and of the upsampled tensor.
        channels: C, the channels of every node.
        partial_channels: K; the search runs its operations on C/K channels.
        output_nodes: R; the last R of the four nodes are concatenated into the output.

    Raises:
        ValueError: C is no positive multiple of K, or R is not from 1 to 4.
    """

    skip_channels: int
    channels: int
    partial_channels: int
    output_nodes: int

    def __post_init__(self) -> None:
        divisor, channels = self.partial_channels, self.channels
        if divisor < 1 or channels < 1 or channels % divisor:
            raise ValueError(
                "channels of a cell must be a positive multiple of partial_channels; got "
                f"channels={channels}, partial_channels={divisor}"
            )
        if not 1 <= self.output_nodes <= len(INTERMEDIATE_NODES):
            raise ValueError(f"output_nodes must be 1, 2, 3 or 4; got {self.output_nodes}")

    @classmethod
    def of_level(
        cls,
        skip_channels: int,
        *,
        channel_ratio: float = 0.25,
        min_channels: int = 16,
        partial_channels: int = 4,
        output_nodes: int = 4,
    ) -> "CellShape":
        """Return the shape with C = max(min_channels, ratio C_skip), rounded up to K's multiple."""
        wanted = max(min_channels, channel_ratio * skip_channels)
        channels = math.ceil(wanted / partial_channels) * partial_channels
        return cls(skip_channels, channels, partial_channels, output_nodes)


class Cell(nn.Module):
    """What both cells share: two projections, operations on edges, and the output convolution.

    A parameter has the same name in either cell, so the tensors of one can start the other. While
    searching, operations work on C/K channels and norms learn nothing; see `build_operation`.
    """

    projections: Any
    output: Any

    def __init__(
        self,
        shape: CellShape,
        layers: Layers,
        operations: Mapping[Edge, Iterable[str]],
        searching: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.width = shape.channels // shape.partial_channels if searching else shape.channels
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                layers.conv(shape.skip_channels, shape.channels, bias=False),
                layers.norm(shape.channels, affine=not searching),
            )
            for _ in range(2)
        )
        self.edges = nn.ModuleDict(
            {
                edge.name: nn.ModuleDict(
                    {name: build_operation(name, self.width, layers, searching) for name in names}
                )
                for edge, names in operations.items()
            }
        )
        self.output = layers.conv(shape.output_nodes * shape.channels, shape.skip_channels)

    def operations(self, edge: Edge) -> nn.ModuleDict:
        """Return the operations of an edge by name."""
        return cast(nn.ModuleDict, self.edges[edge.name])

    def inputs(self, skip: Image, up: Image) -> list[Node]:
        """Return nodes 0 and 1: both tensors projected to C channels."""
        return [project(x) for project, x in zip(self.projections, (skip, up), strict=True)]

    def joined(self, nodes: list[Node]) -> Image:
        """Return the cell's output: the last R nodes, concatenated and projected to C_skip."""
        return self.output(torch.cat(nodes[-self.shape.output_nodes :], dim=1))


class DiscreteCell(Cell):
    """The cell of a genotype: a node is the plain sum of its two edges, on all C channels.

    It maps the encoder's skip tensor and the decoder's upsampled tensor, (batch, C_skip, *spatial)
    each, to a tensor of that shape, as a replacement for the skip tensor:

        cell = DiscreteCell(CellShape.of_level(64), Layers(2, nn.InstanceNorm2d), genotype)
        replacement = cell(skip, up)  # (batch, 64, height, width)

    Args:
        shape: the cell's channels (`CellShape.of_level`).
        layers: constructors with the dimension and the norm of the U-Net around it.
        genotype: two edges into each of the four nodes, with one operation each.

    Raises:
        ValueError: a norm that is neither instance nor batch norm.
    """

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


def _channels_last(x: Node) -> Node:
    """Return `x` with its channels innermost in memory, where depthwise convolutions are fast."""
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=layout)


class ReZero(nn.Module):
    """skip + gate x module(skip, up), with the scalar gate starting at zero (ReZero).

    Bachlechner et al. 2020 (arXiv 2003.04887). At the start it is the identity skip, bit for bit.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, skip: Image, up: Image, *mixing: Tensor) -> Image:
        """Return the gated sum."""
        return skip + self.gate * self.cell(skip, up, *mixing)
