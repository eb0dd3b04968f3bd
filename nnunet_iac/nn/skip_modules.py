"""The skip modules that a searched cell is compared with, by name."""

from torch import nn

from nnunet_iac.nn.attention_gate import AttentionGate
from nnunet_iac.nn.layers import Layers
from nnunet_iac.nn.residual_attention import ResidualAttention

SKIP_MODULES = ("attention", "nested", "residual-attention")
"""All names; nested skips span the levels, the others are one module (skip, up) -> skip each."""


def build_skip_module(name: str, skip_channels: int, layers: Layers) -> nn.Module:
    """Return the module of one level, for any name but `nested`."""
    if name == "attention":
        return AttentionGate(skip_channels, layers)
    assert name == "residual-attention", f"{name} is no module of one level"
    return ResidualAttention(skip_channels, layers)


def require_skip_module(name: str) -> None:
    """Check that a name is known.

    Raises:
        ValueError: it is not one of `SKIP_MODULES`.
    """
    if name not in SKIP_MODULES:
        raise ValueError(f"skip must be one of {', '.join(SKIP_MODULES)}; got {name!r}")
