"""Batches from two halves of the training cases, in turn."""

from collections.abc import Iterator
from typing import Any

WEIGHTS = "weights"
ARCHITECTURE = "architecture"
UPDATE = "update"
"""Key of a batch that says what it is there to update."""


class AlternatingLoader:
    """Yields batches of train_search and val_search in turn, each tagged with what it updates.

    Until `alternate` is set, as in the warm-up, all batches come from train_search.
    """

    def __init__(self, train_search: Iterator[Any], val_search: Iterator[Any]) -> None:
        self.train_search = train_search
        self.val_search = val_search
        self._alternate = False
        self._count = 0

    def begin_epoch(self, alternate: bool) -> None:
        """Start an epoch with a batch of train_search."""
        self._alternate = alternate
        self._count = 0

    def __iter__(self) -> "AlternatingLoader":
        return self

    def __next__(self) -> dict[str, Any]:
        is_architecture = self._alternate and self._count % 2 == 1
        self._count += 1
        if is_architecture:
            return {**next(self.val_search), UPDATE: ARCHITECTURE}
        return {**next(self.train_search), UPDATE: WEIGHTS}


def finish(loader: Any) -> None:
    """End the worker processes of a loader that has any."""
    if isinstance(loader, AlternatingLoader):
        finish(loader.train_search)
        finish(loader.val_search)
    elif hasattr(loader, "_finish"):
        loader._finish()
