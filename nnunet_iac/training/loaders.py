"""The order of the batches: each is a function of the seed and its number, in any process.

nnU-Net decides what is loaded and how it is augmented. What its workers draw depends on which of
them is faster; here it does not, so a run can be repeated, and continued where it was broken off.
"""

import math
import os
import random
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

from nnunet_iac.search.settings import Settings

WEIGHTS = "weights"
ARCHITECTURE = "architecture"
UPDATE = "update"
"""Key of a batch that says what it is there to update."""


def seed_generators(entropy: Sequence[int]) -> None:
    """Seed the generators of Python, numpy and torch's CPU from a list of integers >= 0."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


class SeededLoader:
    """nnU-Net's loader, the generators seeded from the batch's number before each batch.

    Worker w of n makes the batches w, w + n, w + 2n, … after the first.

    Args:
        loader: yields batches without end.
        entropy: integers that tell this stream of batches from all others.
        first: number of the first batch.
        workers: how many processes share the work; 0 for this one.
    """

    def __init__(self, loader: Any, entropy: Sequence[int], first: int, workers: int) -> None:
        self.loader = loader
        self._entropy = tuple(entropy)
        self._number = first
        self._stride = max(1, workers)

    def set_thread_id(self, worker: int) -> None:
        """Begin as one of the workers; batchgenerators calls this in the worker's process."""
        self._number += worker
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def __next__(self) -> Any:
        seed_generators([*self._entropy, self._number])
        self._number += self._stride
        return next(self.loader)


def augmenter(loader: SeededLoader, workers: int, pin_memory: bool) -> Any:
    """Return batchgenerators' iterator over a loader, its workers started."""
    if workers == 0:
        return SingleThreadedAugmenter(loader, None)
    # Unlike nnU-Net's, it takes the workers' batches in turn.
    batches = MultiThreadedAugmenter(
        loader, None, workers, num_cached_per_queue=2, pin_memory=pin_memory, wait_time=0.002
    )
    batches._start()
    return batches


def choose_blur_without_timing(transform: Any) -> None:
    """Let every blur in a transform use one algorithm, not the one that was faster just now."""
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    inner = [*getattr(transform, "transforms", ()), getattr(transform, "transform", None)]
    for part in inner:
        if part is not None:
            choose_blur_without_timing(part)


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


def drawn(warmup: int, searched: int, settings: Settings) -> tuple[int, int]:
    """Return how many batches of train_search and of val_search were drawn before an epoch.

    Args:
        warmup: completed epochs of the warm-up.
        searched: completed epochs of the search after it.
        settings: of the run.
    """
    batches = settings.iterations_per_epoch
    return warmup * batches + searched * math.ceil(batches / 2), searched * (batches // 2)


def finish(loader: Any) -> None:
    """End the worker processes of a loader that has any."""
    if isinstance(loader, AlternatingLoader):
        finish(loader.train_search)
        finish(loader.val_search)
    elif hasattr(loader, "_finish"):
        loader._finish()


def _end_with_parent() -> None:
    """End this worker when the training process is gone, however that ended."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
