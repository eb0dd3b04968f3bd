"""How often the choice of an adapter is right is counted on cases that do not describe a site."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "docs" / "evidence" / "adaptation"


@pytest.fixture
def choice(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)  # It imports the script beside it.
    return script("evidence/adaptation/choice")


def cases(names: list[str], place: float) -> dict[str, torch.Tensor]:
    """Return the statistics of cases around a place, the last two features without a site."""
    generator = torch.Generator().manual_seed(len(names))
    found = torch.randn(len(names), 8, generator=generator)
    found[:, :6] += place
    return dict(zip(names, found, strict=True))


def test_ways_are_compared_on_the_rest_of_the_pool(choice: ModuleType) -> None:
    pool = cases([f"t{n}" for n in range(12)], 9.0)
    train = cases([f"p{n}_{frame}" for n in range(8) for frame in "ab"], 0.0)
    found = choice.compared(pool, train, r"p\d+", 2)
    assert {each["cases"] for each in found} == {1, 3, 5, 10}
    by_stages = {
        stages: [each["right"] for each in found if each["stages"] == stages]
        for stages in choice.STAGES
    }
    assert all(right == {"site": 1.0, "none": 1.0} for right in by_stages["all"])
    assert all(right["site"] < 1 for right in by_stages["the last"])  # They differ by nothing.


def test_held_out_cases_of_both_sides_are_counted_once_per_draw(choice: ModuleType) -> None:
    target, source = cases(["a", "b", "c"], 9.0), cases(["p", "q", "r"], 0.0)
    splits = [{"train": ["a", "b"], "val": ["c"]}] * len(choice.CASES) * choice.DRAWS
    found = choice.counted(target, source, splits, {"train": ["p", "q"], "val": ["r"]})
    assert found == {str(k): {"site": [3, 3], "none": [3, 3]} for k in choice.CASES}
