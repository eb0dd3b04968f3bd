"""The line that says how far a run is: its text, and that the end it expects comes true."""

from datetime import datetime
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.search.pruning import Observation, PruningState, begin, close_epoch, full_mask
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.progress import (
    Progress,
    SearchProgress,
    progress_line,
    search_ends,
    search_progress,
)

NOON = datetime(2026, 3, 5, 12, 0, 0)
EDGE_COUNT, OPERATION_COUNT = 14, 7


def _observation(epoch: int, seed: int = 0, size: float = 0.0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    alpha = size * torch.randn(EDGE_COUNT, OPERATION_COUNT, generator=generator)
    return Observation(epoch, alpha, torch.zeros(EDGE_COUNT))


def _state(left: list[int], checks: list[int]) -> PruningState:
    """Return a state whose first edges have so many operations left and stable checks."""
    state = begin(_observation(0), Settings().stability, Settings().cell)
    active = full_mask()
    for edge, operations in enumerate(left):
        active[edge, operations:] = False
    stable = torch.zeros(EDGE_COUNT, dtype=torch.int64)
    stable[: len(checks)] = torch.tensor(checks)
    return PruningState(active, state.threshold, stable, state.previous)


def _search(
    state: PruningState | None, epochs: int, settings: Settings, prunes: bool = True
) -> SearchProgress:
    return search_progress(state, search_ends(state, epochs, settings, prunes))


def _line(progress: Progress, pace: float = 60.0, now: datetime = NOON) -> str:
    return progress_line(progress, pace, now)


def test_the_line_of_the_warm_up_of_a_paper_search() -> None:
    settings = Settings(preset="paper")
    search = _search(None, 3, settings)
    # 15 + 6 prunes of 6 checks = 51; 51 + 200 - 3 = 248 epochs of a minute are 4 h 8 min.
    assert _line(Progress("warmup", 3, (251, 251), search)) == (
        "Phase: warmup, 3 epochs done; 98 of 98 operations left, 0 of 14 edges settled; "
        "search ends after 51 epochs; "
        "training ends about 16:08 (in 4 h 8 min) at this pace"
    )


def test_the_line_of_a_literal_search() -> None:
    settings = Settings(preset="literal")
    # One prune an epoch: after epoch 18 every edge has four left, and three epochs are to come.
    search = _search(_state([4] * 14, []), 18, settings)
    assert _line(Progress("search", 18, (221, 221), search), pace=2.0) == (
        "Phase: search, 18 epochs done; 56 of 98 operations left, 0 of 14 edges settled; "
        "search ends after 21 epochs; "
        "training ends about 12:06 (in 7 min) at this pace"  # 203 epochs of 2 s are 406 s.
    )


def test_the_line_of_a_paper_search_in_the_middle_of_its_checks() -> None:
    settings = Settings(preset="paper")
    # 27 = 15 + 12: two prunes, so five left. 30 is three checks on: (5 - 1) 6 - 3 = 21 to come.
    search = _search(_state([5] * 14, [3] * 14), 30, settings)
    assert search == SearchProgress(operations=70, settled=0, ends=(51, 51))
    assert _line(Progress("search", 30, (251, 251), search), pace=0.1) == (
        "Phase: search, 30 epochs done; 70 of 98 operations left, 0 of 14 edges settled; "
        "search ends after 51 epochs; "
        "training ends about 12:00 (in 22 s) at this pace"  # 221 epochs of 0.1 s.
    )


def test_the_line_of_an_adaptive_search_gives_a_range() -> None:
    settings = Settings(preset="adaptive")
    # Three edges settled, one with six left, ten with seven: 3 + 6 + 70 = 79. The seven need six
    # epochs at least: 27 + 6 = 33, and the limit is 200.
    search = _search(_state([1, 1, 1, 6], []), 27, settings)
    line = _line(Progress("search", 27, (233, 400), search), pace=600.0)
    assert line == (
        "Phase: search, 27 epochs done; 79 of 98 operations left, 3 of 14 edges settled; "
        "search ends after 33 to 200 epochs; "
        # 206 epochs of ten minutes are 34 h 20 min, 373 are 62 h 10 min.
        "training ends between 2026-03-06 22:20 and 2026-03-08 02:10 (in 1 d 10 h to 2 d 14 h) "
        "at this pace"
    )


def test_the_line_of_a_full_search_knows_its_end() -> None:
    search = _search(
        begin(_observation(0), Settings().stability, Settings().cell), 40, Settings(), prunes=False
    )
    assert _line(Progress("search", 40, (400, 400), search), pace=10.0) == (
        "Phase: search, 40 epochs done; 98 of 98 operations left, 0 of 14 edges settled; "
        "search ends after 200 epochs; "
        "training ends about 13:00 (in 1 h 0 min) at this pace"
    )


def test_the_line_of_the_last_epoch_of_a_search() -> None:
    search = _search(_state([1] * 14, []), 51, Settings(preset="paper"))
    assert _line(Progress("search", 51, (251, 251), search), pace=30.0) == (
        "Phase: search, 51 epochs done; 14 of 98 operations left, 14 of 14 edges settled; "
        "search finished; "
        "training ends about 13:40 (in 1 h 40 min) at this pace"
    )


@pytest.mark.parametrize("phase", ["finetune", "continued"])
def test_the_line_of_an_epoch_without_a_search(phase: str) -> None:
    assert _line(Progress(phase, 60, (251, 251)), pace=20.0) == (
        f"Phase: {phase}, 60 of 251 epochs done; "
        "training ends about 13:03 (in 1 h 4 min) at this pace"  # 191 epochs of 20 s: 63 min 40 s.
    )


def test_the_line_of_the_last_epoch() -> None:
    last = Progress("finetune", 251, (251, 251))
    assert _line(last) == "Phase: finetune, 251 of 251 epochs done; training finished"


def test_one_epoch_is_singular() -> None:
    search = _search(None, 1, Settings())
    assert _line(Progress("warmup", 1, (251, 251), search)).startswith(
        "Phase: warmup, 1 epoch done"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "in 0 s"),
        (59.4, "in 59 s"),
        (59.6, "in 1 min"),
        (3569.0, "in 59 min"),
        (3571.0, "in 1 h 0 min"),
        (86369.0, "in 23 h 59 min"),
        (86371.0, "in 1 d 0 h"),
        (90000.0, "in 1 d 1 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert f"({text})" in _line(Progress("finetune", 1, (2, 2)), pace=seconds)


def test_an_end_on_another_day_has_its_date() -> None:
    late = datetime(2026, 12, 31, 23, 30)
    assert "about 2027-01-01 00:30" in _line(Progress("finetune", 1, (2, 2)), 3600.0, late)


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"preset": "literal"}, (21, 21)),
        ({"preset": "paper"}, (51, 51)),
        ({"preset": "adaptive"}, (21, 200)),
        (
            {"preset": "paper", "stability_threshold": 0.693},
            (51, 200),
        ),  # ln 2 = 0.69314…: a check may fail.
        ({"preset": "paper", "stability_threshold": 0.6932}, (51, 51)),
        ({"preset": "paper", "importance": "raw"}, (51, 51)),
        ({"preset": "paper", "importance": "raw-strict"}, (51, 200)),
        ({"preset": "paper", "search_epochs": 51}, (51, 51)),
        ({"preset": "adaptive", "search_epochs": 20}, (20, 20)),
        ({"preset": "literal", "warmup_epochs": 0}, (6, 6)),
    ],
)
def test_before_a_search_its_end_is_what_its_settings_allow(
    settings: dict[str, Any], ends: tuple[int, int]
) -> None:
    assert search_ends(None, 0, Settings(**settings), prunes=True) == ends


@given(
    preset=st.sampled_from(["literal", "paper", "adaptive", "swift"]),
    checks=st.integers(1, 3),
    limit=st.integers(8, 40),
    size=st.sampled_from([0.01, 0.3, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_every_search_ends_within_what_was_expected_after_any_epoch(
    preset: str, checks: int, limit: int, size: float, seed: int
) -> None:
    settings = Settings(preset=preset, patience=checks, warmup_epochs=2, search_epochs=limit)
    expected = [search_ends(None, 2, settings, prunes=True)]
    state, epoch = begin(_observation(2), settings.stability, settings.cell), 2
    while not state.finished:
        epoch += 1
        state, _ = close_epoch(
            state,
            _observation(epoch, seed + epoch, size),
            settings.stability,
            settings.cell,
            settings.schedule.search_epochs,
        )
        expected.append(search_ends(state, epoch, settings, prunes=True))
    for first, last in expected:
        assert first <= epoch <= last
        assert preset == "adaptive" or first == last
    assert [first for first, _ in expected] == sorted(first for first, _ in expected)
    assert expected[-1] == (epoch, epoch)
