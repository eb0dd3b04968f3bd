"""One run on several devices: every rank holds the same network and takes the same decisions.

`torch.nn.parallel.DistributedDataParallel` notes when it is made which parameters have gradients,
and waits for each of them in every step. So a network is wrapped again whenever its parameters, or
which of them learn, have changed.
"""

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.nn.tuned_norms import hook_tuned_norms


def unwrap_ddp(network: nn.Module) -> Any:
    """Return the network inside its wrapper, or the network itself where it has none."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def wrapped(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network wrapped for the running process group.

    On CUDA its batch norms take their statistics over all ranks, as nnU-Net's do, but for those of
    search cells, which take them per rank; the wrapper gives all ranks the first one's tensors.
    """
    gc.collect()  # An earlier wrapper must be gone, or its hooks would wait for gradients too.
    if device.type != "cuda":
        return DistributedDataParallel(network)
    # No broadcast of buffers, which are the same: a rank without validation cases would miss it.
    network, own = synchronised(network), [device.index]
    return DistributedDataParallel(network, device_ids=own, broadcast_buffers=False)


def synchronised(network: nn.Module) -> nn.Module:
    """Return a network whose batch norms take their statistics over all ranks, on CUDA."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, RetrofittedUNet) and network.tuned_norms:
        hook_tuned_norms(network.decoder, network.tuned_norms)
    return network


def freeze_unused_heads(network: Any) -> None:
    """Freeze all heads but that of the full resolution: without deep supervision no other is run.

    The wrapper would wait for their gradients in every step.
    """
    for head in network.decoder.seg_layers[:-1]:
        head.requires_grad_(False)


def rank() -> int:
    """Return the number of this process among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def freeze_unused_nodes(network: Any) -> None:
    """Freeze what no output of a discrete cell depends on, for the same reason."""
    for cell in network.cells():
        for parameter in cell.unused_parameters():
            parameter.requires_grad_(False)


def on_any_rank(value: bool) -> bool:
    """Return whether something holds on any rank."""
    if not dist.is_initialized():
        return value
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return any(found)


def broadcast_from_rank0(value: Any) -> Any:
    """Return the first rank's value on every rank; without a process group the value itself."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def require_same_on_all_ranks(*tensors: Tensor) -> None:
    """Check that the ranks hold bit-identical tensors; without a process group there is one."""
    if not dist.is_initialized():
        return
    own = [tensor.detach().cpu() for tensor in tensors]
    firsts = broadcast_from_rank0(own)
    if not all(torch.equal(a, b) for a, b in zip(own, firsts, strict=True)):
        raise RuntimeError(
            "alpha and beta must be bit-identical on all ranks; rank "
            f"{dist.get_rank()} differs from rank 0: report this with your torch version"
        )
