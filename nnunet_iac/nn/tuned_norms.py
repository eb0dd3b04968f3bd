"""Trainable scales and shifts on a frozen decoder's norms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class TunedNorm(nn.Module):
    """A scale and a shift per channel, which begin as 1 and 0.

    After a norm's own gamma and beta it gives (scale gamma) x + (scale beta + shift): the same
    functions as a tuned gamma and beta, while the norm's own tensors stay as they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return a norm's output, scaled and shifted; called as the norm's forward hook."""
        shape = (1, -1, *(1 for _ in output.shape[2:]))
        scale, shift = (own.to(output.dtype).view(shape) for own in (self.scale, self.shift))
        return output * scale + shift


def norms_of(decoder: Any) -> list[_NormBase]:
    """Return the instance and batch norms of a decoder."""
    # Not among the decoder's own modules, since the encoder is one of them.
    return [module for module in decoder.stages.modules() if isinstance(module, _NormBase)]


def require_untuned(decoder: Any) -> None:
    """Check that no earlier retrofit of the same U-Net has hooked a `TunedNorm` to its norms."""
    hooks = (hook for norm in norms_of(decoder) for hook in norm._forward_hooks.values())
    if any(isinstance(hook, TunedNorm) for hook in hooks):
        raise ValueError(
            "a U-Net must not be part of a retrofit with tuned norms already, which would change "
            "this one's outputs; build it anew and load its weights"
        )


def tune_norms(decoder: Any) -> nn.ModuleList:
    """Hook a `TunedNorm` to every norm of a decoder, and return them."""
    tuned = nn.ModuleList(TunedNorm(norm.num_features) for norm in norms_of(decoder))
    hook_tuned_norms(decoder, tuned)
    return tuned


def hook_tuned_norms(decoder: Any, tuned: nn.ModuleList) -> None:
    """Hook the scales and shifts of `tune_norms` to the norms that have lost theirs.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` puts norms without hooks in the place of batch
    norms: one for every name of a norm, with the same tensors.
    """
    same: dict[int, list[_NormBase]] = {}
    for _, norm in decoder.stages.named_modules(remove_duplicate=False):
        if isinstance(norm, _NormBase):
            shared = next((t for t in (norm.weight, norm.running_mean) if t is not None), norm)
            same.setdefault(id(shared), []).append(norm)
    for hook, norms in zip(tuned, same.values(), strict=True):
        for norm in norms:
            if hook not in norm._forward_hooks.values():
                norm.register_forward_hook(hook)
