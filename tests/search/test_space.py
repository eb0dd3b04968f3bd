import nnunet_iac.search.space as space
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge, edges_into


def test_there_are_fourteen_edges_sorted_by_target_then_source():
    expected = (
        *((0, 2), (1, 2)),
        *((0, 3), (1, 3), (2, 3)),
        *((0, 4), (1, 4), (2, 4), (3, 4)),
        *((0, 5), (1, 5), (2, 5), (3, 5), (4, 5)),
    )
    assert expected == EDGES


def test_there_are_seven_operations_in_the_order_that_breaks_ties():
    assert OPERATIONS == (
        "identity",
        "max_pool_3x3",
        "avg_pool_3x3",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )


def test_the_parameter_free_operations_are_identity_and_pooling():
    assert space.PARAMETER_FREE == ("identity", "max_pool_3x3", "avg_pool_3x3")


def test_edges_into_a_node_are_contiguous_indices():
    assert [edges_into(node) for node in (2, 3, 4, 5)] == [
        (0, 1),
        (2, 3, 4),
        (5, 6, 7, 8),
        (9, 10, 11, 12, 13),
    ]


def test_an_edge_is_named_by_source_and_target():
    assert Edge(source=3, target=5).name == "3_5"
