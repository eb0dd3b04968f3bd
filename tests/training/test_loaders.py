"""Batches of the two halves, in turn."""

from itertools import repeat

from nnunet_iac.training.loaders import UPDATE, AlternatingLoader


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
