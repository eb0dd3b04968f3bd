"""The exponential moving average of the weights that a finetuning trains."""

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages the trained weights over the steps of a finetuning, and swaps both.

    After step n, with the decay d, the average of the weights w_1, ..., w_n is

        a_n = (1 - d) / (1 - d^n) * sum_i d^(n - i) w_i,

    Polyak averaging (Polyak and Juditsky 1992, eq. 2) with exponential weights and the bias
    correction of Adam (Kingma and Ba 2015, section 3), so initial weights have no part in it,
    unless the scaler of mixed precision leaves out the first steps. It is computed as
    a_n = a_(n-1) + (1 - d) / (1 - d^n) * (w_n - a_(n-1)).

    Averaged are all parameters that have gradients, and the running statistics of their modules.

    Args:
        decay: d in [0, 1); with 0 there is no average, and no method does anything.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._of_network: dict[str, Tensor] = {}
        self._other: dict[str, Tensor] = {}
        """The average or, while the network has that, the trained weights."""
        self._in_use = False

    @torch.no_grad()
    def track(self, network: nn.Module) -> None:
        """Average the weights that learn in a network; what has been averaged is kept."""
        if self.decay:
            self._of_network = _learning_tensors(network)
        if not (self.steps or self._in_use):
            self._other = {name: tensor.clone() for name, tensor in self._of_network.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's weights into the average, after a training step."""
        if not self._of_network:
            return
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        torch._foreach_lerp_([*self._other.values()], [*self._of_network.values()], share)

    def use_average(self) -> None:
        """Put the average into the network; the trained weights are kept."""
        self._swap(to_average=True)

    def use_trained(self) -> None:
        """Put the trained weights back into the network."""
        self._swap(to_average=False)

    @torch.no_grad()
    def _swap(self, to_average: bool) -> None:
        if not self._of_network or self._in_use is to_average:
            return
        self._in_use = to_average
        for tensor, other in zip(self._of_network.values(), self._other.values(), strict=True):
            kept = tensor.clone()
            tensor.copy_(other)
            other.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the network's weights, which are the average.

        Nothing where there is no average.
        """
        if not self._of_network:
            return {}
        assert self._in_use or not self.steps
        return {"weight_average": {"steps": self.steps, "trained": dict(self._other)}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, once a network with the average is tracked."""
        if "weight_average" not in state:
            return
        known = state["weight_average"]
        self.steps, self._in_use = known["steps"], True
        for name, tensor in self._other.items():
            tensor.copy_(known["trained"][name])


def _learning_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that have gradients, and their modules' buffers of floats, by name.

    Each once: modules may share them, as norms do that were converted for several GPUs.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        buffers = module.named_buffers(recurse=False) if own else ()
        own |= {n: buffer for n, buffer in buffers if buffer.is_floating_point()}
        own = {n: tensor for n, tensor in own.items() if id(tensor) not in seen}
        seen |= {*map(id, own.values())}
        found |= {f"{prefix}.{name}" if prefix else name: tensor for name, tensor in own.items()}
    return found
