"""Lock the folder of a fold, check its room, and move the files of earlier runs aside."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_iac.runs.folder import FOLDER_NAME

LOCK = f"{FOLDER_NAME}.lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
EXPORTED_FROM = "exported_from"
"""Key of an exported model's plans, whose value is the name of the model's folder."""

LEAST_ROOM = 1_000_000
"""Free bytes below which a disk counts as full if an error gives no reason."""


@contextmanager
def held(lock: FileLock) -> Iterator[None]:
    """Hold a fold's lock; the operating system releases that of a process that died.

    Raises:
        RuntimeError: another process holds it, or the fold cannot be written to.
    """
    try:
        lock.acquire(timeout=1)  # `in_use` holds it for a moment.
    except Timeout as error:
        raise RuntimeError(
            f"only one process may work on {Path(lock.lock_file).parent}, and another one does: "
            "wait for it, or end it and continue with --c"
        ) from error
    except OSError as error:
        raise RuntimeError(
            f"{lock.lock_file} must be writable and is not ({error}): fix the permissions of its "
            "folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held_or_waited_for(lock: FileLock, log: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder's lock, as soon as no other process does."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"waiting for another process that works on {Path(lock.lock_file).parent}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fold_folders(model: Path) -> list[Path]:
    """Return the folders of a model's folds; others beside them, such as copies, are left out."""
    return sorted(p for p in model.glob("fold_*") if re.fullmatch(r"fold_(all|\d+)", p.name))


def require_writable(folder: Path) -> None:
    """Check that a folder, or the nearest one above it that exists, can be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise RuntimeError(
            f"the results must go into {folder}, but {existing} cannot be written to: fix its "
            "permissions, or set nnUNet_results to another folder"
        )


def require_space(folder: Path, wanted: int) -> None:
    """Check that a folder's disk has room for a number of bytes."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise RuntimeError(
            f"the disk of {folder} must have {wanted / 1e6:.0f} MB free for the checkpoints, and "
            f"has {free / 1e6:.0f} MB: free some, or set nnUNet_results to another disk"
        )


@contextmanager
def full_disk_named(folder: Path, cure: str) -> Iterator[None]:
    """Name the folder whose disk is full in place of an error that does not; `cure` ends it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error.__cause__, OSError):  # Ours, which names the file.
            raise
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        full = shutil.disk_usage(existing).free < LEAST_ROOM
        if isinstance(error, OSError):
            full = error.errno in DISK_FULL
        if not full:
            raise
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RuntimeError(
            f"{folder} must have room on its disk, which is full ({first}): free some, and {cure}"
        ) from None


def archive_previous_run(fold: Path) -> Path | None:
    """Move record, checkpoints and validation of an earlier run into a new folder and return it.

    nnU-Net would score old predictions along with the new ones. The record goes first, so that
    `--c` continues the earlier run if this is broken off.
    """
    named = (fold / name for name in ("validation", "progress.png"))
    possible = (fold / FOLDER_NAME, *sorted(fold.glob("checkpoint_*.pth")), *named)
    earlier = [path for path in possible if path.exists()]
    if not earlier:
        return None
    aside = fold / f"before_{datetime.now():%Y%m%d_%H%M%S_%f}"
    aside.mkdir()
    for path in earlier:
        shutil.move(path, aside)
    return aside


def in_use(folder: Path) -> bool | None:
    """Return whether a process holds a fold's lock; None where we may not ask."""
    path = folder / LOCK
    if not path.is_file():
        return False
    if not os.access(path, os.W_OK):
        return None
    try:
        with FileLock(path, blocking=False):
            return False
    except OSError:  # That of a lock that is held, too.
        return True
