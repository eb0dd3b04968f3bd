"""The memory that a device has free, within the limits of a container."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

SYSTEM = Path("/")


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
