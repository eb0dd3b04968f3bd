"""How a run was made: its peak memory, hardware, versions and commit."""

import os
import platform
import resource
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_iac.runs.records import CostRecord

CODE = ("nnunet_iac", "trainers")
"""The folders of a checkout that decide what a run does."""
DIRTY = "-dirty"
PACKAGES = ("nnunetv2", "dynamic-network-architectures", "batchgeneratorsv2", "torch", "numpy")


def peak_memory_bytes() -> int:
    """Return the most memory used so far: of the GPU where that was used, else of the process."""
    if torch.cuda.is_initialized() and (peak := torch.cuda.max_memory_allocated()):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def provenance() -> CostRecord:
    """Return a record of hardware, versions and commit, with nothing spent yet."""
    return CostRecord(
        hardware={
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "threads": torch.get_num_threads(),
            # Not merely available: a forked process cannot ask for the name.
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        },
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in ("nnunet-iac", *PACKAGES)},
        },
        commit=_commit(),
    )


def circumstances() -> dict[str, Any]:
    """Return date, commit, hardware and versions of something measured now, for a result file.

    And how threads wait: `passive` ones sleep, `active` ones spin, by default a while.
    """
    now, known = provenance(), ("commit", "hardware", "versions")
    found = {key: getattr(now, key) for key in known}
    waiting = os.environ.get("OMP_WAIT_POLICY", "default").lower()
    return {"date": date.today().isoformat(), "waiting": waiting, **found}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of a checkout, `-dirty` where its code differs; None if installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        differs = _git(root, "status", "--porcelain", "--", *CODE)
        return _git(root, "rev-parse", "HEAD") + (DIRTY if differs else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
