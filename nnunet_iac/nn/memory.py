"""The memory of a training step, estimated from shapes before anything is allocated."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_iac.nn.cell_cost import copy_with
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet

TRANSIENT = 1.6
"""Peak over what autograd keeps: gradients, copies, workspaces and fragments come on top."""
OVERHEAD = 160 * 2**20
"""Bytes that torch takes for itself in the first steps (measurements: docs/beyond.md)."""
OUTSIDE = -1


@dataclass(frozen=True)
class StepMemory:
    """Bytes that one training step needs at its peak.

    Args:
        fixed: parameters, buffers, their gradients and the optimisers' averages.
        outside: activations kept for the backward pass outside of the implants.
        levels: those kept inside each implant, the lowest resolution first.
        inputs: what goes into the implants and is not kept outside of them.
    """

    fixed: int
    outside: int
    levels: tuple[int, ...]
    inputs: int

    @property
    def kept(self) -> int:
        """The peak with all activations kept."""
        return self._peak(sum(self.levels))

    @property
    def checkpointed(self) -> int:
        """The peak with activation checkpointing of the implants, one at a time."""
        return min(self.kept, self._peak(self.inputs + max(self.levels, default=0)))

    def _peak(self, inside: int) -> int:
        return OVERHEAD + self.fixed + int(TRANSIENT * (self.outside + inside))


def step_memory(
    network: RetrofittedUNet, batch: Sequence[int], mixed_precision: bool = False
) -> StepMemory:
    """Return what a training step on a batch of images needs.

    A copy of the network that keeps all activations runs once on tensors with a shape and no data;
    what autograd keeps is counted, every storage once.

    Args:
        network: as it is going to be trained.
        batch: shape of the images, (batch, channels, *spatial).
        mixed_precision: whether activations take half as much, as nnU-Net has them on CUDA.
    """
    fixed = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    # The gradient, and Adam's two averages.
    fixed += 3 * sum(p.nbytes for p in network.parameters() if p.requires_grad)
    with FakeTensorMode() as mode:
        shadow = copy_with(network, lambda x: torch.empty(x.shape, dtype=x.dtype))
    shadow.activation_checkpointing = False
    seen = {_storage(tensor) for tensor in (*shadow.parameters(), *shadow.buffers())}
    counts: Counter[int] = Counter()
    outside: set[int] = set()
    inputs: dict[int, int] = {}
    held: list[Tensor] = []  # So that no other storage takes the place of one that was counted.
    with mode, _by_level(shadow, inputs, held) as level:

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in seen:
                seen.add(_storage(tensor))
                held.append(tensor)
                counts[level()] += tensor.untyped_storage().nbytes()
                if level() == OUTSIDE:
                    outside.add(_storage(tensor))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            shadow(torch.empty(*batch))
    share = 2 if mixed_precision else 1
    levels = tuple(size // share for key, size in sorted(counts.items()) if key != OUTSIDE)
    further = sum(size for storage, size in inputs.items() if storage not in outside)
    return StepMemory(fixed, counts[OUTSIDE] // share, levels, further // share)


@contextmanager
def _by_level(
    network: RetrofittedUNet, inputs: dict[int, int], held: list[Tensor]
) -> Iterator[Callable[[], int]]:
    """Return a context that yields the current level and records the inputs of every implant."""
    inside = [OUTSIDE]
    handles = []

    def enter(index: int, tensors: tuple[Any, ...]) -> None:
        inside.append(index)
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                held.append(tensor)
                inputs[_storage(tensor)] = tensor.untyped_storage().nbytes()

    def leave(*_: object) -> None:
        inside.pop()

    for index, implant in enumerate(network.implants):
        handles.append(implant.register_forward_pre_hook(lambda _, x, i=index: enter(i, x)))
        handles.append(implant.register_forward_hook(leave))
    try:
        yield lambda: inside[-1]
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
