import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.pruning import full_mask
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
