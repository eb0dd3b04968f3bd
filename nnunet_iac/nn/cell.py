"""Layers, candidate operations, and what the search cell and the discrete cell share."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_iac.search.space import INTERMEDIATE_NODES, Edge

Image = Float[Tensor, "batch channels *spatial"]
Node = Float[Tensor, "batch width *spatial"]


@dataclass(frozen=True)
class Layers:
    """Layer constructors for 2-D or 3-D cells.

    Args:
        dimension: 2 or 3.
        norm_op: an instance or batch norm; with another one, or None, `norm` raises.
        norm_kwargs: its keywords; `affine` is decided per layer.
        flat: axes along which the host's kernels are one voxel wide, and so are these; nnU-Net
            plans such kernels where voxels are long.
    """

    dimension: int
    norm_op: type[nn.Module] | None
    norm_kwargs: dict[str, Any] = field(default_factory=dict)
    flat: tuple[int, ...] = ()

    @classmethod
    def of_levels(cls, encoder: Any, norm: str = "plans") -> "list[Layers]":
        """Return the layers that match an encoder's skip connections, the lowest resolution first.

        Args:
            encoder: of dynamic_network_architectures, or one with its attributes.
            norm: `plans` for the encoder's own, or `batch`.
        """
        dimension = 3 if encoder.conv_op is nn.Conv3d else 2
        norm_op, kwargs = encoder.norm_op, dict(encoder.norm_op_kwargs or {})
        if norm == "batch":
            norm_op, kwargs = getattr(nn, f"BatchNorm{dimension}d"), {}
        stages = getattr(encoder, "kernel_sizes", [3] * len(encoder.output_channels))
        kernels = [[k] * dimension if isinstance(k, int) else k for k in stages]
        flat = [tuple(axis for axis, side in enumerate(k) if side == 1) for k in kernels]
        return [cls(dimension, norm_op, kwargs, axes) for axes in flat[-2::-1]]

    def sides(self, kernel: int) -> tuple[int, ...]:
        """Return the sides of a kernel, flat where the host's are."""
        return tuple(1 if axis in self.flat else kernel for axis in range(self.dimension))

    def conv(self, inputs: int, outputs: int, kernel: int = 1, **keywords: Any) -> nn.Module:
        """Return a stride-1 convolution that keeps the spatial shape."""
        dilation, sides = keywords.get("dilation", 1), self.sides(kernel)
        padding = tuple(dilation * (side // 2) for side in sides)
        convolution = getattr(nn, f"Conv{self.dimension}d")
        return convolution(inputs, outputs, sides, padding=padding, **keywords)

    def max_pool(self) -> nn.Module:
        """Return a stride-1 3x3 maximum."""
        sides = self.sides(3)
        padding = tuple(side // 2 for side in sides)
        return getattr(nn, f"MaxPool{self.dimension}d")(sides, stride=1, padding=padding)

    def avg_pool(self) -> nn.Module:
        """Return a stride-1 3x3 mean that does not count the border's padding."""
        return AveragePool(self.sides(3))

    def norm(self, channels: int, affine: bool) -> nn.Module:
        """Return the norm; where not `affine`, as while searching, it has no state at all.

        Raises:
            ValueError: it is the plans', whose network has none or another than instance or batch
                norm.
        """
        if self.norm_op is None or not issubclass(self.norm_op, (_BatchNorm, _InstanceNorm)):
            raise ValueError(
                "what is put into skips needs instance or batch norm; the plans' network has "
                f"norm_op = {getattr(self.norm_op, '__name__', None)}: use plans with one of "
                "them, or, for a retrofit, set norm=batch"
            )
        stateless = {} if affine else {"track_running_stats": False}
        return self.norm_op(channels, **{**self.norm_kwargs, "affine": affine, **stateless})

    @property
    def eps(self) -> float:
        """The number that the norms add to the variance."""
        norm: Any = self.norm(1, affine=False)
        return norm.eps

    @property
    def over_batch(self) -> bool:
        """Whether the norms' statistics are those of the whole batch, not of each image."""
        return self.norm_op is not None and issubclass(self.norm_op, _BatchNorm)


class AveragePool(nn.Module):
    """The mean of the neighbours inside the image, as a convolution: torch's pooling is slower."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.padding = tuple(side // 2 for side in sides)
        self.convolution = functional.conv2d if len(sides) == 2 else functional.conv3d

    def forward(self, x: Image) -> Image:
        """Return the sum of the neighbours divided by their number."""
        kernel = x.new_ones(x.shape[1], 1, *self.sides)
        ones = x.new_ones(1, 1, *x.shape[2:])
        count = self.convolution(ones, kernel[:1], padding=self.padding)
        return self.convolution(x, kernel, padding=self.padding, groups=x.shape[1]) / count


def build_operation(name: str, channels: int, layers: Layers, searching: bool) -> nn.Module:
    """Return the candidate operation called `name` (paper; DARTS, Liu et al. 2019).

    While searching, norms learn no scale and shift, and one follows pooling.
    """
    if name == "identity":
        return nn.Identity()
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        pool = layers.max_pool() if name == "max_pool_3x3" else layers.avg_pool()
        return nn.Sequential(pool, layers.norm(channels, affine=False)) if searching else pool
    kernel, affine = int(name[-1]), not searching
    if name.startswith("sep_conv"):
        rounds = (separable_conv(channels, kernel, 1, layers, affine) for _ in range(2))
        return nn.Sequential(*rounds)
    return separable_conv(channels, kernel, 2, layers, affine)


def separable_conv(
    channels: int, kernel: int, dilation: int, layers: Layers, affine: bool
) -> nn.Sequential:
    """Return one round of ReLU, depthwise convolution, pointwise convolution and norm."""
    return nn.Sequential(
        nn.ReLU(),
        layers.conv(channels, channels, kernel, dilation=dilation, groups=channels, bias=False),
        layers.conv(channels, channels, bias=False),
        layers.norm(channels, affine),
    )


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
    """Parts of both cells: two projections, operations on edges, and the output convolution.

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
        if getattr(self.cell, "takes_gate", False):
            return self.cell(skip, up, *mixing, gate=self.gate)
        return skip + self.gate * self.cell(skip, up, *mixing)
