import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import (
    nnUNetTrainerBN,
)

from nnunet_iac.width.consensus import consensus
from nnunet_iac.width.crops import central_crops
from nnunet_iac.width.figure import draw_width, width_figure
from nnunet_iac.width.sensitivity import prepared, sensitivities
from nnunet_iac.width.study import choose_width, default_seeds

CAPS = [32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "residual"])
def test_a_study_holds_what_its_parts_give(source, configuration):
    given = source(configuration)
    study = choose_width(given, images=2, seeds=(3, 5))
    assert [candidate.cap for candidate in study.candidates] == CAPS
    assert study.cases == ("case_0", "case_2")
    crops = central_crops(given, study.cases)
    one = sensitivities(prepared(given.network(4, 5), "cpu"), crops)
    assert study.scores.shape == (2, 6)
    assert study.scores[1, 3] == pytest.approx(np.mean(one), rel=1e-6)
    parameters = [cost.parameters for cost in study.costs]
    assert study.consensus == consensus("curve", CAPS, parameters, study.scores)


@pytest.mark.parametrize("score", ["sum", "frobenius"])
def test_the_same_seeds_give_the_same_scores(source, score):
    once, again = (
        choose_width(source(), images=2, seeds=(0, 1), score=score).scores for _ in range(2)
    )
    np.testing.assert_allclose(once, again, rtol=1e-6)


def test_random_numbers_continue_as_if_nothing_had_been_drawn(source):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    choose_width(source(), images=1, seeds=(0,))
    assert torch.equal(torch.get_rng_state(), before)


def test_any_trainers_network_is_scored(source):
    study = choose_width(source(trainer=nnUNetTrainerBN), images=1, seeds=(0,))
    assert np.isfinite(study.scores).all()


def test_every_seed_is_reported(source):
    lines = []
    choose_width(source(), images=1, seeds=(4, 7), report=lines.append)
    assert lines == ["seed 1 of 2", "seed 2 of 2"]


def test_mean_and_spread_are_of_logarithms(source):
    study = choose_width(source(), images=1, seeds=(0, 1))
    first, second = np.log(study.scores)
    np.testing.assert_allclose(study.mean, (first + second) / 2)
    # The standard deviation of two values, n - 1 in the denominator, is |a - b| / sqrt 2.
    np.testing.assert_allclose(study.spread, np.abs(first - second) / math.sqrt(2))
    assert np.isnan(choose_width(source(), images=1, seeds=(0,)).spread).all()


def test_the_table_names_costs_votes_reasons_and_warnings(source):
    study = choose_width(source(), images=1, seeds=(0,))
    lines = study.lines()
    assert lines[0].split() == ["cap", "parameters", "MACs", "FLOPs", "ln", "S", "spread"]
    widest = lines[1].replace(",", "").split()
    cost = study.costs[0]
    assert [int(word) for word in widest[:4]] == [32, cost.parameters, cost.macs, 2 * cost.macs]
    assert widest[5] == "-"
    assert f"picks of the 1 seeds: {study.pick}" in lines
    assert any(line.startswith("warning: one seed") for line in lines)


def test_the_document_is_json_with_the_seeds_and_the_cases(source):
    document = choose_width(source(), images=2, seeds=(0,), caps=[32, 16, 8, 4, 3]).document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["cases"] == ["case_0", "case_2"]
    assert document["seeds"] == [0]
    assert document["caps"] == [32, 16, 8, 4, 3]
    assert document["ln_sensitivity"]["spread"] == [None] * 5
    assert (document["device"], document["tau"]) == ("cpu", None)


def test_dispersion_has_sixteen_seeds_by_default():
    assert [len(default_seeds(rule)) for rule in ("curve", "slope", "dispersion")] == [8, 8, 16]


def test_too_few_seeds_are_refused_before_anything_is_measured(source):
    with pytest.raises(ValueError, match="at least 16 seeds; got 8: use --seeds 16"):
        choose_width(source(data_identifier="absent"), "dispersion", seeds=range(8))


def test_the_figure_shows_every_seed_and_what_it_picked(source, tmp_path):
    study = choose_width(source(), images=1, seeds=range(3))
    above, below = width_figure(study).axes
    assert len(above.collections[0].get_segments()) == 3
    heights = {cap: bar.get_height() for cap, bar in zip(CAPS, below.patches[-6:], strict=True)}
    assert {cap: int(height) for cap, height in heights.items() if height} == {
        cap: study.consensus.picks.count(cap) for cap in set(study.consensus.picks)
    }
    draw_width(study, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def undecided(source):
    """A study by `dispersion` of which two of sixteen subsets have a pick."""
    study = choose_width(source(), images=1, seeds=(0,))
    scores = np.exp(np.array([0.67, -0.67] + [0.0] * 14)[:, None] * np.ones(6))
    parameters = [cost.parameters for cost in study.costs]
    found = consensus("dispersion", CAPS, parameters, scores)
    return dataclasses.replace(study, seeds=tuple(range(16)), scores=scores, consensus=found)


def test_picks_of_dispersion_are_named_as_those_with_a_seed_left_out(undecided):
    nones = ", ".join(["none"] * 14)
    assert f"picks with each of the 16 seeds left out: 1, 1, {nones}" in undecided.lines()
    _, below = width_figure(undecided).axes
    assert below.get_title("left") == "picks with one seed left out (none: 14)"
    assert [text.get_text() for text in below.texts] == ["2"]
    document = undecided.document()
    assert document["picks"] == [1, 1] + [None] * 14
    assert document["tau"] == 0.25


def test_a_figure_without_any_pick_left_can_be_drawn(undecided, tmp_path):
    found = dataclasses.replace(undecided.consensus, picks=(None,) * 16)
    draw_width(dataclasses.replace(undecided, consensus=found), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").is_file()


def test_a_range_limits_the_pick(source):
    found = choose_width(source(), images=1, seeds=(0, 1), within=(4, 2)).consensus
    assert found.together.range == (4, 2)
    assert set(found.picks) <= {4, 2}


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("slope", {"caps": CAPS[:5]}, "at least 6 candidates; got the 5 caps 32, 16, 8, 4, 2"),
        ("curve", {"within": (1, 1)}, "none is within 1 to 1"),
        ("dispersion", {"within": (7, 5)}, "none is within 7 to 5"),
    ],
)
def test_nothing_to_pick_is_refused_before_anything_is_measured(source, rule, options, message):
    with pytest.raises(ValueError, match=message):
        choose_width(source(data_identifier="absent"), rule, **options)


def test_a_gpu_that_is_not_there_is_refused(source, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="the device cuda needs a GPU"):
        choose_width(source(), device="cuda")


def test_an_unknown_rule_is_refused_before_anything_is_measured(source):
    with pytest.raises(ValueError, match="one of curve, slope, dispersion; got 'hinge'"):
        choose_width(source(), "hinge")
