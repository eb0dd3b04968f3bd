"""Parameters, multiply-accumulates and memory, counted without allocating or running anything."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_iac.nn.cell import Cell, CellShape, Layers
from nnunet_iac.nn.discrete_cell import DiscreteCell, edge_by_edge
from nnunet_iac.nn.retrofitted_unet import IACUNet, RetrofittedUNet
from nnunet_iac.search.controls import uniform_genotype
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge

CPU, _NO_MEMORY = torch.device("cpu"), torch.device("meta")


@torch.no_grad()
def multiply_accumulates(module: nn.Module, *inputs: Tensor) -> int:
    """Return the multiply-accumulates of one forward pass in evaluation mode.

    torch counts two floating-point operations per multiply-accumulate of a convolution or matrix
    product; norms, pooling by torch and activations are not counted.
    """
    was_training = module.training
    module.eval()
    with edge_by_edge(module), FlopCounterMode(display=False) as counter:
        module(*inputs)
    module.train(was_training)
    return counter.get_total_flops() // 2


@torch.no_grad()
def cell_costs(network: IACUNet, input_channels: int, patch_size: Sequence[int]) -> CellCosts:
    """Return the costs of discrete cells in every skip of a retrofit, for one patch in voxels.

    Counted on shapes alone: nothing is computed, and memory does not grow with the patch. The
    costs are those of the backbone, with deep supervision as it is set, and of discrete cells with
    the retrofit's sizes, norm and gates; its own cells may be of any kind.
    """
    stock = nn.Sequential(network.encoder, network.decoder)
    backbone = copy_with(stock, lambda tensor: tensor.to(_NO_MEMORY)).eval()
    for module in backbone.modules():
        module._forward_hooks.clear()  # Tuned norms, which are none of the backbone's.
    patch = torch.zeros(1, input_channels, *patch_size, device=_NO_MEMORY)
    levels = list(network.levels())[::-1]
    fixed, operations = Cost(0, 0), dict.fromkeys(OPERATIONS, Cost(0, 0))
    for skip, (shape, layers) in zip(backbone[0](patch)[:-1], levels, strict=True):
        with _NO_MEMORY:
            cell = Cell(shape, layers, {EDGES[0]: OPERATIONS})
            for name, operation in cell.operations(EDGES[0]).items():
                operations[name] += network_cost(operation, shape.channels, skip.shape[2:])
        for projection in cell.projections:
            fixed += network_cost(projection, shape.skip_channels, skip.shape[2:])
        fixed += network_cost(cell.output, shape.output_nodes * shape.channels, skip.shape[2:])
        if network.residual == "zero":
            fixed += Cost(parameters=1, macs=0)
    return CellCosts(network_cost(backbone, input_channels, patch.shape[2:]), fixed, operations)


def cell_parameters(shape: CellShape, layers: Layers, genotype: Genotype) -> int:
    """Return the number of parameters of the discrete cell of a genotype."""
    with _NO_MEMORY:
        cell = DiscreteCell(shape, layers, genotype)
    return sum(parameter.numel() for parameter in cell.parameters())


def mean_parameters(shape: CellShape, layers: Layers) -> int:
    """Return the expected number of parameters of a discrete cell drawn uniformly, rounded.

    Every operation is equally likely on every kept edge, and what an edge adds does not depend on
    which edge it is: so this is the mean over the cells that have one operation on all edges.
    """
    genotypes = map(uniform_genotype, OPERATIONS)
    return round(fmean(cell_parameters(shape, layers, genotype) for genotype in genotypes))


def copy_with(module: nn.Module, replacement: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a module with other parameters and buffers, whose values are not copied."""
    replaced: dict[int, Any] = {
        id(p): nn.Parameter(replacement(p), p.requires_grad) for p in module.parameters()
    }
    replaced |= {id(buffer): replacement(buffer) for buffer in module.buffers()}
    return copy.deepcopy(module, replaced)


def network_cost(
    network: nn.Module, channels: int, size: Sequence[int], device: torch.device = _NO_MEMORY
) -> Cost:
    """Return parameters and MACs of one image of `channels` x `size`, all outputs included."""
    image = torch.zeros(1, channels, *size, device=device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, multiply_accumulates(network, image))


TRANSIENT = 1.6
"""Peak over what autograd keeps: gradients, copies, workspaces and fragments come on top."""
OVERHEAD = 160 * 2**20
"""Bytes that torch takes for itself in the first steps (docs/evidence/performance.md)."""
OUTSIDE = -1
LARGEST_CELL = Genotype(
    tuple(
        Choice(Edge(source, node), "sep_conv_5x5")
        for node in INTERMEDIATE_NODES
        for source in (node - 2, node - 1)
    )
)
"""The cell that keeps most: every edge has two rounds of convolutions, and five nodes feed them."""


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

    def or_more(self, other: "StepMemory") -> "StepMemory":
        """Return enough for the steps of both, of networks with the same levels."""
        levels = tuple(map(max, self.levels, other.levels))
        fixed, outside = max(self.fixed, other.fixed), max(self.outside, other.outside)
        return StepMemory(fixed, outside, levels, max(self.inputs, other.inputs))

    def _peak(self, inside: int) -> int:
        return OVERHEAD + self.fixed + int(TRANSIENT * (self.outside + inside))


def run_memory(
    network: RetrofittedUNet, batch: Sequence[int], device: torch.device = CPU
) -> StepMemory:
    """Return what the training steps of a run need: `step_memory`, and the finetuning's too.

    Of a network that has yet to be searched, the finetuning is that of the cell with most
    activations, whose nodes all have two separable convolutions out of the two nodes before.
    """
    needed = step_memory(network, batch, device)
    if isinstance(network, IACUNet) and network.genotype is None:
        found = copy_with(network, lambda tensor: tensor.to(_NO_MEMORY))
        with _NO_MEMORY:
            found.discretise(LARGEST_CELL)
        found.unfreeze()
        needed = needed.or_more(step_memory(found, batch, device))
    return needed


def step_memory(
    network: RetrofittedUNet, batch: Sequence[int], device: torch.device = CPU
) -> StepMemory:
    """Return what a training step on a batch of shape (batch, channels, *spatial) needs.

    A copy of the network that keeps all activations runs once on tensors with a shape and no data;
    what autograd keeps is counted, every storage once. The network may be anywhere; on `device`
    the step will run. On CUDA activations take half as much, as nnU-Net has them there.
    """
    fixed = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    # The gradient, and Adam's two averages.
    fixed += 3 * sum(p.nbytes for p in network.parameters() if p.requires_grad)
    with FakeTensorMode() as mode:
        shadow = copy_with(network, lambda x: torch.empty(x.shape, dtype=x.dtype))
    shadow.activation_checkpointing = False
    tensors = (*shadow.parameters(), *shadow.buffers())
    seen: dict[int, int | None] = {_storage(tensor): None for tensor in tensors}
    counts: Counter[int] = Counter()
    inputs: dict[int, int] = {}
    held: list[Tensor] = []  # So that no other storage takes the place of one that was counted.
    plain = nullcontext() if device.type == "cpu" else edge_by_edge(shadow)  # As it is there.
    with mode, plain, _by_level(shadow, inputs, held) as level:

        def keep(tensor: Tensor) -> Tensor:
            if (storage := _storage(tensor)) not in seen:
                seen[storage] = level()
                held.append(tensor)
                counts[level()] += tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            shadow(torch.empty(*batch))
    share = 2 if device.type == "cuda" else 1
    levels = tuple(counts[index] // share for index in range(len(network.implants)))
    further = sum(size for storage, size in inputs.items() if seen.get(storage) != OUTSIDE)
    return StepMemory(fixed, counts[OUTSIDE] // share, levels, further // share)


@contextmanager
def _by_level(
    network: RetrofittedUNet, inputs: dict[int, int], held: list[Tensor]
) -> Iterator[Callable[[], int]]:
    """Return a context that yields the current level and records the inputs of every implant."""
    inside = [OUTSIDE]

    def enter(index: int, tensors: tuple[Any, ...]) -> None:
        inside.append(index)
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                held.append(tensor)
                inputs[_storage(tensor)] = tensor.untyped_storage().nbytes()

    def leave(*_: object) -> None:
        inside.pop()

    with ExitStack() as hooks:
        for index, implant in enumerate(network.implants):
            entered = implant.register_forward_pre_hook(lambda _, x, i=index: enter(i, x))
            hooks.enter_context(entered)
            hooks.enter_context(implant.register_forward_hook(leave))
        yield lambda: inside[-1]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
