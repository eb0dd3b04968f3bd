"""docs/evidence/width.md: how votes of seeds are counted."""

import pytest


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
