import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import edge_weights
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge, edges_into

seeds = st.integers(0, 2**31)
betas = hnp.arrays(np.float64, 14, elements=st.floats(-2, 2)).map(torch.from_numpy)
modes = st.sampled_from(["softmax", "raw", "raw-strict"])


def random_alpha_and_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(14, 7, generator=generator, dtype=torch.float64)
    active = torch.rand(14, 7, generator=generator) < 0.4
    active[torch.arange(14), torch.randint(7, (14,), generator=generator)] = True
    return alpha, active


@given(seeds, betas, modes)
def test_a_genotype_takes_an_active_operation_on_two_edges_into_every_node(seed, beta, mode):
    alpha, active = random_alpha_and_mask(seed)
    genotype = discretise(alpha, beta, active, Settings(importance=mode).cell)
    assert [edge.target for edge in genotype.operations] == [2, 2, 3, 3, 4, 4, 5, 5]
    for edge, operation in genotype.operations.items():
        assert active[EDGES.index(edge), OPERATIONS.index(operation)]


@given(seeds, betas, st.sampled_from(["tanh", "tan"]))
def test_every_node_keeps_the_two_edges_with_the_largest_beta(seed, beta, transform):
    alpha, active = random_alpha_and_mask(seed)
    kept = discretise(alpha, beta, active, Settings(edge_transform=transform).cell).operations
    clamped = beta.clamp(-1.5, 1.5) if transform == "tan" else beta
    for node in INTERMEDIATE_NODES:
        kept_here = [clamped[e].item() for e in edges_into(node) if EDGES[e] in kept]
        largest = sorted((clamped[e].item() for e in edges_into(node)), reverse=True)[:2]
        assert sorted(kept_here, reverse=True) == pytest.approx(largest, abs=1e-12)


@given(seeds, betas)
def test_every_kept_edge_takes_its_active_operation_with_the_largest_alpha(seed, beta):
    alpha, active = random_alpha_and_mask(seed)
    best = alpha.masked_fill(~active, -torch.inf).argmax(dim=1)
    for edge, operation in discretise(alpha, beta, active, Settings().cell).operations.items():
        assert operation == OPERATIONS[best[EDGES.index(edge)]]


def test_a_hand_made_example():
    alpha = torch.zeros(14, 7)
    alpha[torch.arange(14), torch.arange(14) % 7] = 1.0
    beta = torch.zeros(14)
    beta[[3, 4]] = 0.1  # into v3: from v1 and v2
    beta[[5, 8]] = torch.tensor([0.3, 0.2])  # into v4: from v0 and v3
    beta[[9, 10, 12]] = -0.1  # into v5: what is left is v2 and v4
    kept = discretise(alpha, beta, full_mask(), Settings().cell).operations
    assert kept == {
        Edge(0, 2): OPERATIONS[0],
        Edge(1, 2): OPERATIONS[1],
        Edge(1, 3): OPERATIONS[3],
        Edge(2, 3): OPERATIONS[4],
        Edge(0, 4): OPERATIONS[5],
        Edge(3, 4): OPERATIONS[8 - 7],
        Edge(2, 5): OPERATIONS[11 - 7],
        Edge(4, 5): OPERATIONS[13 - 7],
    }


def test_ties_keep_the_first_edges_and_the_last_operation():
    kept = discretise(torch.zeros(14, 7), torch.zeros(14), full_mask(), Settings().cell).operations
    assert kept == {
        Edge(source, node): "dil_conv_5x5" for node in INTERMEDIATE_NODES for source in (0, 1)
    }


@given(seeds, betas, modes, st.integers(0, 8))
def test_a_cap_on_identities_holds_and_touches_nothing_else(seed, beta, mode, limit):
    alpha, active = identity_rich(seed)
    free = discretise(alpha, beta, active, Settings(importance=mode).cell).operations
    capped = discretise(alpha, beta, active, Settings(importance=mode, max_identity=limit).cell)
    had, left = (
        [edge for edge, operation in kept.items() if operation == "identity"]
        for kept in (free, capped.operations)
    )
    assert len(left) == min(limit, len(had))
    assert set(left) <= set(had)
    assert capped.operations.keys() == free.keys()
    assert all(capped.operations[edge] == free[edge] for edge in free if edge not in had)
    weights = edge_weights(beta)
    dropped = [weights[EDGES.index(edge)].item() for edge in set(had) - set(left)]
    assert max(dropped, default=0.0) <= min(
        (weights[EDGES.index(edge)].item() for edge in left), default=1.0
    )


@given(seeds, betas, modes)
def test_an_edge_beyond_the_cap_takes_its_best_other_active_operation(seed, beta, mode):
    alpha, active = identity_rich(seed)
    settings = Settings(importance=mode, max_identity=0)
    found = discretise(alpha, beta, active, settings.cell).operations
    without = active.clone()
    without[:, 0] = False
    pruned_to_identity = ~without.any(dim=1)
    without[pruned_to_identity, 1:] = True
    expected = discretise(alpha, beta, without, Settings(importance=mode).cell).operations
    for index, edge in enumerate(EDGES):
        if edge in found and pruned_to_identity[index]:
            assert found[edge] == OPERATIONS[1 + int(alpha[index, 1:].argmax())]
        elif edge in found:
            assert found[edge] == expected[edge]


def identity_rich(seed):
    """Return alpha and a mask where the identity leads on many edges, on some as the only one."""
    alpha, active = random_alpha_and_mask(seed)
    generator = torch.Generator().manual_seed(seed)
    alpha[:, 0] += 3 * torch.rand(14, generator=generator)
    active[:, 0] |= torch.rand(14, generator=generator) < 0.7
    active[:, 1:] &= (torch.rand(14, generator=generator) < 0.6)[:, None] | ~active[:, :1]
    return alpha, active


def test_of_equal_weights_the_later_edges_give_their_identity_up_first():
    alpha = torch.zeros(14, 7)
    alpha[:, 0], alpha[:, 2], alpha[:, 4] = 3.0, 1.0, 1.0
    active = torch.zeros(14, 7, dtype=torch.bool)
    active[:, 0] = True
    active[6, 1:3] = True  # 1->4 was not pruned to the end
    beta = torch.zeros(14)
    beta[9] = 0.1  # Psi of 0->5 is above that of 1->5, and both are below a quarter, as into v4
    kept = discretise(alpha, beta, active, Settings(max_identity=5).cell).operations
    assert kept == {
        Edge(0, 2): "identity",
        Edge(1, 2): "identity",
        Edge(0, 3): "identity",
        Edge(1, 3): "identity",
        Edge(0, 4): "identity",
        Edge(1, 4): "avg_pool_3x3",
        Edge(0, 5): "sep_conv_5x5",
        Edge(1, 5): "sep_conv_5x5",
    }
