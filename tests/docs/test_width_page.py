"""docs/evidence/width.md: how votes of seeds are counted."""

from pathlib import Path

import numpy as np
import pytest
from study_documents import run

from nnunet_iac.runs.atomic import write_json


@pytest.fixture(scope="module")
def page(script):
    return script("evidence/width/page")


def test_every_repetition_has_seeds_of_its_own(page):
    # Of three seeds one votes 16, the others 8; all of them fall at the narrow end only.
    eight = [100, 101, 102, 103, 104, 105, 106, 96, 60, 10.0]
    sixteen = [100, 101, 102, 103, 104, 105, 106, 40, 20, 10.0]
    measured = {
        "caps": [512 >> k for k in range(10)],
        "parameters": [10**k for k in range(10, 0, -1)],
        "scores": [eight, eight, sixteen] * 8,
    }
    assert page.picks(measured, "curve", 1, False) == [8, 8, 16] * 8
    assert page.picks(measured, "curve", 8, False) == [8] * 3
    assert page.picks(measured, "dispersion", 16, False) == [8]


def test_a_refusal_is_counted_and_not_hidden(page):
    measured = {"caps": [5, 4, 3, 2, 1], "parameters": [5, 4, 3, 2, 1], "scores": [[1.0] * 5] * 8}
    assert page.picks(measured, "curve", 8, False) == [None]


COSTS = {"cap-64": (64, 64_000), "cap-16": (16, 1_600), "cap-8": (8, 400), "cap-9": (9, 500)}
GAINS = {"cap-64": 0.1, "cap-16": 0.098, "cap-8": 0.02, "cap-9": 0.03, "cap-8-twice": 0.0205}


def trained(page, tmp_path, monkeypatch):
    """Write made-up results, and return what the page reads of them."""
    monkeypatch.setattr(page, "HERE", tmp_path)
    runs = []
    for number, (name, gain) in enumerate(GAINS.items()):
        noise = np.random.default_rng(number).normal(0, 1e-4, 16)
        curve = [0.5] * (20 if "twice" in name else 10)
        own = {"trainer": "nnUNetTrainerAdam_80epochs", "curve": curve}
        made = run("reference", 0, gain, backbone=name, **own)
        pairs = zip(made["dice"].items(), noise, strict=True)
        runs.append({**made, "dice": {case: dice + x for (case, dice), x in pairs}})
    costs = {
        name: {"cap": cap, "parameters": macs // 4, "macs": macs}
        for name, (cap, macs) in COSTS.items()
    }
    costs["cap-8-twice"] = costs["cap-8"]
    study = {"runs": runs, "halves": {"cap-8": "cap-8-twice"}, "costs": costs}
    write_json(tmp_path / "dice_frames.json", study)
    macs = {"backbone": 400, "final": 480}
    own = {"backbone": "cap-8", "macs": macs, "settings": {"iterations_per_epoch": 20}}
    cells = [run("random", seed, 0.05, **own) for seed in (0, 1)]
    write_json(tmp_path / "cells_frames.json", {"runs": cells, "costs": costs})
    (found,) = page.measured()
    return found


def test_the_smallest_width_is_close_to_the_best_as_all_between_are(page, tmp_path, monkeypatch):
    found = trained(page, tmp_path, monkeypatch)
    assert [width.cap for width in found.widths] == [64, 16, 9, 8]
    assert found.smallest.cap == 16
    assert found.widths[1].against.difference == pytest.approx(-0.002, abs=1e-4)
    family = [width.against for width in found.widths[1:]]
    assert {each.family for each in family} == {3}
    assert {each.labels for each in family} == {
        ("cap-64", name) for name in ("cap-16", "cap-9", "cap-8")
    }
    assert [one.half for one in found.converged] == ["cap-8"]


def test_cells_are_compared_with_the_plain_network_of_equal_macs(page, tmp_path, monkeypatch):
    (beside,) = trained(page, tmp_path, monkeypatch).beside
    assert (beside.cap, beside.method, beside.wider.cap) == (8, "random", 9)
    assert beside.against.difference == pytest.approx(0.02, abs=1e-4)


def test_the_page_has_what_was_trained(page, tmp_path, monkeypatch):
    for template in Path(page.__file__).parent.glob("*.jinja"):
        (tmp_path / template.name).write_text(template.read_text())
    trained(page, tmp_path, monkeypatch)
    text = page.page()
    best = "the best, a cap of 64, by 0.005 is a cap of 16, with a Dice of 0.8055 instead of 0.8075"
    assert best in text
    assert (
        "- Added to a cap of 8, random cells: 0.0200 higher than a plain network of as many" in text
    )
    monkeypatch.setitem(GAINS, "cap-16", 0.102)
    assert trained(page, tmp_path, monkeypatch).widths[0].against is not None
    assert "no narrower width was shown to be within 0.005 of the best, a cap of 16" in page.page()
    assert "cap-8-twice, trained for 20 epochs" in text
