"""The layers a cell is built from, in the dimension and with the norm of its host network."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_iac.search.settings import Norm


@dataclass(frozen=True)
class Layers:
    """Layer constructors for 2-D or 3-D cells.

    Args:
        dimension: 2 or 3.
        norm_op: an instance or batch norm; another one, or None, until a norm is asked for.
        norm_kwargs: its keywords; `affine` is decided per layer.
    """

    dimension: int
    norm_op: type[nn.Module] | None
    norm_kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_encoder(cls, encoder: Any, norm: Norm = "plans") -> "Layers":
        """Return the layers that match an encoder of dynamic_network_architectures."""
        dimension = 3 if encoder.conv_op is nn.Conv3d else 2
        if norm == "batch":
            return cls(dimension, getattr(nn, f"BatchNorm{dimension}d"))
        return cls(dimension, encoder.norm_op, dict(encoder.norm_op_kwargs or {}))

    def conv(self, inputs: int, outputs: int, kernel: int = 1, **keywords: Any) -> nn.Module:
        """Return a stride-1 convolution that keeps the spatial shape."""
        dilation = keywords.get("dilation", 1)
        convolution = getattr(nn, f"Conv{self.dimension}d")
        return convolution(inputs, outputs, kernel, padding=dilation * (kernel // 2), **keywords)

    def max_pool(self) -> nn.Module:
        """Return a stride-1 3x3 maximum."""
        return getattr(nn, f"MaxPool{self.dimension}d")(3, stride=1, padding=1)

    def avg_pool(self) -> nn.Module:
        """Return a stride-1 3x3 mean that does not count the border's padding."""
        return AveragePool(self.dimension)

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
        """What the norms add to the variance."""
        norm: Any = self.norm(1, affine=False)
        return norm.eps

    @property
    def over_batch(self) -> bool:
        """Whether the norms' statistics are those of the whole batch, not of each image."""
        return self.norm_op is not None and issubclass(self.norm_op, _BatchNorm)


class AveragePool(nn.Module):
    """The mean of the neighbours inside the image, as a convolution: torch's pooling is slower.

    Args:
        dimension: 2 or 3; the neighbourhood is three voxels wide.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.convolution = functional.conv2d if dimension == 2 else functional.conv3d

    def forward(
        self, x: Float[Tensor, "batch channels *spatial"]
    ) -> Float[Tensor, "batch channels *spatial"]:
        """Return the sum of the neighbours divided by their number."""
        kernel = x.new_ones(x.shape[1], 1, *[3] * (x.ndim - 2))
        count = self.convolution(x.new_ones(1, 1, *x.shape[2:]), kernel[:1], padding=1)
        return self.convolution(x, kernel, padding=1, groups=x.shape[1]) / count
