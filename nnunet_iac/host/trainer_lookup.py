"""Folders in which nnU-Net looks for our trainers, and its own look-up.

nnU-Net is imported only by the look-up, since scripts ask for the folder.
"""

import ast
import contextlib
import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

TRAINER_VARIABLE = "nnUNet_extTrainer"
"""Lists the folders in which nnU-Net looks for trainers besides its own, separated as in PATH."""


def trainers_dir() -> Path:
    """Return the folder of our trainers, for nnUNet_extTrainer.

    It lies in the package when installed from a wheel, and beside it in the repository.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "trainers"
    return installed if installed.is_dir() else package.parent / "trainers"


def listed_folders() -> list[str]:
    """Return the folders that nnUNet_extTrainer lists, as they are written there."""
    value = os.environ.get(TRAINER_VARIABLE, "")
    return [entry for entry in value.split(os.pathsep) if entry.strip()]


def export_line(folders: Sequence[str]) -> str:
    """Return the shell command that sets nnUNet_extTrainer to folders, and ours after them."""
    ours = trainers_dir()
    known = any(Path(folder).resolve() == ours for folder in folders)
    value = os.pathsep.join([*folders, *([] if known else [str(ours)])])
    return f"export {TRAINER_VARIABLE}={shlex.quote(value)}"


def exported_trainers(folder: Path) -> tuple[str, ...]:
    """Return the names of the trainers that modules in `folder` import, without running them."""
    names: set[str] = set()
    for path in folder.glob("*.py"):
        try:
            module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} must be a Python module: {error}") from error
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom):
                names.update(alias.asname or alias.name for alias in node.names)
    return tuple(sorted(name for name in names if name.startswith("nnUNetTrainer")))


def find_trainer(name: str) -> type:
    """Return the class that nnU-Net finds by this name; its narration is dropped."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with contextlib.redirect_stdout(io.StringIO()):
        found: type = recursive_find_trainer_class_by_name(name)
    return found
