"""Files that are either the old ones or the new ones, never half of either."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".writing."
"""Beginning of the names of temporary files and folders."""

BEGINNING = 40
"""Letters of a file's name in that of its temporary file, which must not be too long itself."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    The content reaches the disk before the name does. After an error `path` is as it was and the
    temporary file is gone; after a kill it is left, for `remove_leftovers`.

    Raises:
        RuntimeError: the disk is full, or the folder cannot be written to.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{UNFINISHED}{path.name[:BEGINNING]}.{secrets.token_hex(4)}{path.suffix}"
        path.with_name(name).touch(exist_ok=False)  # With the permissions of any new file.
        temporary = path.with_name(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RuntimeError(
            f"{path} must be written and could not be ({error}); what was there is kept: free "
            "disk space, or fix the folder's permissions, and run it again (training: with --c)"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder and below."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file atomically; NaN and infinities are an error, since JSON has none."""
    with naming(path):
        text = json.dumps(document, indent=2, allow_nan=False)
    write_text(path, text + "\n")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in the error of what it holds, or is to hold."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Name a file in the error of what is looked for in it and is not there."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must have the form of such a file; it does not ({type(error).__name__}: "
            f"{error}): correct or restore it, or run the step that wrote it again"
        ) from error


def read_json(path: Path) -> Any:
    """Return a JSON file's content; anything else is a ValueError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} must exist, and does not: restore it or run the step that writes it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON file: {error}; restore it or run the step that wrote it again"
        ) from error
