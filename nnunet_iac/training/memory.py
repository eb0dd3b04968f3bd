"""Whether a run fits in memory, asked before it starts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nnunet_iac.nn.memory import StepMemory, step_memory
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.search.settings import Settings

GIGABYTE = 1e9
MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)
"""Limit and use of memory in a container, of either version."""
SMALLEST_RATIO = 1 / 64


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a device has left for a run, or None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not MEMINFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    if "MemAvailable" not in lines:
        return None
    known = [int(lines["MemAvailable"].split()[0]) * 1024]
    # A container may have less than its host.
    for limit, used in CGROUPS:
        if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
            known.append(int(text) - int(used.read_text()))
    return max(0, min(known))


def fitted(
    network: RetrofittedUNet,
    batch: Sequence[int],
    device: torch.device,
    resized: Callable[[Settings], RetrofittedUNet],
) -> str:
    """Let a network recompute its implants if it fits no other way; return what was found.

    Args:
        network: that is going to be trained.
        batch: shape of the images, (batch, channels, *spatial).
        device: where.
        resized: makes the network of other settings.

    Raises:
        RuntimeError: it does not fit even so; the message names cells that would.
    """
    free = free_memory(device)
    needed = _step_memory(network, batch, device)
    if free is None:
        return f"Memory: a training step needs about {_text(needed.kept)}"
    if not network.recomputes and needed.kept <= free:
        return f"Memory: a training step needs about {_text(needed.kept)} of {_text(free)} free"
    if needed.recomputed <= free:
        said = "as the settings ask" if network.recomputes else "since it would not fit otherwise"
        network.recomputes = True
        return (
            f"Memory: a training step needs about {_text(needed.recomputed)} of {_text(free)} free "
            f"with its cells' activations recomputed, {said}"
        )
    raise RuntimeError(
        f"a training step must fit in memory; it needs about {_text(needed.recomputed)}, with its "
        f"cells' activations recomputed, and {_text(free)} are free on {device}: "
        f"{_cure(network.settings, batch, device, free, resized)}"
    )


def _cure(
    settings: Settings,
    batch: Sequence[int],
    device: torch.device,
    free: int,
    resized: Callable[[Settings], RetrofittedUNet],
) -> str:
    """Return what would fit: smaller cells if any do, else a smaller batch or patch."""
    ratio = settings.channel_ratio / 2
    while ratio >= SMALLEST_RATIO and settings.implant == "cell":
        smaller = replace(settings, channel_ratio=ratio, min_channels=settings.partial_channels)
        if _step_memory(resized(smaller), batch, device).recomputed <= free:
            return (
                f"plan smaller cells, for example --set channel_ratio={ratio:g} "
                f"min_channels={smaller.min_channels}"
            )
        ratio /= 2
    return "free memory, or use plans with a smaller batch or patch"


def _step_memory(
    network: RetrofittedUNet, batch: Sequence[int], device: torch.device
) -> StepMemory:
    return step_memory(network, batch, mixed_precision=device.type == "cuda")


def _text(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"
