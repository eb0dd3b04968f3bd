"""Measure on a GPU machine, the most important part first, each into a JSON file of its own.

    python docs/evidence/gpu/visit.py --device cuda --to docs/evidence/gpu

`setup_scripts/gpu.sh` makes the environment for it. Rows that a file has already are not measured
again, unless commit, machine or versions have changed. With `--device cpu --quick` all parts run on
tiny networks, without limits of time.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nnunet_iac.host.devices import require_device
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.training.provenance import circumstances

LIMITS = {
    "training": 150,
    "forward": 60,
    "speed": 110,
    "memory": 60,
    "profile": 40,
    "variants": 120,
}
"""Parts in their order, and the seconds after which each is stopped on a GPU."""

MINUTES = 8.0
"""Length of the whole visit, the making of the environment included."""

LONGEST_ERROR = 2000
"""Characters of an error that its row keeps."""

SAME = ("commit", "hardware", "versions", "device", "quick")
"""Entries that rows in one file share."""

Rows = Mapping[str, Callable[[], Mapping[str, Any]]]
"""Measurements of a part by name; each is one row of its file."""


@dataclass(frozen=True)
class Visit:
    """Arguments of a part: the device, and whether only tiny networks are to run."""

    device: str
    quick: bool


def main() -> int:
    """Measure all parts, or the named one; return 1 if any of them is not complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--quick", action="store_true", help="tiny networks, to see that everything runs")
    add("--to", type=Path, required=True, help="folder of the JSON files")
    add("--commit", help="of the code, where there is no git to ask")
    add("--minutes", type=float, default=MINUTES, help=f"left for all parts (default: {MINUTES})")
    add("--part", choices=LIMITS, help="only this one, without a time limit")
    given = parser.parse_args()
    try:
        require_device(given.device)
    except RuntimeError as error:
        parser.error(str(error))
    visit = Visit(given.device, given.quick)
    if given.part is not None:
        return measure(given.part, visit, given.to / f"{given.part}.json", given.commit)
    end, complete = time.monotonic() + 60 * given.minutes, True
    for name, limit in LIMITS.items():
        left = max(0.0, end - time.monotonic())
        seconds = min(limit, left) if visit.device == "cuda" else None
        print(f"== {name}", "" if seconds is None else f"at most {seconds:.0f} s", flush=True)
        stopped = stopped_after([*sys.argv, "--part", name], seconds)
        if stopped is not None:
            print(f"{name} is not complete: {stopped}", flush=True)
            complete, file = False, given.to / f"{name}.json"
            write_json(file, {**(read_json(file) if file.is_file() else {}), "stopped": stopped})
    return 0 if complete else 1


def stopped_after(words: list[str], seconds: float | None) -> str | None:
    """Run a part in a process of its own; return why it ended early, or None."""
    if seconds is not None and seconds <= 0:
        return "there was no time left"
    with TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as temporary:  # A part that is stopped leaves its files behind.
        own = {**os.environ, "TMPDIR": temporary}
        process = subprocess.Popen([sys.executable, *words], env=own, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it was stopped after {seconds:.0f} s"
    return None if status == 0 else f"it ended with status {status}"


def measure(name: str, visit: Visit, file: Path, commit: str | None = None) -> int:
    """Measure the rows of a part that its file lacks; return 1 if any of them failed."""
    document = {"part": name, **circumstances(), **vars(visit), "complete": False, "rows": {}}
    document["commit"] = commit or document["commit"]
    document["versions"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    known = read_json(file) if file.is_file() else {}
    if all(known.get(key) == document[key] for key in SAME):
        if known["complete"]:
            return 0
        document["rows"] = {k: row for k, row in known["rows"].items() if "error" not in row}
    measured = document["rows"]
    write_json(file, document)
    with TemporaryDirectory(prefix=f"{name}_") as scratch:
        rows = rows_of(name, visit, Path(scratch))
        for key in [key for key in rows if key not in measured]:
            print(f"{name}: {key}", end=" ", flush=True)
            started = time.monotonic()
            measured[key] = _outcome(rows[key])
            measured[key].setdefault("seconds", round(time.monotonic() - started, 2))
            print(
                f"{measured[key].get('error', 'done')} ({measured[key]['seconds']} s)", flush=True
            )
            write_json(file, document)
    document["complete"] = not any("error" in row for row in measured.values())
    write_json(file, document)
    return 0 if document["complete"] else 1


def rows_of(name: str, visit: Visit, scratch: Path) -> Rows:
    """Return the rows of a part, or one that fails as the part's preparation did."""
    try:
        rows: Rows = import_module(f"part_{name}").rows(visit, scratch)
        return rows
    except Exception as error:
        failed = _described(error)
        return {"preparation": lambda: failed}


def _outcome(row: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a row measured, or its error: the other rows are measured all the same."""
    try:
        return dict(row())
    except Exception as error:
        return _described(error)


def _described(error: Exception) -> dict[str, Any]:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return {"error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR], "at": place}


if __name__ == "__main__":
    sys.exit(main())
