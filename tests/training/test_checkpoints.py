"""Checkpoints: what they hold, and which run may read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_iac.runs.checkpoint import BEST, LATEST, PREVIOUS
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.checkpoints import (
    CHECKPOINT_FORMAT,
    read_own_checkpoint,
    require_newest,
    restoring,
    run_identity,
    write_checkpoint,
)

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_A",
    "plans_name": "plans",
    "configurations": {"2d": {"patch_size": [8, 8], "iac": {"seed": 1}}},
}
SPLIT = (["a"], ["b"])
Make = Callable[..., Any]


def _identity(**changes: Any) -> dict[str, Any]:
    given = {"trainer": "T", "plans": PLANS, "configuration": "2d", "fold": 0, "split": SPLIT}
    return run_identity(**{**given, **changes})


def _checkpoint(**section: Any) -> dict[str, Any]:
    own = {
        "format": CHECKPOINT_FORMAT,
        "version": "1",
        "run": _identity(),
        "settings": Settings().to_mapping(),
    }
    return {"network_weights": {"a": torch.zeros(1)}, "iac": {**own, **section}}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


@pytest.mark.parametrize("name", ["nnUNetTrainerIACLTH", "nnUNetTrainerContinue"])
def test_a_checkpoint_is_nnunets_own_with_a_section_of_ours(
    make_trainer: Make, tmp_path: Path, name: str
) -> None:
    trainer = make_trainer(name)
    trainer.on_train_start()
    own, stock = tmp_path / "own.pth", tmp_path / "stock.pth"
    trainer.save_checkpoint(str(own))
    nnUNetTrainer.save_checkpoint(trainer, str(stock))
    ours, theirs = (torch.load(path, weights_only=False) for path in (own, stock))
    section = ours.pop("iac")
    assert list(ours) == list(theirs)
    assert _same(ours, theirs)
    assert section["format"] == CHECKPOINT_FORMAT
    assert section["run"] == trainer.run.identity


def test_the_checkpoint_before_the_latest_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        write_checkpoint({"number": number}, tmp_path / LATEST)
    found = [torch.load(tmp_path / name)["number"] for name in (PREVIOUS, LATEST)]
    assert found == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_that_is_best_and_latest_is_serialised_and_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[dict[str, Any]] = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, to: saved.append(state) or save(state, to))
    write_checkpoint({"number": 1}, tmp_path / BEST, tmp_path / LATEST)
    assert saved == [{"number": 1}]
    assert (tmp_path / BEST).samefile(tmp_path / LATEST)
    write_checkpoint({"number": 2}, tmp_path / LATEST)
    found = [torch.load(tmp_path / name)["number"] for name in (BEST, PREVIOUS, LATEST)]
    assert found == [1, 1, 2]


def test_the_settings_are_no_part_of_the_configurations_digest() -> None:
    other = {**PLANS, "configurations": {"2d": {"patch_size": [8, 8], "iac": {"seed": 2}}}}
    assert _identity(plans=other) == _identity()
    other = {**PLANS, "configurations": {"2d": {"patch_size": [8, 9], "iac": {"seed": 1}}}}
    assert _identity(plans=other) != _identity()
    assert _identity(split=(["a"], ["c"]))["split"] != _identity()["split"]


@pytest.mark.parametrize(
    ("section", "identity", "settings", "message"),
    [
        ({"format": 1}, {}, {}, "format 1"),
        ({"run": None}, {}, {}, "its run is None"),
        ({}, {"trainer": "U"}, {}, "trainer is 'U' here and 'T'"),
        ({}, {"split": (["a"], ["c"])}, {}, "restore splits_final.json"),
        ({}, {}, {"seed": 3}, "seed is 3 in the plans and 0 in"),
    ],
)
def test_another_runs_checkpoint_is_refused(
    tmp_path: Path,
    section: dict[str, Any],
    identity: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / LATEST
    write_checkpoint(_checkpoint(**section), path)
    with pytest.raises(ValueError, match=message):
        read_own_checkpoint(path, _identity(**identity), Settings(**settings))


def test_the_own_checkpoint_is_read_and_a_replaced_one_noticed(tmp_path: Path) -> None:
    path = tmp_path / LATEST
    write_checkpoint(_checkpoint(), path)
    read_own_checkpoint(path, _identity(), Settings(activation_checkpointing=True))
    modified = path.stat().st_mtime_ns
    require_newest(path, modified)
    with pytest.raises(RuntimeError, match="has been replaced since"):
        require_newest(path, modified - 1)


def test_the_best_checkpoint_is_not_the_newest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold checkpoint_latest\.pth; it has only check"):
        require_newest(tmp_path / BEST, 0)


def test_content_that_cannot_be_restored_is_named() -> None:
    with (
        pytest.raises(ValueError, match=r"x.pth must hold .*\(KeyError: 'phases'\)"),
        restoring(Path("x.pth")),
    ):
        raise KeyError("phases")
