"""Whatever a file or a command line holds is a valid object or a ValueError, and no other error."""

import copy
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_iac.nn.cell import CellShape
from nnunet_iac.search.annealing import cosine_power, polynomial
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.settings import Settings, parse_assignment
from nnunet_iac.search.space import EDGES, INTERMEDIATE_NODES, OPERATIONS, Edge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = tuple(Settings().to_mapping())


@st.composite
def genotypes(draw):
    return Genotype(
        tuple(
            Choice(Edge(source, node), draw(st.sampled_from(OPERATIONS)))
            for node in INTERMEDIATE_NODES
            for source in draw(st.permutations(range(node)))[:2]
        )
    )


def _places(document):
    """Return the container and key of every value inside a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    places = []
    for key, value in items:
        places.append((document, key))
        if isinstance(value, dict | list):
            places += _places(value)
    return places


@st.composite
def mutations(draw, documents):
    """Return a document in which a few values are replaced, left out or doubled."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "leave out", "double"]))
        if change == "replace":
            container[key] = draw(JSON | st.sampled_from(OPERATIONS) | st.integers(-3, 8))
        elif change == "leave out":
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[draw(st.text())] = container[key]
    return document


def _read_genotype(document):
    """Check the law for a document; return the genotype, or None if it was refused."""
    try:
        genotype = Genotype.from_document(document)
    except ValueError:
        return None
    assert Genotype.from_document(json.loads(json.dumps(genotype.to_document()))) == genotype
    assert Genotype.from_codes(genotype.to_codes()) == genotype
    return genotype


def _read_settings(values):
    try:
        settings = Settings.from_mapping(values)
    except ValueError:
        return None
    document = json.loads(json.dumps(settings.to_mapping(), allow_nan=False))
    assert Settings.from_mapping(document) == settings
    return settings


@given(JSON)
def test_no_value_but_a_genotype_document_is_a_genotype(value):
    assert _read_genotype(value) is None


@given(mutations(genotypes().map(Genotype.to_document)))
def test_a_changed_genotype_document_is_a_genotype_or_refused(document):
    genotype = _read_genotype(document)
    if genotype is not None:
        assert type(document["version"]) is int
        assert len(document["edges"]) == len(genotype.choices)


@given(genotypes(), st.sampled_from(["format", "version", "edges"]), JSON)
def test_the_message_names_the_key_of_a_genotype_document(genotype, key, value):
    with pytest.raises(ValueError, match=f"{key}|edge"):
        Genotype.from_document({**genotype.to_document(), key: value})


@given(
    genotypes(),
    st.integers(0, 7),
    st.sampled_from(["source", "target", "operation"]),
    JSON.filter(lambda value: type(value) is not int),
)
def test_the_message_names_the_key_of_an_edge(genotype, number, key, value):
    document = genotype.to_document()
    document["edges"][number][key] = value
    with pytest.raises(ValueError, match=f"{key}|operation of a genotype"):
        Genotype.from_document(document)


@given(st.lists(st.integers(-3, 8) | JSON, max_size=20) | st.text() | st.binary())
@example([])
@example([0] * 13)
@example([0] * 14)
@example([True] * 14)
@example([-1] * 15)
def test_no_other_list_is_the_codes_of_a_genotype(codes):
    with pytest.raises(ValueError, match=r"genotype|zip\(\)"):
        Genotype.from_codes(codes)


@given(genotypes(), st.integers(0, len(EDGES) - 1), st.integers(-3, 8) | JSON)
def test_codes_with_one_changed_are_a_genotype_or_refused(genotype, place, value):
    codes = genotype.to_codes()
    codes[place] = value
    try:
        changed = Genotype.from_codes(codes)
    except ValueError as error:
        assert "genotype" in str(error)  # noqa: PT017 - a valid value is fine, too
    else:
        assert changed.to_codes() == codes


@given(JSON)
@example({})
def test_any_value_is_settings_or_refused(value):
    settings = _read_settings(value)
    assert settings is None or value == {}


NUMBERS = tuple(
    key for key, value in Settings().to_mapping().items() if type(value) in (int, float)
)
EXTREMES = (0, 1, 1e-300, 1e-12, 100, 1000, 4096, 10**6, 2**64 - 1, 1e9, 1e300, 10**400)


@given(st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from(EXTREMES), max_size=4))
@example({"annealing_power": 1e200})
@example({"preset": "adaptive", "architecture_lr": 1e200})
@example({"preset": "adaptive", "architecture_lr": 1e-200})
@example({"preset": "adaptive", "iterations_per_epoch": 10**400})
@example({"search_epochs": 10**400})
@example({"min_channels": 10**400})
def test_what_is_computed_from_valid_numbers_is_finite(values):
    settings = _read_settings(values)
    if settings is None:
        return
    schedule, rates, cell = settings.schedule, settings.optimisation, settings.cell
    cosine = (rates.weights_lr, rates.weights_lr_min, rates.annealing_power)
    widths = ("channel_ratio", "min_channels", "partial_channels")
    numbers = [
        *(cosine_power(epoch, schedule.search_epochs, *cosine) for epoch in (0, 1)),
        polynomial(0, max(1, schedule.finetune_epochs), rates.finetune_lr),
        CellShape.of_level(64, **{key: getattr(cell, key) for key in widths}).channels,
        schedule.search_epochs * schedule.iterations_per_epoch / settings.soonest_end,
    ]
    assert all(map(math.isfinite, numbers))


@given(st.dictionaries(st.integers() | st.none() | st.tuples(st.integers()), JSON, min_size=1))
def test_a_key_that_is_no_text_is_an_unknown_setting(values):
    with pytest.raises(ValueError, match="unknown setting"):
        Settings.from_mapping(values)


@given(mutations(st.just(Settings().to_mapping())))
def test_changed_settings_are_settings_or_refused(values):
    _read_settings(values)


@given(st.sampled_from(KEYS), JSON)
@example("stability_threshold", 10**400)
@example("seed", 2**64)
@example("patient_pattern", "a{99999999999}")
@example("patient_pattern", "(" * 5000 + ")" * 5000)
@example("warmup_epochs", 10**6)
@example("architecture_betas", [math.nan, 0.5])
def test_the_message_names_the_setting(key, value):
    try:
        Settings.from_mapping({key: value})
    except ValueError as error:
        assert key in str(error)  # noqa: PT017 - a valid value is fine, too
    else:
        assert _read_settings({key: value}) is not None


@given(st.text())
def test_any_text_is_an_assignment_or_refused(text):
    try:
        key, value = parse_assignment(text)
    except ValueError as error:
        assert repr(text.partition("=")[0]) in str(error) or repr(text) in str(error)  # noqa: PT017
    else:
        _read_settings({key: value})


@given(
    st.sampled_from(KEYS),
    st.text() | JSON.filter(lambda value: value != 10**400).map(json.dumps),
)
@example("stability_threshold", "1" + "0" * 400)
@example("stability_threshold", "1" + "0" * 5000)
@example("stability_threshold", "[" * 10**5)
@example("seed", '"3"')
@example("genotype", "")
def test_the_value_of_an_assignment_has_its_settings_type_or_the_message_names_the_key(key, text):
    try:
        known, value = parse_assignment(f"{key}={text}")
        Settings.from_mapping({known: value})
    except ValueError as error:
        assert key in str(error)  # noqa: PT017 - a valid value is fine, too
    else:
        assert known == key
        assert _read_settings({known: value}) is not None
