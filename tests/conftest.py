"""Fixtures of all tests."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from filelock import FileLock
from jaxtyping import install_import_hook
from torch import nn

# Imported before the hook, which would refuse wrong values ahead of these modules' own checks.
import nnunet_iac.search.settings  # noqa: F401
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES, OPERATIONS, Edge

install_import_hook(["nnunet_iac.search", "nnunet_iac.nn"], "beartype.beartype")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # Of the processes that tests start.
torch.set_num_threads(1)  # More threads only wait for each other on tensors this small.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="kills of all trainers (default: one of each kind)")
    parser.addoption("--full-demo", action="store_true", help="run the full demo as well")
    parser.addoption("--nccl", action="store_true", help="train on two GPUs as well (only there)")
    parser.addoption("--record", type=Path, help="folder for the outcome of every test, as JSON")
    parser.addoption("--slowest", type=Path, help="file for the seconds of the slowest 50 tests")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # One of xdist's workers, whose reports its master gets.
        return
    if config.getoption("--record"):
        config.pluginmanager.register(_Outcomes(config.getoption("--record")))
    if config.getoption("--slowest"):
        config.pluginmanager.register(_Durations(config.getoption("--slowest")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files with slow tests first where workers share them, and leave the full demo out."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    if hasattr(config, "workerinput"):
        # One worker makes the folders that most slow files share; this one needs none of them.
        items.sort(key=lambda item: (item.path not in slow, item.path.name != "test_demo.py"))
    for item in items:
        if "full_demo" in item.keywords and not config.getoption("--full-demo"):
            item.add_marker(pytest.mark.skip(reason="takes 15 minutes: --full-demo runs it"))


class _Durations:
    """Writes the seconds of the slowest tests, their own fixtures' included."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        lines = [f"{seconds:6.1f}  {name}" for name, seconds in self.seconds.most_common(50)]
        total = f"{sum(self.seconds.values()):6.0f}  all {len(self.seconds)} tests"
        self.file.write_text("\n".join([total, *lines]) + "\n")


class _Outcomes:
    """Writes what became of every test, for docs/evidence/reliability.md."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tests.json"
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        from nnunet_iac.training.provenance import circumstances

        write_json(
            self.file,
            {
                **circumstances(),
                "outcomes": self.outcomes,
            },
        )


CHECKED = ("nn", "search")
"""Folders of tests that run with the shapes in annotations checked."""

BuiltOnce = Callable[[str, Callable[[Path], object]], Path]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> BuiltOnce:
    """Return what gives a folder that the first process to ask for it, of all workers, fills."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        path, filled = root / "shared" / name, root / "shared" / f"{name}.filled"
        path.parent.mkdir(exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not filled.exists():
                path.mkdir()
                fill(path)
                filled.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def wheel(built_once: BuiltOnce) -> Path:
    """The package's wheel."""

    def build(folder: Path) -> None:
        words = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
        command = [sys.executable, *map(str, words)]
        built = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert built.returncode == 0, built.stdout + built.stderr

    (path,) = built_once("wheel", build).glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unchecked_shapes() -> Iterator[None]:
    """Leave out the check of shapes, which takes as long as a small network: for many steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@pytest.fixture(scope="module", autouse=True)
def shapes_are_checked_where_they_are_tested(request: pytest.FixtureRequest) -> None:
    """Check the shapes in annotations in the tests of the modules that have them."""
    if request.path.parent.name not in CHECKED:
        request.getfixturevalue("unchecked_shapes")


@pytest.fixture
def tiny_unet() -> Callable[..., PlainConvUNet]:
    """Return a builder of stock U-Nets: two input channels, three classes, random weights."""

    def build(
        dimension: int = 2,
        features: tuple[int, ...] = (8, 16, 24),
        norm: str = "Instance",
        seed: int = 0,
        **keywords: Any,
    ) -> PlainConvUNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return PlainConvUNet(
                input_channels=2,
                n_stages=len(features),
                features_per_stage=features,
                conv_op=getattr(nn, f"Conv{dimension}d"),
                kernel_sizes=3,
                strides=[1] + [2] * (len(features) - 1),
                n_conv_per_stage=1,
                num_classes=3,
                n_conv_per_stage_decoder=1,
                conv_bias=True,
                norm_op=getattr(nn, f"{norm}Norm{dimension}d"),
                norm_op_kwargs={"eps": 1e-5, "affine": True},
                nonlin=nn.LeakyReLU,
                nonlin_kwargs={"inplace": True},
                **keywords,
            )

    return build


@pytest.fixture
def random_genotype() -> Callable[[int], Genotype]:
    """Return a builder of genotypes, one per seed."""

    def build(seed: int) -> Genotype:
        generator = random.Random(seed)
        choices = (
            Choice(Edge(source, node), generator.choice(OPERATIONS))
            for node in INTERMEDIATE_NODES
            for source in generator.sample(range(node), 2)
        )
        return Genotype(tuple(choices))

    return build
