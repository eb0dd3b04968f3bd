"""The parameters and MACs that docs/comparison.md is made from are those of the networks now."""

import importlib.util
from pathlib import Path

import pytest

from nnunet_iac.runs.atomic import read_json

FOLDER = Path(__file__).parent.parent / "docs" / "comparison"


@pytest.fixture(scope="module")
def costs():
    specification = importlib.util.spec_from_file_location("comparison_costs", FOLDER / "costs.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written():
    return read_json(FOLDER / "networks.json")


def test_the_written_cost_of_the_plain_network_is_what_it_costs_now(costs, written):
    assert written["plain"] == costs.cost(costs.plain())


def test_the_written_costs_of_networks_trained_from_scratch_are_what_they_cost_now(costs, written):
    assert written["from_scratch"] == costs.from_scratch()
