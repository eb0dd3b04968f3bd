"""The parameters and MACs behind docs/evidence/comparison.md are those of the networks now."""

from pathlib import Path

import pytest

from nnunet_iac.runs.atomic import read_json

FOLDER = Path(__file__).parents[2] / "docs" / "evidence" / "comparison"


@pytest.fixture(scope="module")
def costs(script):
    return script("evidence/comparison/costs")


@pytest.fixture(scope="module")
def written():
    return read_json(FOLDER / "networks.json")


def test_the_written_cost_of_the_plain_network_is_what_it_costs_now(costs, written):
    assert written["plain"] == costs.cost(costs.plain())


def test_the_written_costs_of_networks_trained_from_scratch_are_what_they_cost_now(costs, written):
    assert written["from_scratch"] == costs.from_scratch()
