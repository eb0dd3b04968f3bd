"""Where docs/evidence/reliability.md says that a run was killed."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def reliability(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("evidence/reliability/page")


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        ("train_step", "a step of an epoch"),
        ("predict_sliding_window_return_logits", "predicting a case"),
        ("write .writing.cost.json.x1_y.json", "writing a record: half a file"),
        (
            "os.chmod .writing.checkpoint_latest.pth.ab12.pth",
            "putting a whole checkpoint in place",
        ),
        (
            "fsync .writing.checkpoint_previous.pth.a_1.pth",
            "putting a whole checkpoint in place",
        ),
        ("fsync .writing.measured-on.json.a_1.json", "putting a whole record in place"),
        (
            "write plans.json",
            "what nnU-Net writes itself, folders, moves",
        ),
    ],
)
def test_every_moment_has_its_place(reliability: ModuleType, moment: str, place: str) -> None:
    assert reliability.place(moment) == place
