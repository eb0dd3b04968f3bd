"""Checks of an installation; each has what it found and, where it failed, how to fix it."""

import importlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from nnunet_iac.host.trainer_lookup import (
    TRAINER_VARIABLE,
    export_line,
    exported_trainers,
    listed_folders,
    trainers_dir,
)

DISTRIBUTION = "nnunet-iac"
HOST = "nnunetv2"
PACKAGE = Path(__file__).resolve().parents[1]

RESULTS_VARIABLE = "nnUNet_results"
DATA_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", RESULTS_VARIABLE)

EXPORT_TRAINERS = 'eval "$(nnunet-iac trainers-dir --export)"'
"""Adds our folder to those that the variable lists."""

FREE_BYTES = 5 * 1024**3
"""Free space in nnUNet_results for the checkpoints and predictions of a few folds."""

_LOOK_UP = """
import json, sys, traceback
sys.path[:] = [entry for entry in sys.path if entry]  # as in nnU-Net's own commands
from nnunet_iac.host.trainer_lookup import find_trainer

def origin(name):
    trainer = find_trainer(name)
    module = sys.modules.get(trainer.__module__)
    return module.__file__ if module else "a module that nnU-Net dropped again"

found = {}
for name in sys.argv[1:]:
    try:
        found[name] = {"file": origin(name)}
    except Exception as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        files.append(getattr(error, "filename", None))  # Of a file that is no Python.
        found[name] = {"error": f"{type(error).__name__}: {error}", "files": files}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Check:
    """The outcome of one check; `fix` is what to do and is empty where all is well."""

    name: str
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is to be fixed."""
        return not self.fix


def all_checks() -> Iterator[Check]:
    """Yield the outcome of every check, the slow ones last."""
    yield from package_checks()
    yield copies_check()
    yield from map(folder_check, DATA_VARIABLES)
    yield disk_check()
    yield external_trainers_check()
    yield shadowing_check()
    yield torchvision_check()
    yield device_check()
    yield from trainer_checks()


def package_checks() -> Iterator[Check]:
    """Yield whether Python and every requirement have a version that our metadata allows."""
    try:
        ours = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        found = f"imported from {PACKAGE} without being installed"
        yield Check(DISTRIBUTION, found, f"pip install -e {shlex.quote(str(PACKAGE.parent))}")
        return
    yield Check(DISTRIBUTION, f"{ours['Version']} in {PACKAGE}")
    allowed = ours["Requires-Python"]
    yield _version_check("python", platform.python_version(), allowed, f"use Python {allowed}")
    theirs = {r.name: r.specifier for r in _required(HOST)}
    for requirement in _required(DISTRIBUTION):
        requirement.specifier &= theirs.get(requirement.name, SpecifierSet())
        yield requirement_check(requirement)


def _required(distribution: str) -> Iterator[Requirement]:
    """Yield what a distribution requires without extras; nothing if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        for requirement in map(Requirement, metadata.requires(distribution) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield requirement


def requirement_check(requirement: Requirement) -> Check:
    """Return whether a package is installed in an allowed version."""
    fix = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, "not installed", fix)
    return _version_check(requirement.name, version, str(requirement.specifier), fix)


def _version_check(name: str, version: str, allowed: str, fix: str) -> Check:
    ok = SpecifierSet(allowed).contains(version, prereleases=True)
    return Check(name, f"{version} (supported: {allowed or 'any'})", "" if ok else fix)


def torchvision_check() -> Check:
    """Return whether torchvision fits the installed torch; nnU-Net's look-up imports it."""
    try:
        torchvision = importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        fix = "install torch and torchvision together, from the same index"
        return Check("torchvision", f"cannot be imported: {error}", fix)
    return Check("torchvision", f"{torchvision.__version__}, imports together with torch")


def copies_check() -> Check:
    """Return whether Python can see this package once only."""
    packages = {(Path(entry) / "nnunet_iac").resolve() for entry in sys.path if _is_root(entry)}
    installed = metadata.distributions(name=DISTRIBUTION)
    homes = {Path(str(distribution.locate_file(""))).resolve() for distribution in installed}
    others = sorted(packages - {PACKAGE}) + (sorted(homes) if len(homes) > 1 else [])
    if not others:
        return Check("copies of nnunet_iac", "one")
    return Check(
        "copies of nnunet_iac",
        f"besides {PACKAGE}: {', '.join(map(str, others))}",
        f"run pip uninstall {DISTRIBUTION} until it is gone, take other copies off PYTHONPATH "
        "and install it once",
    )


def _is_root(folder: str | Path) -> bool:
    return os.path.isfile(Path(folder, "nnunet_iac", "__init__.py"))


def folder_check(variable: str) -> Check:
    """Return whether an environment variable names an existing folder that can be used.

    All but that of raw data must be writable.
    """
    value = os.environ.get(variable)
    if not value:
        return Check(variable, "not set", f"export {variable}=/path/to/{variable}")
    if value == "~" or value.startswith("~/"):
        fix = f'export {variable}="$HOME{value[1:]}"'
        return Check(variable, f"{value} begins with ~, which only an unquoted shell word may", fix)
    if not os.path.isdir(value):  # Unlike pathlib it raises no error of permissions.
        found = f"{value} is no folder, or one that may not be looked into"
        return Check(variable, found, f"mkdir -p {shlex.quote(value)}")
    try:
        with tempfile.TemporaryFile(dir=value):
            pass
    except OSError as error:
        if variable == DATA_VARIABLES[0]:
            return Check(variable, f"{value}, read-only{_dependence([value])}")
        found = f"{value} cannot be written to: {error.strerror}"
        fix = f"chmod u+w {shlex.quote(value)}, or export {variable}=<another folder>"
        return Check(variable, found, fix)
    return Check(variable, f"{value}, writable{_dependence([value])}")


def _dependence(paths: Sequence[str]) -> str:
    """Return a remark on the paths that mean another folder wherever a command is typed."""
    relative = ", ".join(path for path in paths if not Path(path).is_absolute())
    return f"; {relative} depends on the current folder: use an absolute path" if relative else ""


def disk_check() -> Check:
    """Return whether nnUNet_results has room for a few runs."""
    name = f"free disk in {RESULTS_VARIABLE}"
    folder = os.environ.get(RESULTS_VARIABLE)
    if not folder or not os.path.isdir(folder):
        return Check(name, "unknown", f"set {RESULTS_VARIABLE} to an existing folder")
    free = shutil.disk_usage(folder).free
    wanted = f"{FREE_BYTES / 1024**3:.0f} GiB"
    fix = f"free at least {wanted}, or export {RESULTS_VARIABLE}=<a folder on a larger disk>"
    found = f"{free / 1024**3:.1f} GiB (wanted: {wanted})"
    return Check(name, found, fix if free < FREE_BYTES else "")


def external_trainers_check() -> Check:
    """Return whether nnU-Net can find our trainers; the variable may list other folders as well."""
    folders = listed_folders()
    ok = trainers_dir() in map(_resolved, folders)
    found = (os.pathsep.join(folders) or "not set") + _dependence(folders)
    return Check(TRAINER_VARIABLE, found, "" if ok else EXPORT_TRAINERS)


def shadowing_check() -> Check:
    """Return whether no other folder of nnUNet_extTrainer leads to a second copy of our classes.

    nnU-Net imports every module below each folder, so the repository root, the package itself
    and another copy's `trainers` all do.
    """
    kept: list[str] = []
    wrong: list[str] = []
    for entry in listed_folders():
        folder = _resolved(entry)
        trouble = "" if folder == trainers_dir() else _trouble_with(folder)
        (wrong if trouble else kept).append(trouble or entry)
    return Check(
        f"other folders of {TRAINER_VARIABLE}",
        "; ".join(wrong) or "none that shadows our trainers",
        f"leave them out: {export_line(kept)}" if wrong else "",
    )


def _trouble_with(folder: Path) -> str:
    try:
        copies = set(exported_trainers(folder)).intersection(exported_trainers(trainers_dir()))
    except ValueError as error:
        return str(error)
    if copies or _is_root(folder) or folder.is_relative_to(PACKAGE):
        return f"{folder} leads to a second copy of our trainers"
    return ""


def _resolved(folder: str) -> Path:
    return Path(folder).resolve()


def device_check() -> Check:
    """Return which device torch can use; none but the CPU is no failure."""
    try:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            return Check("device", f"cuda, {torch.cuda.get_device_name()}")
    except (ImportError, OSError, RuntimeError) as error:
        fix = "install torch again: https://pytorch.org/get-started/locally"
        return Check("device", f"torch cannot be used: {error}", fix)
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    return Check("device", f"no CUDA: pass -device {device} to nnUNetv2_train and _predict")


def trainer_checks() -> Iterator[Check]:
    """Yield, per trainer, whether nnU-Net's own look-up finds ours in a fresh process."""
    folder = trainers_dir()
    names = exported_trainers(folder)
    if not names:
        yield Check("trainers", f"there are none in {folder}", f"install {DISTRIBUTION} again")
        return
    if folder not in map(_resolved, listed_folders()):
        found = f"not looked up, since {TRAINER_VARIABLE} does not name {folder}"
        yield Check("trainers", found, EXPORT_TRAINERS)
        return
    command = [sys.executable, "-c", _LOOK_UP, *names]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        fix = "fix the failures above first; reinstall nnunetv2 if it cannot be imported"
        yield Check("trainers", f"nnU-Net's look-up failed: {last}", fix)
        return
    outcomes = json.loads(process.stdout.strip().splitlines()[-1])
    broken: dict[str, Check] = {}
    for name in names:
        check = _foreign_check(outcomes[name])
        if check is None:
            yield trainer_check(name, outcomes[name])
        else:
            broken[check.found] = check
    yield from broken.values()


def _leads_to(file: Path, folder: Path) -> bool:
    """Return whether a listed folder has a trainer's file, or is that of the copy which has it."""
    return any(file.is_relative_to(root) for root in (folder, folder.parent / PACKAGE.name))


def _foreign_check(outcome: Mapping[str, Any]) -> Check | None:
    """Return the check of another listed folder where its module ended a look-up; else None."""
    listed = {entry: _resolved(entry) for entry in listed_folders()}
    for file in map(_resolved, reversed([*filter(None, outcome.get("files", ()))])):
        for entry, folder in listed.items():
            if folder != trainers_dir() and file.is_relative_to(folder):
                kept = export_line([other for other in listed if other != entry])
                return Check(
                    f"other folders of {TRAINER_VARIABLE}",
                    f"{file} cannot be imported ({outcome['error']}), which ends every look-up "
                    "that comes to it",
                    f"correct that file or install what it needs, or leave {folder} out: {kept}",
                )
    return None


def trainer_check(name: str, outcome: Mapping[str, Any]) -> Check:
    """Return whether a trainer's `file` in the look-up's outcome is ours, or its `error`."""
    if "error" in outcome:
        fix = f"install {DISTRIBUTION} again, or what the error names"
        return Check(name, outcome["error"], fix)
    file = Path(outcome["file"]).resolve()
    if not file.is_relative_to(PACKAGE):
        found = f"comes from {outcome['file']}, not from {PACKAGE}"
        kept = [entry for entry in listed_folders() if not _leads_to(file, _resolved(entry))]
        fix = f"keep one copy of {DISTRIBUTION}: {export_line(kept)}"
        return Check(name, found, fix)
    return Check(name, "found")
