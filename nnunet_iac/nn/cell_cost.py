"""What cells cost: their parameters and multiply-accumulates, counted without running them."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_iac.nn.cell import Cell, CellShape
from nnunet_iac.nn.layers import Layers
from nnunet_iac.nn.operations import build_operation
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import OPERATIONS

_NO_MEMORY = torch.device("meta")


@torch.no_grad()
def multiply_accumulates(module: nn.Module, *inputs: Tensor) -> int:
    """Return the multiply-accumulates of one forward pass in evaluation mode.

    torch counts two floating-point operations per multiply-accumulate of a convolution or matrix
    product; norms, pooling by torch and activations are not counted.
    """
    was_training = module.training
    module.eval()
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    module.train(was_training)
    return counter.get_total_flops() // 2


@torch.no_grad()
def cell_costs(
    unet: Any, settings: Settings, input_channels: int, patch_size: Sequence[int]
) -> CellCosts:
    """Return what discrete cells cost in every skip of a U-Net, for one patch.

    Counted on shapes alone: nothing is computed, and memory does not grow with the patch.

    Args:
        unet: a network the surgery supports, or one with implants, which are left out of account;
            deep supervision counts as it is set.
        settings: the structural ones decide the cells.
        input_channels: of the images.
        patch_size: in voxels, one number per axis.

    Raises:
        ValueError: as `Layers.norm` for a norm that cells cannot have.
    """
    backbone = _without_values(nn.Sequential(unet.encoder, unet.decoder)).eval()
    patch = torch.zeros(1, input_channels, *patch_size, device=_NO_MEMORY)
    levels = Layers.of_levels(unet.encoder, settings.norm)[::-1]
    fixed: list[Cost] = []
    operations: dict[str, list[Cost]] = {name: [] for name in OPERATIONS}
    for skip, layers in zip(backbone[0](patch)[:-1], levels, strict=True):
        shape = CellShape.of_level(skip.shape[1], settings)
        with _NO_MEMORY:
            cell = Cell(shape, layers, {}, shape.channels, affine=True, pool_norm=False)
            for name in OPERATIONS:
                operation = build_operation(
                    name, shape.channels, layers, affine=True, pool_norm=False
                )
                operations[name].append(_cost(operation, shape.channels, skip))
        fixed += [_cost(projection, shape.skip_channels, skip) for projection in cell.projections]
        fixed.append(_cost(cell.output, shape.output_nodes * shape.channels, skip))
        if settings.residual == "zero":
            fixed.append(Cost(parameters=1, macs=0))
    return CellCosts(
        _cost(backbone, input_channels, patch),
        _total(fixed),
        {name: _total(costs) for name, costs in operations.items()},
    )


def _without_values(module: nn.Module) -> Any:
    """Return a copy of a module whose tensors have shapes but no values."""
    replaced: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(_NO_MEMORY))
        for parameter in module.parameters()
    }
    replaced |= {id(buffer): buffer.to(_NO_MEMORY) for buffer in module.buffers()}
    return copy.deepcopy(module, replaced)


def _cost(module: nn.Module, channels: int, like: Tensor) -> Cost:
    """Return the cost of a module that gets so many channels at the resolution of a tensor."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    image = torch.zeros(1, channels, *like.shape[2:], device=_NO_MEMORY)
    return Cost(parameters, multiply_accumulates(module, image))


def _total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost(0, 0))
