"""The batches of a run: each depends on the seed and its number only, in any process.

nnU-Net decides what is loaded and how it is augmented. What its workers draw depends on which of
them is faster; here it does not, so a run can be repeated, and resumed after an interruption.
"""

import copy
import math
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from threadpoolctl import threadpool_limits

from nnunet_iac.search.patients import halves
from nnunet_iac.search.setting_parts import Optimisation, SearchSchedule

STREAMS = ("train", "train_search", "val_search", "validation", "source")
"""Streams of batches; each has random numbers of its own, by its place here."""

HALVES = ("train_search", "val_search")
"""Halves of the training cases in a bilevel search: for the weights, and for alpha and beta."""

WORKERS_VARIABLE = "nnUNet_n_proc_DA"

WEIGHTS = "weights"
ARCHITECTURE = "architecture"
UPDATE = "update"
"""Key of a batch for what it updates, weights or architecture."""


def seed_generators(entropy: Sequence[int]) -> None:
    """Seed the generators of Python, numpy and torch's CPU from a list of integers >= 0."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


class SeededLoader:
    """nnU-Net's loader, the generators seeded from the batch's number before each batch.

    Worker w of n makes the batches w, w + n, w + 2n, … after the first. No other stream of batches
    has the same entropy; 0 workers are this process.
    """

    def __init__(self, loader: Any, entropy: Sequence[int], first: int, workers: int) -> None:
        self.loader = loader
        self._entropy = tuple(entropy)
        self._number = first
        self._stride = max(1, workers)

    def set_thread_id(self, worker: int) -> None:
        """Begin as one of the workers; batchgenerators calls this in the worker's process.

        As in nnU-Net's own workers no library has more than one thread: it would wait for ever for
        those of the process this one was forked from, which are not here.
        """
        self._number += worker
        torch.set_num_threads(1)
        threadpool_limits(1)
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def __next__(self) -> Any:
        seed_generators([*self._entropy, self._number])
        self._number += self._stride
        return next(self.loader)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed all generators, so that an epoch does not depend on the ones before it."""
    seed_generators([seed, epoch])
    torch.manual_seed(torch.initial_seed())  # Other devices' generators, too.


def search_halves(training: Sequence[str], pattern: str | None, seed: int) -> dict[str, list[str]]:
    """Return the training cases of either half of a bilevel search, by the half's name."""
    parts = halves(training, pattern, seed)
    return {name: list(part) for name, part in zip(HALVES, parts, strict=True)}


def with_cases(loader: Any, cases: Sequence[str]) -> Any:
    """Return nnU-Net's loader with other cases of its folder; all else is the same."""
    dataset = loader._data
    previous = dataset.folder_with_segs_from_previous_stage
    return with_dataset(loader, type(dataset)(dataset.source_folder, cases, previous))


def with_dataset(loader: Any, dataset: Any, probabilities: Sequence[float] | None = None) -> Any:
    """Return nnU-Net's loader of another data set, whose cases are drawn with probabilities."""
    other = copy.copy(loader)
    other._data, other.indices = dataset, dataset.identifiers
    other.sampling_probabilities = probabilities
    return other


@dataclass(frozen=True)
class Streams:
    """Makes the streams of a run's batches on a rank with so many worker processes, or none."""

    schedule: SearchSchedule
    optimisation: Optimisation
    rank: int
    workers: int
    pin_memory: bool

    def stock_loaders(self, get_dataloaders: Callable[[], Sequence[Any]]) -> list[Any]:
        """Return nnU-Net's loaders, made by its `get_dataloaders`, without worker processes."""
        before = {k: v for k, v in os.environ.items() if k == WORKERS_VARIABLE}
        os.environ[WORKERS_VARIABLE] = "0"
        try:
            loaders = [augmenter.data_loader for augmenter in get_dataloaders()]
        finally:
            del os.environ[WORKERS_VARIABLE]
            os.environ.update(before)
        if self.optimisation.deterministic:
            for loader in loaders:
                choose_blur_without_timing(loader.transforms)
        return loaders

    def from_epoch(
        self, loaders: Sequence[Any], epoch: int, halves: Sequence[Sequence[str]] = ()
    ) -> tuple[Any, Any]:
        """Return the training and the validation batches from nnU-Net's epoch number `epoch` on.

        Training batches come from the halves of a bilevel search or, without any, from all cases.
        """
        training, validation = loaders
        first = epoch * self.schedule.val_iterations_per_epoch
        scored = self._stream(validation, "validation", first, share=2)
        if not halves:
            first = epoch * self.schedule.iterations_per_epoch
            return self._stream(training, "train", first), scored
        warmup = min(epoch, self.schedule.warmup_epochs)
        firsts = drawn(warmup, epoch - warmup, self.schedule.iterations_per_epoch)
        searched = (
            self._stream(with_cases(training, half), name, first, share=2)
            for half, name, first in zip(halves, HALVES, firsts, strict=True)
        )
        return AlternatingLoader(*searched), scored

    def first_batches(self, loader: Any, stream: str, count: int) -> Iterator[Any]:
        """Yield the first batches of a stream of rank 0, made by this process."""
        entropy = [self.optimisation.seed, STREAMS.index(stream), 0]
        batches = SeededLoader(loader, entropy, 0, 0)
        return (next(batches) for _ in range(count))

    def _stream(self, loader: Any, stream: str, first: int, share: int = 1) -> Any:
        """Return a stream from batch number `first` on, made by a share of the workers."""
        workers = max(1, self.workers // share) if self.workers else 0
        entropy = [self.optimisation.seed, STREAMS.index(stream), self.rank]
        return augmenter(SeededLoader(loader, entropy, first, workers), workers, self.pin_memory)


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
        self.begin_epoch(alternate=False)

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


def drawn(warmup: int, searched: int, batches: int) -> tuple[int, int]:
    """Return how many batches of train_search and of val_search were drawn before an epoch.

    The arguments are completed epochs of the warm-up and of the search, and batches per epoch.
    """
    return warmup * batches + searched * math.ceil(batches / 2), searched * (batches // 2)


def finish(*loaders: Any) -> None:
    """End the worker processes of loaders that have any."""
    for loader in loaders:
        if isinstance(loader, AlternatingLoader):
            finish(loader.train_search, loader.val_search)
        elif hasattr(loader, "_finish"):
            loader._finish()


def _end_with_parent() -> None:
    """End this worker when the training process is gone, however that ended."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
