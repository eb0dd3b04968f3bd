"""Compilation of the discrete cells, alone, where `compile_cells` asks for it."""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo

from nnunet_iac.search.setting_parts import Optimisation

VERSIONS = 64
"""Compiled versions of the cells' one forward function: one per level, in training and evaluation.

With fewer allowed torch would run the cells of further levels uncompiled.
"""


def compiles_cells(settings: Optimisation, device: torch.device) -> bool:
    """Return whether discrete cells are compiled on a device."""
    return settings.compile_cells and device.type == "cuda"


def compile_cells(network: Any, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every discrete cell of a network by itself, in place: state-dict keys stay.

    A cell is compiled when it is first run.
    """
    limit = torch._dynamo.config.cache_size_limit
    torch._dynamo.config.cache_size_limit = max(VERSIONS, limit)
    for cell in network.cells():
        cell.compile(backend=backend, dynamic=False)


def require_compiler(device: torch.device) -> None:
    """Check that torch can compile for a device, by compiling a sum."""
    try:
        torch.compile(torch.add)(torch.ones(1, device=device), 1)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"compile_cells needs a torch that can compile for {device}; compiling a sum failed "
            f"({reason}): install what is missing, or leave compile_cells out"
        ) from error
