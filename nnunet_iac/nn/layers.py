"""The layers a cell is built from, in the dimension and with the norm of its host network."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nnunet_iac.search.settings import Settings


@dataclass(frozen=True)
class Layers:
    """Layer constructors for 2-D or 3-D cells.

    Args:
        dimension: 2 or 3.
        norm_op: a norm taking (channels, **kwargs).
        norm_kwargs: its keywords; `affine` is decided per layer.
    """

    dimension: int
    norm_op: type[nn.Module]
    norm_kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_encoder(cls, encoder: Any, settings: Settings) -> "Layers":
        """Return the layers that match an encoder of dynamic_network_architectures.

        Raises:
            ValueError: the network has no norm and the settings take it from the plans.
        """
        dimension = 3 if encoder.conv_op is nn.Conv3d else 2
        if settings.norm == "batch":
            return cls(dimension, getattr(nn, f"BatchNorm{dimension}d"))
        if encoder.norm_op is None:
            raise ValueError(
                "a cell needs a norm and the plans' network has norm_op = None; set norm=batch"
            )
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
        pool = getattr(nn, f"AvgPool{self.dimension}d")
        return pool(3, stride=1, padding=1, count_include_pad=False)

    def norm(self, channels: int, affine: bool) -> nn.Module:
        """Return the norm, with learned scale and shift where `affine`."""
        return self.norm_op(channels, **{**self.norm_kwargs, "affine": affine})
