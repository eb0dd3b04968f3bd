from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.controls import (
    CellSource,
    identity_genotype,
    random_genotype,
    random_genotypes,
)
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("identity", CellSource("identity")),
        ("random:7", CellSource("random", seed=7)),
        (f"random:{2**64 - 1}", CellSource("random", seed=2**64 - 1)),
        ("conv", CellSource("convolution")),
        ("conv:fold_{fold}", CellSource("convolution", "fold_{fold}")),
        ("cells/mine.json", CellSource("path", "cells/mine.json")),
        ("randomised.json", CellSource("path", "randomised.json")),
    ],
)
def test_the_setting_genotype_names_a_file_or_what_stands_for_one(text, source):
    assert CellSource.of(text) == source


@pytest.mark.parametrize(
    "text", ["random", "random:", "random:-1", "random:x", f"random:{2**64}", "conv:"]
)
def test_a_setting_that_means_nothing_is_an_error_of_the_settings(text):
    with pytest.raises(ValueError, match=f"got '{text}'"):
        Settings(genotype=text)


def test_a_path_moves_and_stays_what_it_is():
    assert CellSource.of("mine.json").moved("/a/mine.json") == "/a/mine.json"
    assert CellSource.of("conv:mine.json").moved("/a/mine.json") == "conv:/a/mine.json"


@given(st.integers(0, 10**18 - 1))
def test_a_seed_draws_the_same_cell_every_time(seed):
    assert random_genotype(seed) == random_genotype(seed)


def test_different_seeds_draw_different_cells():
    assert len({random_genotype(seed) for seed in range(50)}) == 50


def test_a_drawn_cell_is_uniform_over_pairs_of_edges_and_operations():
    drawn = random_genotypes(0)
    cells = [next(drawn) for _ in range(4000)]
    operations = Counter(choice.operation for cell in cells for choice in cell.choices)
    # 32 000 draws of seven: 4571 each, and 5 standard deviations are 313.
    assert all(abs(operations[name] - 32000 / 7) < 313 for name in OPERATIONS)
    for node in INTERMEDIATE_NODES:
        pairs = Counter(
            tuple(c.edge.source for c in cell.choices if c.edge.target == node) for cell in cells
        )
        possible = list(combinations(range(node), 2))
        assert set(pairs) == set(possible)
        # Binomial with p >= 1/10: 5 standard deviations are at most 137.
        assert all(abs(pairs[pair] - 4000 / len(possible)) < 137 + 25 for pair in possible)


def test_the_identity_cell_takes_skip_and_upsampled_tensor_into_every_node():
    cell = identity_genotype()
    assert set(cell.operations.values()) == {"identity"}
    assert [c.edge for c in cell.choices] == [
        Edge(source, node) for node in INTERMEDIATE_NODES for source in (0, 1)
    ]
    assert all(c.edge in EDGES for c in cell.choices)


def test_a_cell_cannot_be_chosen_for_another_skip_module():
    with pytest.raises(ValueError, match="genotype=random:1, skip=attention"):
        Settings(genotype="random:1", skip="attention")


@pytest.mark.parametrize(
    ("values", "implant"),
    [
        ({}, "cell"),
        ({"genotype": "random:1"}, "cell"),
        ({"genotype": "conv"}, "convolution"),
        ({"genotype": "conv:a.json"}, "convolution"),
        ({"skip": "nested"}, "nested"),
    ],
)
def test_the_implant_is_the_skip_module_but_for_a_convolution(values, implant):
    assert Settings(**values).cell.implant == implant
