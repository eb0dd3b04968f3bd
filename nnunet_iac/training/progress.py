"""Progress of a run after an epoch, and the line of the log that shows it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from nnunet_iac.search.pruning import PruningState, full_mask
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS


@dataclass(frozen=True)
class SearchProgress:
    """The state of a search after an epoch.

    Operations are left on all edges together, one on a settled edge; `ends` are the least and the
    most completed epochs of the run after which the search may end.
    """

    operations: int
    settled: int
    ends: tuple[int, int]


@dataclass(frozen=True)
class Progress:
    """The state of a run after an epoch."""

    phase: str
    epochs: int
    ends: tuple[int, int]
    search: SearchProgress | None = None


def search_progress(state: PruningState | None, ends: tuple[int, int]) -> SearchProgress:
    """Return how far a search is whose `search_ends` are known."""
    left = (full_mask() if state is None else state.active).sum(dim=1)
    return SearchProgress(int(left.sum()), int((left == 1).sum()), ends)


def search_ends(
    state: PruningState | None, epochs: int, settings: Settings, prunes: bool
) -> tuple[int, int]:
    """Return the least and the most completed epochs after which a search may end.

    An edge with n operations and s stable checks behind it is decided after at least
    (n - 1) checks - s more epochs (Algorithm 1), and after exactly as many where no check can
    fail. At the limit `search_epochs` every search ends, one that does not prune always there.
    `state` is that after the last prune; None in the warm-up.
    """
    limit = settings.schedule.search_epochs
    if not prunes:
        return limit, limit
    test = settings.stability
    if state is None:
        earliest = settings.soonest_end
    elif state.finished:
        return epochs, epochs
    else:
        needed = (state.active.sum(dim=1) - 1) * test.patience - state.stable_checks
        earliest = epochs + int(needed.max())
    return min(earliest, limit), limit if settings.can_wait else min(earliest, limit)


def progress_line(progress: Progress, pace: float, now: datetime) -> str:
    """Return the line of an epoch: phase, operations left, edges settled, expected end.

    Epochs are counted from 1, as in the record: nnU-Net calls the first one "Epoch 0". The end of
    the training takes all epochs to come for as long as the recent ones; those of the finetuning
    are not known while searching, hence "at this pace". The final validation is not in it.
    """
    soonest, latest = ((end - progress.epochs) * pace for end in progress.ends)
    ending = _training_end(soonest, latest, now)
    search = progress.search
    if search is None:
        done = f"{progress.epochs} of {progress.ends[1]} epochs done"
        return f"Phase: {progress.phase}, {done}; {ending}"
    done = f"{progress.epochs} epoch{'s' if progress.epochs > 1 else ''} done"
    return (
        f"Phase: {progress.phase}, {done}; "
        f"{search.operations} of {len(EDGES) * len(OPERATIONS)} operations left, "
        f"{search.settled} of {len(EDGES)} edges settled; "
        f"{_search_end(search.ends, progress.epochs)}; {ending}"
    )


def _search_end(ends: tuple[int, int], epochs: int) -> str:
    first, last = ends
    if last == epochs:
        return "search finished"
    if first == last:
        return f"search ends after {last} epochs"
    return f"search ends after {first} to {last} epochs"


def _training_end(soonest: float, latest: float, now: datetime) -> str:
    if latest == 0:
        return "training finished"
    if soonest == latest:
        return f"training ends about {_clock(latest, now)} (in {_duration(latest)}) at this pace"
    return (
        f"training ends between {_clock(soonest, now)} and {_clock(latest, now)} "
        f"(in {_duration(soonest)} to {_duration(latest)}) at this pace"
    )


def _clock(seconds: float, now: datetime) -> str:
    """Return the time of day some seconds from now, with its date where that is not today."""
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    """Return seconds in their two largest units, rounded to the smaller."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
