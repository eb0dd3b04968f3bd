"""Fixtures of all tests; they run with the shapes in annotations checked."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from jaxtyping import install_import_hook
from torch import nn

# Imported before the hook, which would refuse wrong values ahead of these modules' own checks.
import nnunet_iac.search.settings  # noqa: F401
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES, OPERATIONS, Edge

install_import_hook(["nnunet_iac.search", "nnunet_iac.nn"], "beartype.beartype")
torch.set_num_threads(1)  # More threads only wait for each other on tensors this small.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="kills of all trainers (default: 20)")
    parser.addoption("--full-demo", action="store_true", help="run the full demo as well")
    parser.addoption("--record", type=Path, help="folder for the outcome of every test, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record") and not hasattr(config, "workerinput"):  # xdist's workers
        config.pluginmanager.register(_Outcomes(config.getoption("--record")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "full_demo" in item.keywords and not config.getoption("--full-demo"):
            item.add_marker(pytest.mark.skip(reason="takes 15 minutes: --full-demo runs it"))


class _Outcomes:
    """Writes what became of every test, for docs/reliability.md."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tests.json"
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        from nnunet_iac.training.cost import circumstances

        write_json(
            self.file,
            {
                **circumstances(),
                "outcomes": self.outcomes,
            },
        )


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
