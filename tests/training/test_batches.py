"""The order of the batches, and the processes that make them."""

import random
import signal
import subprocess
import sys
import time
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_iac.search.settings import Settings
from nnunet_iac.training.batches import (
    UPDATE,
    AlternatingLoader,
    SeededLoader,
    Streams,
    augmenter,
    choose_blur_without_timing,
    drawn,
    finish,
    search_halves,
    with_cases,
)


class _Draws:
    """A loader without end whose batches hold what the three generators draw."""

    def __next__(self) -> dict[str, float]:
        return {"data": random.random() + np.random.random() + float(torch.rand(1))}


def _numbers(workers: int, first: int = 0, seed: int = 0, count: int = 9) -> list[float]:
    batches = augmenter(SeededLoader(_Draws(), [seed], first, workers), workers, pin_memory=False)
    numbers = [next(batches)["data"] for _ in range(count)]
    finish(batches)
    return numbers


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    assert _numbers(workers) == _numbers(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_can_be_entered_at_any_batch(workers: int) -> None:
    assert _numbers(workers, first=4, count=5) == _numbers(0)[4:]


def test_other_seeds_give_other_batches_and_no_batch_comes_twice() -> None:
    assert len({*_numbers(0), *_numbers(0, seed=1)}) == 18


def test_the_number_of_drawn_batches_leads_back_into_an_alternating_search() -> None:
    settings = Settings(iterations_per_epoch=5, warmup_epochs=2)
    train, search = iter(range(100)), iter(range(100))
    loader = AlternatingLoader(({"n": n} for n in train), ({"n": n} for n in search))
    for epoch in range(6):
        before = drawn(min(epoch, 2), max(0, epoch - 2), settings.schedule.iterations_per_epoch)
        assert before == (_position(train), _position(search))
        loader.begin_epoch(alternate=epoch >= 2)
        for _ in range(5):
            next(loader)


def _position(numbers: Any) -> int:
    return 100 - numbers.__length_hint__()


ORPHAN = """
import os, time
from nnunet_iac.training.batches import SeededLoader, augmenter
class Draws:
    def __next__(self):
        return {"pid": os.getpid()}
batches = augmenter(SeededLoader(Draws(), [0], 0, 2), 2, pin_memory=False)
print(*{next(batches)["pid"] for _ in range(6)}, flush=True)
time.sleep(60)
"""


def test_workers_end_when_the_training_process_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(_lives(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


THREADED = """
import torch
from threadpoolctl import threadpool_info
from nnunet_iac.training.batches import SeededLoader, augmenter, finish

class Products:
    def __next__(self):
        factor = torch.ones(512, 512)
        threads = max(library["num_threads"] for library in threadpool_info())
        return {"data": factor @ factor, "threads": threads}

torch.set_num_threads(2)
next(Products())
batches = augmenter(SeededLoader(Products(), [0], 0, 1), 1, False)
batch = next(batches)
print(float(batch["data"].mean()), batch["threads"])
finish(batches)
"""


def test_a_worker_does_not_wait_for_the_threads_of_the_process_it_was_forked_from() -> None:
    command = [sys.executable, "-c", THREADED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "512.0 1\n"), done.stderr


def test_a_blur_is_found_wherever_it_is_and_no_longer_chosen_by_timing() -> None:
    blur = GaussianBlurTransform(benchmark=True)
    choose_blur_without_timing(ComposeTransforms([RandomTransform(ComposeTransforms([blur]))]))
    assert not blur.benchmark


def test_the_warm_up_sees_the_first_half_only_and_the_search_alternates() -> None:
    loader = AlternatingLoader(repeat({"half": 0}), repeat({"half": 1}))
    warmup = [next(loader) for _ in range(4)]
    assert [(b["half"], b[UPDATE]) for b in warmup] == [(0, "weights")] * 4
    loader.begin_epoch(alternate=True)
    search = [next(loader) for _ in range(3)]
    assert [b["half"] for b in search] == [0, 1, 0]
    assert [b[UPDATE] for b in search] == ["weights", "architecture", "weights"]


def test_every_epoch_begins_with_a_batch_for_the_weights() -> None:
    loader = AlternatingLoader(repeat({}), repeat({}))
    loader.begin_epoch(alternate=True)
    next(loader)
    loader.begin_epoch(alternate=True)
    assert next(loader)[UPDATE] == "weights"


class _Cases:
    """A data set as nnU-Net's: it sorts the list that it gets."""

    def __init__(self, folder: str, identifiers: list[str], previous: str | None = None) -> None:
        identifiers.sort()
        self.source_folder = folder
        self.identifiers = identifiers
        self.folder_with_segs_from_previous_stage = previous


class _Loader:
    def __init__(self, dataset: _Cases) -> None:
        self._data = dataset
        self.indices = dataset.identifiers
        self.batch_size = 3

    def __next__(self) -> dict[str, Any]:
        return {"data": random.choice(self.indices)}


def test_a_loader_with_other_cases_is_the_same_in_all_else() -> None:
    stock = _Loader(_Cases("folder", ["b", "a"], "previous"))
    other = with_cases(stock, ["d", "c"])
    assert (stock.indices, other.indices) == (["a", "b"], ["c", "d"])
    assert (other._data.source_folder, other.batch_size) == ("folder", 3)
    assert other._data.folder_with_segs_from_previous_stage == "previous"


def test_halves_share_no_patient_and_have_all_cases() -> None:
    halves = search_halves(["a1", "a2", "b1", "c1", "c2", "d1"], "^.", 0)
    sides = [{case[0] for case in half} for half in halves.values()]
    assert list(halves) == ["train_search", "val_search"]
    assert not sides[0] & sides[1]
    assert sum(len(half) for half in halves.values()) == 6


@pytest.mark.parametrize("halves", [(), (["a", "b"], ["c", "d"])])
def test_streams_entered_at_an_epoch_continue_as_those_from_the_start(halves: Any) -> None:
    settings = Settings(iterations_per_epoch=5, val_iterations_per_epoch=2, warmup_epochs=1)
    streams = Streams(settings.schedule, settings.optimisation, rank=0, workers=0, pin_memory=False)

    def epochs(first: int) -> list[list[str]]:
        loaders = [_Loader(_Cases("", list("abcd"))), _Loader(_Cases("", ["v", "w"]))]
        training, validation = streams.from_epoch(loaders, first, [list(h) for h in halves])
        found = []
        for epoch in range(first, 4):
            if halves:
                training.begin_epoch(alternate=epoch >= 1)
            batches = [next(training) for _ in range(5)] + [next(validation) for _ in range(2)]
            found.append([batch["data"] for batch in batches])
        return found

    assert epochs(2) == epochs(0)[2:]
