"""Lottery tickets: the full-width tensors that search cells and discrete cells start from."""

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor

from nnunet_iac.nn.retrofitted_unet import IMPLANT_PREFIX, RetrofittedUNet


def draw_ticket(network: RetrofittedUNet, seed: int) -> dict[str, Tensor]:
    """Return the initial full-width tensors of every (level, edge, operation), on the CPU.

    Keys are those of the network's state dict. Convolutions are drawn as nnU-Net draws them (He,
    slope 0.01); the global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed reseeds GPUs as well.
        implants = network.new_implants()
        implants.apply(InitWeights_He(1e-2))
    return {
        f"{IMPLANT_PREFIX}{name}": p.detach().clone() for name, p in implants.named_parameters()
    }


@torch.no_grad()
def load_ticket(network: RetrofittedUNet, ticket: dict[str, Tensor]) -> None:
    """Start the cells from the ticket: each parameter takes the leading slice of its tensor.

    A search cell's operations are C/K wide and take a true slice, a discrete cell's all of it.
    """
    for name, parameter in network.implants.named_parameters():
        corner = tuple(slice(size) for size in parameter.shape)
        parameter.copy_(ticket[f"{IMPLANT_PREFIX}{name}"][corner])
