"""The memory of a training step, reckoned from shapes before anything is allocated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet

TRANSIENT = 1.25
"""What gradients and workspaces of the moment take on top (measured, tests/nn/test_memory.py)."""
OUTSIDE = -1


@dataclass(frozen=True)
class StepMemory:
    """Bytes that one training step needs at its peak.

    Args:
        fixed: parameters, buffers, their gradients and the optimisers' averages.
        outside: activations kept for the backward pass outside of the implants.
        levels: those kept inside each implant, the lowest resolution first.
    """

    fixed: int
    outside: int
    levels: tuple[int, ...]

    @property
    def kept(self) -> int:
        """The peak with all activations kept."""
        return self.fixed + int(TRANSIENT * (self.outside + sum(self.levels)))

    @property
    def recomputed(self) -> int:
        """The peak where the implants' activations are computed again backward, one by one."""
        return self.fixed + int(TRANSIENT * (self.outside + max(self.levels, default=0)))


def step_memory(
    network: RetrofittedUNet, batch: Sequence[int], mixed_precision: bool = False
) -> StepMemory:
    """Return what a training step on a batch of images needs.

    The network runs once on tensors that have a shape and no data; what autograd keeps is counted,
    every storage once.

    Args:
        network: as it is going to be trained; nothing of it changes.
        batch: shape of the images, (batch, channels, *spatial).
        mixed_precision: whether activations are halves, as nnU-Net has them on CUDA.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    learning = [p for p in network.parameters() if p.requires_grad]
    own = sum(_bytes(tensor) for tensor in tensors.values())
    # The gradient, and Adam's two averages.
    fixed = own + 3 * sum(_bytes(parameter) for parameter in learning)
    counts: dict[int, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, _by_level(network) as level:
        given = {
            name: fake.from_tensor(tensor.detach().cpu()).requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
        }
        seen = {_storage(tensor) for tensor in given.values()}
        held: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in seen:
                seen.add(_storage(tensor))
                held.append(tensor)  # So that no other storage takes its place.
                size = tensor.untyped_storage().nbytes()
                counts[level()] = counts.get(level(), 0) + size
            return tensor

        precision = torch.autocast("cpu", torch.bfloat16) if mixed_precision else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), precision:
            functional_call(network, given, (torch.zeros(*batch),))
    levels = sorted(key for key in counts if key != OUTSIDE)
    return StepMemory(fixed, counts.get(OUTSIDE, 0), tuple(counts[key] for key in levels))


@contextmanager
def _by_level(network: RetrofittedUNet) -> Iterator[Callable[[], int]]:
    """Return a context that tells in which implant a network is, and recomputes none."""
    inside = [OUTSIDE]
    handles = []

    def leave(*_: object) -> None:
        inside.pop()

    for index, implant in enumerate(network.implants):
        handles.append(implant.register_forward_pre_hook(lambda *_, i=index: inside.append(i)))
        handles.append(implant.register_forward_hook(leave))
    recomputes, network.recomputes = network.recomputes, False
    try:
        yield lambda: inside[-1]
    finally:
        network.recomputes = recomputes
        for handle in handles:
            handle.remove()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
