"""The counts of docs/reliability.md are those of its result files, and the tables are complete."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reliability() -> ModuleType:
    path = ROOT / "docs" / "reliability" / "page.py"
    specification = importlib.util.spec_from_file_location("reliability_page", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_reliability_page_is_what_its_result_files_say(reliability: ModuleType) -> None:
    assert (ROOT / "docs" / "reliability.md").read_text() == reliability.page()


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        ("train_step", "in an epoch"),
        ("predict_sliding_window_return_logits", "in the final validations"),
        ("write .writing.cost.json.x1_y.json", "writing a record: half a file"),
        (
            "os.chmod .writing.checkpoint_latest.pth.ab12.pth",
            "putting a whole checkpoint in place",
        ),
        (
            "fsync .writing.checkpoint_previous.pth.a_1.pth",
            "putting a whole checkpoint in place",
        ),
        (
            "write plans.json",
            "what nnU-Net writes itself, folders, moves",
        ),
    ],
)
def test_every_moment_has_its_place(reliability: ModuleType, moment: str, place: str) -> None:
    assert reliability.place(moment) == place
