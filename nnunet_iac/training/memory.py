"""The memory that a device has free, and whether a training step fits in it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from nnunet_iac.nn.cost import run_memory
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.search.setting_parts import CellConfig

SYSTEM = Path("/")

GIGABYTE = 1e9
SMALLEST_RATIO = 1 / 64


@dataclass(frozen=True)
class CgroupFiles:
    """The files in which Linux reports the memory of a control group, such as a container.

    Args:
        root: folder of the uppermost group.
        limit: file in a group's folder; an enormous number, or `max`, where there is none.
        used: file with the bytes in use, those that hold files for another reading included.
        cached: line of memory.stat with those of them that are given back before anything else.
    """

    root: str
    limit: str
    used: str
    cached: str


CGROUPS = {
    "memory": CgroupFiles(
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
    "": CgroupFiles("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}
"""By the controller that /proc/self/cgroup names: version 1, and version 2, which names none."""


def free_memory(device: torch.device, system: Path = SYSTEM) -> int | None:
    """Return the bytes that a device has left for a run, or None if that is not known.

    `system` is the folder with `proc` and `sys`, for the CPU.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = system / "proc/meminfo"
    if device.type != "cpu" or not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    if "MemAvailable" not in lines:
        return None
    available = int(lines["MemAvailable"].split()[0]) * 1024
    # A container may have less than its host.
    return max(0, min([available, *_left_in_cgroups(system)]))


def _left_in_cgroups(system: Path) -> Iterator[int]:
    """Yield what the limits of this process's control groups, and of those above, leave."""
    own = system / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, place = line.split(":", 2)
        files = CGROUPS.get("memory" if "memory" in controllers.split(",") else controllers)
        if files is None:
            continue
        group = PurePosixPath(place.lstrip("/"))
        for path in (group, *group.parents):
            left = _left_in_cgroup(system / files.root / path, files)
            if left is not None:
                yield left


def _left_in_cgroup(folder: Path, files: CgroupFiles) -> int | None:
    """Return what a group's limit leaves; None without one, or where the group is not to be seen.

    The cache of files that nnU-Net has read counts as used, but is freed on demand, so it is
    subtracted, as in the working set of Kubernetes.
    """
    limit, used, stat = (folder / name for name in (files.limit, files.used, "memory.stat"))
    if not (limit.is_file() and used.is_file() and stat.is_file()):
        return None
    if (text := limit.read_text().strip()) == "max":
        return None
    numbers = dict(line.split() for line in stat.read_text().splitlines())
    return int(text) - max(0, int(used.read_text()) - int(numbers.get(files.cached, 0)))


def enable_checkpointing_if_needed(
    network: RetrofittedUNet,
    batch: Sequence[int],
    device: torch.device,
    cell: CellConfig,
    resized: Callable[[CellConfig], RetrofittedUNet],
) -> str:
    """Turn on activation checkpointing if a training step does not fit without; return a log line.

    `batch` is the shape of the images, (batch, channels, *spatial); `resized` makes the network of
    other cells, for the error that names cells which would fit.
    """
    free = free_memory(device)
    needed = run_memory(network, batch, device)
    if free is None:
        return f"Memory: a training step needs about {_text(needed.kept)}"
    if not network.activation_checkpointing and needed.kept <= free:
        return f"Memory: a training step needs about {_text(needed.kept)} of {_text(free)} free"
    if needed.checkpointed <= free:
        asked = network.activation_checkpointing
        why = "as the settings ask" if asked else "since it would not fit otherwise"
        network.activation_checkpointing = True
        return (
            f"Memory: a training step needs about {_text(needed.checkpointed)} of {_text(free)} "
            f"free with activation checkpointing, {why}"
        )
    raise RuntimeError(
        f"a training step must fit in memory; it needs about {_text(needed.checkpointed)}, with "
        f"activation checkpointing, and {_text(free)} are free on {device}: "
        f"{_cure(cell, batch, device, free, resized)}"
    )


def _cure(
    cell: CellConfig,
    batch: Sequence[int],
    device: torch.device,
    free: int,
    resized: Callable[[CellConfig], RetrofittedUNet],
) -> str:
    """Return what would fit: smaller cells if any do, else a smaller batch or patch."""
    ratio = cell.channel_ratio / 2
    while ratio >= SMALLEST_RATIO and cell.implant == "cell":
        smaller = replace(cell, channel_ratio=ratio, min_channels=cell.partial_channels)
        if run_memory(resized(smaller), batch, device).checkpointed <= free:
            return (
                f"plan smaller cells, for example --set channel_ratio={ratio:g} "
                f"min_channels={smaller.min_channels}"
            )
        ratio /= 2
    return "free memory, or use plans with a smaller batch or patch"


def _text(size: int) -> str:
    return f"{size / GIGABYTE:.1f} GB"
