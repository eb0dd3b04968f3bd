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
    augmenter,
    choose_blur_without_timing,
    drawn,
    finish,
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
        before = drawn(min(epoch, 2), max(0, epoch - 2), settings)
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
