"""Checkpoints: whole or refused, and never executed."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_iac.runs.checkpoint import (
    LATEST,
    MIRRORING,
    PREVIOUS,
    keep_previous,
    mirroring_of,
    read_checkpoint,
    tensors_hash,
)


def _checkpoint() -> dict[str, Any]:
    log = {"dice": [np.float32(0.5), np.float64(0.25)], "rows": np.arange(6.0).reshape(2, 3)}
    return {
        "network_weights": {"weight": torch.arange(500.0)},
        "logging": log,
        "_best_ema": None,
        "init_args": {"device": torch.device("cpu"), "plans": {"patch": [56, 40]}},
        "masks": np.ones(3, dtype=bool),
        "epochs": np.arange(3),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(_checkpoint(), tmp_path / LATEST)
    return tmp_path / LATEST


def test_what_nnunet_saves_is_read_without_pickle(path: Path) -> None:
    found = read_checkpoint(path)
    assert torch.equal(found["network_weights"]["weight"], torch.arange(500.0))
    assert found["logging"]["dice"] == [0.5, 0.25]
    assert np.array_equal(found["logging"]["rows"], _checkpoint()["logging"]["rows"])
    assert found["init_args"]["device"] == torch.device("cpu")


@pytest.mark.parametrize("code", [c for c in np.typecodes["All"] if c not in "OVMm"])
def test_a_number_of_any_numpy_type_is_read(path: Path, code: str) -> None:
    number = np.ones(1, code)[0]
    torch.save({**_checkpoint(), "logging": {"dice": [number, np.ones(2, code)]}}, path)
    one, two = read_checkpoint(path)["logging"]["dice"]
    assert one == number
    assert np.array_equal(two, np.ones(2, code))


def test_weights_of_a_network_in_its_wrapper_have_their_own_names(path: Path) -> None:
    expected = read_checkpoint(path)["network_weights"]
    wrapped = {f"module.{key}": tensor for key, tensor in expected.items()}
    torch.save({**_checkpoint(), "network_weights": wrapped}, path)
    assert tensors_hash(read_checkpoint(path)["network_weights"]) == tensors_hash(expected)


@pytest.mark.parametrize(
    ("axes", "known"), [({MIRRORING: (0, 1)}, (0, 1)), ({MIRRORING: None}, ()), ({}, ())]
)
def test_the_axes_that_prediction_mirrors_are_known_without_the_weights(
    path: Path, axes: dict[str, Any], known: tuple[int, ...]
) -> None:
    torch.save({**_checkpoint(), **axes}, path)
    assert mirroring_of(path) == known
    path.write_bytes(path.read_bytes()[:1000])
    assert mirroring_of(path) is None
    assert mirroring_of(path.with_name("absent.pth")) is None


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_file_with_code_in_it_is_refused_and_not_executed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**_checkpoint(), "extra": _Evil()}, path)
    with pytest.raises(ValueError, match=r"plain values only; \S+ holds \w+\.mkdir: use a"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


class _Addresses:
    """A numpy type of objects with the mark taken away that its bytes are addresses."""

    def __reduce__(self) -> Any:
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


def test_an_array_of_raw_addresses_is_refused(path: Path) -> None:
    torch.save({**_checkpoint(), "extra": _Addresses()}, path)
    with pytest.raises(ValueError, match="tensors and plain values only"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 1, 10, 1000, -100, -1])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is damaged or something else"):
        read_checkpoint(path)


def test_no_flipped_bit_goes_unnoticed_or_ends_in_another_error(path: Path) -> None:
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ValueError:
            refused += 1
        else:  # The bit was in padding, or in something the archive holds twice.
            assert torch.equal(found["network_weights"]["weight"], torch.arange(500.0))
            assert repr(found) == repr(_checkpoint())
    assert refused > 200


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {}}])
def test_a_file_of_something_else_is_refused(path: Path, content: Any) -> None:
    torch.save(content, path)
    with pytest.raises(ValueError, match="has no network_weights"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth is none"):
        read_checkpoint(tmp_path / "absent.pth")


def test_the_hash_sees_every_bit_the_names_the_shapes_and_the_types() -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}
    reference = tensors_hash(tensors)
    assert tensors_hash(dict(reversed(tensors.items()))) == reference
    changed = tensors["a"].clone()
    changed[3] = torch.nextafter(changed[3], torch.tensor(9.0))
    for other in (
        {**tensors, "a": changed},
        {**tensors, "a": tensors["a"].reshape(2, 3)},
        {**tensors, "b": tensors["b"].int()},
        {"c": tensors["a"], "b": tensors["b"]},
    ):
        assert tensors_hash(other) != reference


@pytest.mark.parametrize("has_links", [True, False])
def test_the_checkpoint_before_the_latest_is_kept(
    path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("this file system has no links")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    for content in (b"first", b"second"):
        os.replace(_new(path, content), path)
        keep_previous(path)
        assert path.with_name(PREVIOUS).read_bytes() == content
    os.replace(_new(path, b"third"), path)
    assert path.with_name(PREVIOUS).read_bytes() == b"second"
    assert sorted(os.listdir(path.parent)) == sorted([LATEST, PREVIOUS])


def _new(path: Path, content: bytes) -> Path:
    new = path.with_name("new")
    new.write_bytes(content)
    return new
