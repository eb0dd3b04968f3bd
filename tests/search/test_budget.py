import dataclasses
import json
import math
from itertools import combinations, product

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.discretisation import (
    RESOLUTION,
    discretise,
    is_within,
    require_possible,
    require_within,
    within_budget,
)
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import importance
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge, edges_into

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
COSTS = CellCosts(
    backbone=Cost(10_000, 1_000_000),
    fixed=Cost(100, 5_000),
    operations={
        "identity": Cost(0, 0),
        "max_pool_3x3": Cost(0, 0),
        "avg_pool_3x3": Cost(0, 900),
        "sep_conv_3x3": Cost(40, 4_000),
        "sep_conv_5x5": Cost(70, 7_000),
        "dil_conv_3x3": Cost(20, 2_000),
        "dil_conv_5x5": Cost(35, 3_500),
    },
)
"""Cells of zero to 5.6 % of the backbone's parameters and MACs on top of 1 % and 0.5 %."""

seeds = st.integers(0, 2**31)
ratios = st.none() | st.floats(0.01, 0.08)
modes = st.sampled_from(["softmax", "raw", "raw-strict"])


def searched(seed, pruned=True):
    """Return alpha, beta and mask at a search's end; a fifth of the betas are equal."""
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(14, 7, generator=generator, dtype=torch.float64)
    beta = torch.randn(14, generator=generator, dtype=torch.float64)
    beta[torch.rand(14, generator=generator) < 0.2] = 0.5
    active = torch.zeros(14, 7, dtype=torch.bool)
    active[torch.arange(14), torch.randint(7, (14,), generator=generator)] = True
    if not pruned:
        active |= torch.rand(14, 7, generator=generator) < 0.5
    return alpha, beta, active


def budgeted(end, settings, costs=COSTS):
    return within_budget(discretise(*end, settings.cell), *end, settings.cell, costs)


def total(genotype, theta):
    return sum(
        theta[EDGES.index(edge), OPERATIONS.index(operation)].item()
        for edge, operation in genotype.operations.items()
    )


@given(seeds, st.booleans(), ratios, ratios, modes)
def test_a_genotype_is_never_over_the_budget(seed, pruned, parameter_ratio, mac_ratio, mode):
    settings = Settings(
        max_parameter_ratio=parameter_ratio, max_mac_ratio=mac_ratio, importance=mode
    )
    result = budgeted(searched(seed, pruned), settings)
    assert result.cost == COSTS.of(result.genotype)
    assert result.wanted_cost == COSTS.of(result.wanted)
    assert result.cost.parameters / 10_000 <= (parameter_ratio or math.inf)
    assert result.cost.macs / 1_000_000 <= (mac_ratio or math.inf)
    assert 0 <= result.kept_importance <= 1
    assert is_within(result.genotype, COSTS, settings.cell)
    assert is_within(result.wanted, COSTS, settings.cell) is not result.gave_up


@given(seeds, st.booleans(), modes, st.sampled_from([None, 10.0]))
def test_without_a_budget_or_within_it_the_genotype_is_the_wanted_one(seed, pruned, mode, ratio):
    end = searched(seed, pruned)
    settings = Settings(max_mac_ratio=ratio, importance=mode)
    result = budgeted(end, settings)
    assert (
        result.genotype == discretise(*end, settings.cell) == discretise(*end, settings.cell, COSTS)
    )
    assert not result.gave_up
    assert result.kept_importance == 1


@given(seeds)
def test_a_budget_that_the_wanted_genotype_meets_to_the_digit_leaves_it(seed):
    end = searched(seed)
    wanted = discretise(*end, Settings().cell)
    cost = COSTS.of(wanted)
    exact = Settings(max_parameter_ratio=cost.parameters / 10_000, max_mac_ratio=cost.macs / 1e6)
    assert budgeted(end, exact).genotype == wanted
    assume(cost.macs > COSTS.fixed.macs)
    less = Settings(max_mac_ratio=math.nextafter(cost.macs / 1e6, 0))
    assert budgeted(end, less).genotype != wanted


@given(seeds, st.booleans(), ratios, st.lists(st.floats(0.005, 0.08), min_size=2, max_size=4))
def test_a_larger_budget_never_keeps_less_importance(seed, pruned, parameter_ratio, mac_ratios):
    end = searched(seed, pruned)
    settings = Settings(max_parameter_ratio=parameter_ratio)
    kept = [
        budgeted(end, settings.replace(max_mac_ratio=ratio)).kept_importance
        for ratio in [*sorted(mac_ratios), None]
    ]
    assert kept == sorted(kept)


@given(seeds, st.floats(0.005, 0.05))
def test_what_is_kept_is_the_share_of_importance(seed, ratio):
    end = searched(seed)
    result = budgeted(end, Settings(max_mac_ratio=ratio))
    theta = importance(*end, Settings().cell)
    expected = total(result.genotype, theta) / total(result.wanted, theta)
    assert result.kept_importance == pytest.approx(expected, abs=1e-9)


def optimum_by_enumeration(end, settings, costs, allowed):
    """Return the best of all genotypes over some operations, by looking at every one of them."""
    alpha, beta, active = end
    everything = torch.ones_like(active)
    keys = [
        (importance(alpha, beta, mask, Settings().cell) * RESOLUTION).round().long().numpy()
        for mask in (active, everything)
    ]
    # Of every node all pairs of edges with all pairs of operations, the preferred ones first.
    nodes = [
        sorted(
            (
                tuple(zip(edges, operations, strict=True))
                for edges in combinations(edges_into(node), 2)
                for operations in product(allowed, repeat=2)
            ),
            key=lambda choices: [(e, -o) for e, o in choices],
        )
        for node in INTERMEDIATE_NODES
    ]

    def summed(value):
        """Return the sum of a value of choices for every genotype there is."""
        columns = [np.array([sum(value(e, o) for e, o in option) for option in n]) for n in nodes]
        return sum(np.ix_(*columns))

    possible = np.array(True)
    for quantity, ratio in (
        ("parameters", settings.cell.max_parameter_ratio),
        ("macs", settings.cell.max_mac_ratio),
    ):
        if ratio is not None:
            added = summed(lambda e, o: getattr(costs.operations[OPERATIONS[o]], quantity))  # noqa: B023
            cost = getattr(costs.fixed, quantity) + added
            possible = possible & (cost / getattr(costs.backbone, quantity) <= ratio)
    for key in keys:
        merit = np.where(possible, summed(lambda e, o: key[e, o]), -1)  # noqa: B023
        possible &= merit == merit.max()
    first = np.unravel_index(np.argmax(possible), possible.shape)
    choices = [nodes[node][option] for node, option in enumerate(first)]
    return Genotype(tuple(Choice(EDGES[e], OPERATIONS[o]) for two in choices for e, o in two))


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("ties", [False, True])
@hypothesis.settings(max_examples=25)  # of a million genotypes each
@given(seeds, ratios, st.floats(0.005, 0.06))
def test_the_genotype_is_the_best_of_all_over_the_operations_one_can_afford(
    pruned, ties, seed, parameter_ratio, mac_ratio
):
    alpha, beta, active = searched(seed, pruned)
    if ties:
        alpha, beta = alpha.round(), beta.round()
    # Max pooling is always affordable; of the others two, and the rest at no price. 1 180 980
    # genotypes are left: 9, 27, 54 and 90 for the four nodes.
    others = [o for o in range(7) if OPERATIONS[o] != "max_pool_3x3"]
    two = np.random.default_rng(seed).choice(others, 2, replace=False).tolist()
    allowed = [OPERATIONS.index("max_pool_3x3"), *two]
    operations = {
        name: cost if OPERATIONS.index(name) in allowed else Cost(10**9, 10**9)
        for name, cost in COSTS.operations.items()
    }
    costs = dataclasses.replace(COSTS, operations=operations)
    settings = Settings(max_parameter_ratio=parameter_ratio, max_mac_ratio=mac_ratio)
    result = budgeted((alpha, beta, active), settings, costs)
    assume(result.gave_up)
    expected = optimum_by_enumeration((alpha, beta, active), settings, costs, allowed)
    assert result.genotype == expected


def decided():
    """Return the end of a search that prefers `sep_conv_5x5` everywhere, and nodes 0 and 1.

    Psi is (.5, .5) into node 2; into node 3 (.4, .4, .2), 4 (.3, .3, .2, .2) and
    5 (.25, .25, .2, .2, .1) before the transform, which atanh undoes.
    """
    weights = [
        *[0.5, 0.5],
        *[0.4, 0.4, 0.2],
        *[0.3, 0.3, 0.2, 0.2],
        *[0.25, 0.25, 0.2, 0.2, 0.1],
    ]
    # log(w) lies in (-2.31, -0.69); 1.6 more lies in (-0.71, 0.91), where tanh reaches.
    beta = torch.atanh(torch.tensor(weights, dtype=torch.float64).log() + 1.6)
    active = torch.zeros(14, 7, dtype=torch.bool)
    active[:, OPERATIONS.index("sep_conv_5x5")] = True
    alpha = torch.zeros(14, 7, dtype=torch.float64)
    alpha[:, OPERATIONS.index("dil_conv_3x3")] = 1.0
    return alpha, beta, active


def test_a_hand_made_example_changes_the_operations_that_matter_least():
    # All eight edges with sep_conv_5x5 add 5000 + 8 * 7000 = 61 000 MACs, 6.1 %. With 5.6 % one
    # edge must change, and dil_conv_3x3 there, of the largest alpha among the pruned, suffices:
    # 5000 + 7 * 7000 + 2000 = 56 000. The least Psi of the kept edges is the .25 of 0->5 and 1->5;
    # of equal ones the first edge takes the later operation in `OPERATIONS`, dil_conv_3x3. Kept:
    # 1 + .8 + .6 + .25 of 1 + .8 + .6 + .5 = 2.65 / 2.9 = 91.4 %.
    result = budgeted(decided(), Settings(max_mac_ratio=0.056))
    wanted = dict.fromkeys((Edge(s, n) for n in INTERMEDIATE_NODES for s in (0, 1)), "sep_conv_5x5")
    assert result.wanted.operations == wanted
    assert result.genotype.operations == {**wanted, Edge(0, 5): "dil_conv_3x3"}
    assert result.cost == Cost(100 + 7 * 70 + 20, 56_000)
    assert result.wanted_cost == Cost(100 + 8 * 70, 61_000)
    assert result.kept_importance == pytest.approx(2.65 / 2.9, abs=1e-9)
    assert str(result) == (
        "max_mac_ratio=0.056: the cells would add 6.1 % of the backbone's MACs; sep_conv_5x5 on "
        "0->5 became dil_conv_3x3; they add 5.6 % of the backbone's MACs and keep 91.4 % of the "
        "importance"
    )


def test_an_edge_gives_way_to_one_whose_only_operation_is_cheaper():
    # 2->5 with Psi .2 has max_pool_3x3 left, which costs nothing, so it replaces an edge of .25
    # and loses .05 only. Kept: (2.9 - .05) / 2.9 = 98.3 %. Of 0->5 and 1->5 the first stays.
    # Parameters: 100 + 7 * 70 = 590 of 10 000, where 660 were wanted.
    alpha, beta, active = decided()
    active[11] = torch.tensor([name == "max_pool_3x3" for name in OPERATIONS])
    settings = Settings(max_parameter_ratio=0.06, max_mac_ratio=0.07)
    result = budgeted((alpha, beta, active), settings)
    assert str(result) == (
        "max_parameter_ratio=0.06: the cells would add 6.6 % of the backbone's parameters; edge "
        "1->5 with sep_conv_5x5 was replaced by 2->5 with max_pool_3x3; they add 5.9 % of the "
        "backbone's parameters and 5.4 % of the backbone's MACs and keep 98.3 % of the importance"
    )
    assert result.gave_up


def test_the_text_names_both_limits_where_both_are_exceeded():
    text = str(budgeted(decided(), Settings(max_parameter_ratio=0.06, max_mac_ratio=0.05)))
    assert text.startswith(
        "max_parameter_ratio=0.06, max_mac_ratio=0.05: the cells would add 6.6 % of the "
        "backbone's parameters and 6.1 % of the backbone's MACs; "
    )


def test_the_text_of_a_budget_that_suffices_states_what_the_cells_add():
    kept = budgeted(decided(), Settings(max_mac_ratio=0.061))
    assert str(kept) == "max_mac_ratio=0.061: the cells add 6.1 % of the backbone's MACs"
    assert str(budgeted(decided(), Settings())) == "no budget was set for the cells"


@given(seeds, st.floats(0.005, 0.05))
def test_the_text_shows_every_change(seed, ratio):
    result = budgeted(searched(seed), Settings(max_mac_ratio=ratio))
    assume(result.gave_up)
    before, after = result.wanted.operations, result.genotype.operations
    for edge in before.keys() | after.keys():
        if before.get(edge) != after.get(edge):
            arrow = f"{edge.source}->{edge.target}"
            for operation in filter(None, (before.get(edge), after.get(edge))):
                assert operation in str(result)
            assert arrow in str(result)


@pytest.mark.parametrize(
    ("setting", "ratio", "message"),
    [
        ("max_parameter_ratio", 0.00999, r"add 0\.01 of the backbone's parameters"),
        ("max_mac_ratio", 0.0049, r"add 0\.005 of the backbone's MACs"),
    ],
)
def test_a_budget_below_the_cheapest_cell_is_refused(setting, ratio, message):
    settings = Settings(**{setting: ratio})
    sentence = rf"{message} .* got {setting}={ratio}: set {setting} to .*, or channel_ratio or min"
    with pytest.raises(ValueError, match=sentence):
        require_possible(COSTS, settings.cell)
    with pytest.raises(ValueError, match=sentence):
        discretise(torch.zeros(14, 7), torch.zeros(14), full_mask(), settings.cell, COSTS)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_the_ratio_that_the_error_names_is_possible_and_what_is_possible_has_a_genotype(
    fixed, backbone
):
    costs = dataclasses.replace(COSTS, backbone=Cost(1, backbone), fixed=Cost(0, fixed))
    with pytest.raises(ValueError, match="set max_mac_ratio to") as error:
        require_possible(costs, Settings(max_mac_ratio=math.nextafter(fixed / backbone, 0)).cell)
    named = float(str(error.value).partition("set max_mac_ratio to ")[2].split()[0])
    assert fixed / backbone <= named <= 1.02 * fixed / backbone
    least = Settings(max_mac_ratio=fixed / backbone)
    require_possible(costs, least.cell)
    require_possible(costs, least.replace(max_mac_ratio=named).cell)
    assert budgeted(decided(), least, costs).cost.macs == fixed


def test_a_given_genotype_over_the_budget_is_refused():
    genotype = discretise(*decided(), Settings().cell)
    enough = Settings(max_parameter_ratio=0.066, max_mac_ratio=0.061)
    require_within(genotype, COSTS, enough.cell)
    with pytest.raises(
        ValueError,
        match=r"within max_mac_ratio=0\.06; they add 0\.061 of the backbone's MACs: set "
        r"max_mac_ratio to 0\.061 or more.* or give a cheaper genotype",
    ):
        require_within(genotype, COSTS, enough.replace(max_mac_ratio=0.06).cell)


def test_costs_survive_json_and_ignore_what_else_the_file_has():
    document = json.loads(json.dumps({**COSTS.to_document(), "outcome": "all kept"}))
    assert CellCosts.from_document(document) == COSTS


def without(document, *keys):
    """Return a copy of a nested document without one entry."""
    first, *rest = keys
    if not rest:
        return {key: value for key, value in document.items() if key != first}
    return {**document, first: without(document[first], *rest)}


DOCUMENT = COSTS.to_document()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"must be a JSON object with backbone, fixed, operations; got \[\]"),
        (without(DOCUMENT, "fixed"), "must be a JSON object with backbone, fixed, operations"),
        ({**DOCUMENT, "operations": [1]}, r"costs of operations .*; got \[1\]"),
        (without(DOCUMENT, "operations", "identity"), "exactly the operations identity, .*; got m"),
        (without(DOCUMENT, "fixed", "macs"), r"have \"parameters\" and \"macs\"; got \{'param"),
        ({**DOCUMENT, "fixed": 3}, "have .*; got 3"),
        ({**DOCUMENT, "fixed": {"parameters": 1, "macs": -2}}, ">= 0; got .*-2"),
        ({**DOCUMENT, "fixed": {"parameters": True, "macs": 2}}, ">= 0; got .*True"),
        (
            {**DOCUMENT, "backbone": {"parameters": 1, "macs": 0}},
            r"have parameters and MACs; got Cost\(parameters=1, macs=0\)",
        ),
        (
            {
                **DOCUMENT,
                "operations": {
                    **DOCUMENT["operations"],
                    "max_pool_3x3": {"parameters": 0, "macs": 7},
                },
            },
            r"max_pool_3x3 must cost nothing; got Cost\(parameters=0, macs=7\)",
        ),
    ],
)
def test_a_damaged_document_is_an_error_naming_what_is_wrong(document, message):
    with pytest.raises(ValueError, match=message):
        CellCosts.from_document(document)
