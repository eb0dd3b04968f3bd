import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.genotype import NOT_KEPT, Choice, Genotype
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge


@st.composite
def eight_choices(draw):
    choices = [
        Choice(Edge(source, node), draw(st.sampled_from(OPERATIONS)))
        for node in INTERMEDIATE_NODES
        for source in draw(st.permutations(range(node)))[:2]
    ]
    return tuple(draw(st.permutations(choices)))


@pytest.fixture
def document(random_genotype):
    return random_genotype(0).to_document()


@given(eight_choices())
def test_a_genotype_survives_json(choices):
    genotype = Genotype(choices)
    assert Genotype.from_document(json.loads(json.dumps(genotype.to_document()))) == genotype


@given(eight_choices())
def test_a_genotype_survives_its_codes(choices):
    genotype = Genotype(choices)
    codes = genotype.to_codes()
    assert len(codes) == len(EDGES)
    assert codes.count(NOT_KEPT) == 6
    assert Genotype.from_codes(codes) == genotype


@given(eight_choices())
def test_choices_are_in_the_order_of_the_edges_however_given(choices):
    ordered = Genotype(choices).choices
    assert set(ordered) == set(choices)
    assert ordered == tuple(sorted(choices, key=lambda c: (c.edge.target, c.edge.source)))


def test_document_codes_and_text_of_a_genotype_are_frozen():
    choices = [
        Choice(Edge(0, 2), "identity"),
        Choice(Edge(1, 2), "max_pool_3x3"),
        Choice(Edge(0, 3), "avg_pool_3x3"),
        Choice(Edge(2, 3), "sep_conv_3x3"),
        Choice(Edge(1, 4), "sep_conv_5x5"),
        Choice(Edge(3, 4), "dil_conv_3x3"),
        Choice(Edge(0, 5), "dil_conv_5x5"),
        Choice(Edge(4, 5), "identity"),
    ]
    genotype = Genotype(tuple(choices))
    document = genotype.to_document()
    assert {key: document[key] for key in ("format", "version")} == {
        "format": "nnunet-iac genotype",
        "version": 1,
    }
    assert document["edges"][3] == {"source": 2, "target": 3, "operation": "sep_conv_3x3"}
    assert genotype.to_codes() == [0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0]
    assert str(genotype).splitlines() == [
        "v2 = identity(v0) + max_pool_3x3(v1)",
        "v3 = avg_pool_3x3(v0) + sep_conv_3x3(v2)",
        "v4 = sep_conv_5x5(v1) + dil_conv_3x3(v3)",
        "v5 = dil_conv_5x5(v0) + identity(v4)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operation": "sep_conv_7x7"}, r"edge 0->2 has 'sep_conv_7x7'"),
        ({"source": 2}, r"among 2 to 5; got 2->2"),
        ({"target": 6}, r"among 2 to 5; got 0->6"),
        ({"source": 1}, r"1->2 is a duplicate"),
        ({"source": 2, "target": 5}, r"node 2 has 1"),
        ({"source": "0"}, r"must be integers; got \{'source': '0'"),
        ({"target": 2.0}, r"must be integers; got .*'target': 2\.0"),
        ({"source": True}, r"must be integers; got \{'source': True"),
    ],
)
def test_an_impossible_edge_is_refused(change, message):
    choices = [
        {"source": source, "target": node, "operation": "identity"}
        for node in INTERMEDIATE_NODES
        for source in (0, 1)
    ]
    choices[0].update(change)
    document = {"format": "nnunet-iac genotype", "version": 1, "edges": choices}
    with pytest.raises(ValueError, match=message):
        Genotype.from_document(document)


@pytest.mark.parametrize("field", ["source", "target", "operation"])
def test_an_edge_without_a_field_is_refused(document, field):
    broken = copy.deepcopy(document)
    del broken["edges"][4][field]
    rest = json.dumps(broken["edges"][4]).replace('"', "'")
    with pytest.raises(ValueError, match=f"got {rest}"):
        Genotype.from_document(broken)


@pytest.mark.parametrize("entry", ["identity", 3, None])
def test_an_edge_that_is_no_object_is_refused(document, entry):
    document["edges"][0] = entry
    with pytest.raises(ValueError, match=f'and "operation"; got {entry!r}'):
        Genotype.from_document(document)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(document, version):
    with pytest.raises(ValueError, match=f"version 1; the document has version {version!r}"):
        Genotype.from_document({**document, "version": version})


def test_another_format_is_refused(document):
    with pytest.raises(ValueError, match="nnunet-iac genotype\"; got 'darts'"):
        Genotype.from_document({**document, "format": "darts"})


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r"must be a JSON object; got \[1\]"):
        Genotype.from_document([1])


def test_a_document_without_a_list_of_edges_is_refused(document):
    with pytest.raises(ValueError, match='under "edges"; got None'):
        Genotype.from_document({key: document[key] for key in ("format", "version")})


def test_a_genotype_with_a_missing_edge_names_the_node(random_genotype):
    without_last = random_genotype(3).choices[:-1]
    with pytest.raises(ValueError, match="node 5 has 1"):
        Genotype(without_last)


@pytest.mark.parametrize("code", [-2, 7])
def test_an_impossible_code_is_refused(random_genotype, code):
    codes = random_genotype(0).to_codes()
    codes[0] = code
    with pytest.raises(ValueError, match=f"-1 to 6; got {code}"):
        Genotype.from_codes(codes)
