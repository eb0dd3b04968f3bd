"""Fill a folder with the wheels that `setup_scripts/gpu.sh` installs where there is no index.

    python docs/evidence/gpu/wheels.py --python 3.12 --there numpy scipy matplotlib pandas

The versions are those of the environment that runs this. Nothing is fetched that torch brings
along, and nothing of what `--there` names, the packages beside torch on the other machine, and
what these need. Large wheels are packed again with LZMA, which pip reads, too, and which leaves
about 60 % of them. What has no wheel on the index is built here if it is pure Python.
"""

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PROJECT = "nnunet-iac"
TORCH = ("torch", "torchvision", "triton")
BUILD = ("hatchling", "pathspec", "pluggy", "trove-classifiers", "packaging")
"""Packages that install the checkout in place."""

UNUSED = ("imagecodecs", "graphviz", "unittest2")
"""Large or dated requirements of nnU-Net and its libraries that no part of a visit imports."""

MOST_MB = 55
"""Size of what may travel with the checkout."""

PACKED_MB = 1
"""Wheels from this size on are packed again."""

GLIBC = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
PLATFORMS = [f"manylinux_{version}_x86_64" for version in GLIBC] + ["manylinux2014_x86_64"]


def main() -> int:
    """Fetch what is missing, and return 1 if the folder is too large to travel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("wheels"), help="default: wheels")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=here, help=f"of the other machine (default: {here})")
    parser.add_argument("--there", nargs="*", default=[], metavar="NAME", help="needs no wheel")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    for name, version in needed(given.there).items():
        if not any(is_wheel_of(path, name, version) for path in given.to.glob("*.whl")):
            fetch(name, version, given.python, given.to)
    for path in given.to.glob("*.whl"):
        if path.stat().st_size > PACKED_MB * 2**20 and not is_packed(path):
            pack(path)
    sizes = {path.name: path.stat().st_size / 2**20 for path in given.to.glob("*.whl")}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        print(f"{sizes[name]:6.1f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total:6.1f} MiB in {len(sizes)} wheels, of at most {MOST_MB}")
    return int(total > MOST_MB)


def needed(there: Iterable[str]) -> dict[str, str | None]:
    """Return the packages to fetch and their versions; None for the newest."""
    absent = closure([*TORCH, *there]) | set(UNUSED)
    wanted = closure([PROJECT], absent) - {PROJECT} | (set(BUILD) - absent)
    return {name: installed_version(name) for name in sorted(wanted)}


def closure(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """Return packages and what they require, without extras; `without` is not followed."""
    found: set[str] = set()
    open_names = [canonicalize_name(name) for name in names]
    while open_names:
        name = open_names.pop()
        if name not in found and name not in without:
            found.add(name)
            open_names += requirements(name)
    return found


def requirements(name: str) -> Iterator[str]:
    """Yield what an installed package requires on this machine."""
    try:
        lines = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def installed_version(name: str) -> str | None:
    """Return the version here, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_wheel_of(path: Path, name: str, version: str | None) -> bool:
    """Return whether a file is the wheel of a package in a version, or in any."""
    found, at, _, _ = parse_wheel_filename(path.name)
    return found == name and version in (None, str(at))


def fetch(name: str, version: str | None, python: str, to: Path) -> None:
    """Download a wheel for another machine, or build it if it is the same everywhere."""
    before = set(to.glob("*.whl"))
    what = name if version is None else f"{name}=={version}"
    target = ["--python-version", python, "--only-binary", ":all:"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    downloaded = pip("download", "--dest", str(to), *target, what) == 0
    if not downloaded and pip("wheel", "--wheel-dir", str(to), what) != 0:
        raise RuntimeError(f"{what} must be on the index; pip found neither wheel nor source")
    (wheel,) = set(to.glob("*.whl")) - before
    if not wheel.stem.endswith("-any") and "linux" not in wheel.stem:
        raise RuntimeError(f"{what} must have a wheel for Linux on x86-64; got {wheel.name}")


def pip(verb: str, *words: str) -> int:
    """Run a verb of pip on one package without its requirements, and return its status."""
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--no-deps", *words]
    return subprocess.run([*command, "--disable-pip-version-check"], check=False).returncode


def is_packed(wheel: Path) -> bool:
    """Return whether the members of a wheel are compressed with LZMA."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.infolist()[0].compress_type == zipfile.ZIP_LZMA


def pack(wheel: Path) -> None:
    """Compress the members of a wheel with LZMA; its RECORD stays valid."""
    packed = wheel.with_suffix(".packed")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(packed, "w") as target:
        for member in source.infolist():
            copy = zipfile.ZipInfo(member.filename, member.date_time)
            copy.external_attr, copy.compress_type = member.external_attr, zipfile.ZIP_LZMA
            target.writestr(copy, source.read(member))
    packed.replace(wheel)


if __name__ == "__main__":
    sys.exit(main())
