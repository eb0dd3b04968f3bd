"""Damaged and foreign files, full disks and second processes: a clear error, and nothing lost."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from interruption import run_until
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet
from scored_folders import write_summary

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import LATEST, PREVIOUS
from nnunet_iac.runs.fold import LOCK
from nnunet_iac.runs.folder import RunFolder

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
RECORD = (
    "settings.json",
    "trajectory.npz",
    "events.jsonl",
    "health.jsonl",
    "backbone.json",
    "cost.json",
    "genotype.json",
    "ticket.safetensors",
    "split.json",
)
Make = Callable[..., Any]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x80
    path.write_bytes(content)


def _remove(path: Path) -> None:
    path.unlink()


DAMAGE = [_truncate, _empty, _flip_a_bit, _remove]


def _snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if "training_log" not in path.name and path.name != LOCK
    }


@pytest.mark.parametrize("damage", DAMAGE[:3])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_leads_to_the_same_end(
    make_trainer: Make, damage: Callable[[Path], None]
) -> None:
    fold = run_until(make_trainer(LTH), 5)
    events = RunFolder.of_fold(fold).events_file
    wanted = events.read_text()
    shutil.copy(fold / LATEST, fold / "whole")
    damage(fold / LATEST)
    before = _snapshot(fold)
    with pytest.raises(ValueError, match=f"damaged .* copy {PREVIOUS} to {LATEST}"):
        make_trainer(LTH, resume=True)
    assert _snapshot(fold) == before
    (fold / LATEST).unlink()
    shutil.copy(fold / PREVIOUS, fold / LATEST)
    resumed = make_trainer(LTH, resume=True)
    assert resumed.current_epoch == 4
    run_until(resumed, 5)
    assert events.read_text() == wanted
    again, whole = (torch.load(fold / name, weights_only=False) for name in (LATEST, "whole"))
    for name, tensor in whole["network_weights"].items():
        assert torch.equal(tensor, again["network_weights"][name]), name


def test_a_record_with_any_damage_is_written_again_from_the_checkpoint(
    make_trainer: Make, in_process: Any
) -> None:
    fold = run_until(make_trainer(LTH), 8)
    whole = _snapshot(fold / "iac")
    for damage in DAMAGE:
        for name in RECORD:
            damage(fold / "iac" / name)
        resumed = make_trainer(LTH, resume=True)
        resumed.continue_run()
        log = Path(resumed.log_file).read_text()
        for name in RECORD:
            readable = name in ("health.jsonl", "split.json") or (
                damage is _empty and name == "events.jsonl"
            )
            assert readable or f"WARNING: {name} is" in log, damage
            found = RunFolder.of_fold(fold)
            if name == "trajectory.npz":
                assert found.read_trajectory().epoch.tolist() == list(range(1, 8))
            elif name != "cost.json":
                assert (fold / "iac" / name).read_bytes() == whole[name], (name, damage)
    for name in ("backbone.json", "health.jsonl"):  # One of what is read together.
        _truncate(fold / "iac" / name)
        make_trainer(LTH, resume=True).continue_run()
        assert (fold / "iac" / name).read_bytes() == whole[name]
    shutil.rmtree(fold / "iac")
    make_trainer(LTH, resume=True).continue_run()
    assert _snapshot(fold / "iac").keys() == whole.keys()


def test_a_finished_run_is_validated_again_whatever_its_record_has_lost(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = []

    def validate(trainer: Any, save_probabilities: bool = False) -> None:
        validated.append(Path(trainer.output_folder).name)
        folder = write_summary(Path(trainer.output_folder, "validation"), {"case": 0.8})
        summary = read_json(folder / "summary.json")
        write_json(folder / "summary.json", {**summary, "foreground_mean": {"Dice": 0.8}})

    monkeypatch.setattr(nnUNet.nnUNetTrainer, "perform_actual_validation", validate)
    plans = in_process.write_plans("cell", genotype="random:1")
    trainer = make_trainer(DISCRETE, plans)
    trainer.run_training()
    trainer.perform_actual_validation()
    fold = Path(trainer.output_folder)
    record, reference = RunFolder.of_fold(fold), RunFolder.of_fold(fold).reference_folder
    assert validated == ["reference", "fold_0"]
    shared = (reference / "measured-on.json", reference / "validation" / "summary.json")
    present = [path for name in RECORD if (path := record.path / name).exists()]
    for path, damage in [*product(shared, (_truncate, _remove)), *product(present, (_truncate,))]:
        damage(path)
        record.backbone_file.unlink(missing_ok=True)  # As after a kill before it had the score.
        again = make_trainer(DISCRETE, plans)
        again.load_checkpoint(str(fold / "checkpoint_final.pth"))
        again.perform_actual_validation()
        assert record.read_backbone().reference == {
            "mean": 0.8,
            "per_case": {"case": 0.8},
            "errors": {},
        }
    assert validated.count("reference") == 1 + 4
    again.perform_actual_validation()
    assert validated.count("reference") == 1 + 4
    (truth,) = (in_process.preprocessed / "gt_segmentations").glob(f"{again.do_split()[1][0]}.*")
    truth.write_bytes(truth.read_bytes() + b"corrected")
    again.perform_actual_validation()
    assert validated.count("reference") == 1 + 5


OF_OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("settings.json", {"seed": 5}, "seed is 0 in the checkpoint and 5 in settings.json"),
    ("settings.json", {"preset": "new"}, "preset is 'literal' in .* and 'new' in settings"),
    ("cost.json", {"dataset": "Dataset009_S"}, "dataset is 'Dataset004.* 'Dataset009_S' in"),
    ("cost.json", {"fold": 3}, "fold is 0 in the checkpoint and 3 in cost.json"),
]


def test_the_record_of_another_run_is_neither_continued_nor_overwritten(make_trainer: Make) -> None:
    fold = run_until(make_trainer(LTH), 1)
    for file, change, message in OF_OTHERS:
        kept = read_json(fold / "iac" / file)
        document = read_json(fold / "iac" / file)
        (document["run"] if file == "cost.json" else document).update(change)
        write_json(fold / "iac" / file, document)
        before = _snapshot(fold)
        with pytest.raises(ValueError, match=message):
            make_trainer(LTH, resume=True).run_training()
        assert _snapshot(fold) == before, message
        write_json(fold / "iac" / file, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "Dataset009_Spleen"}, "dataset is 'Dataset004_Hippocampus' here and"),
        ({"split": "0"}, "split is '.*' here and '0' in"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make_trainer: Make, change: dict[str, Any], message: str
) -> None:
    fold = run_until(make_trainer(LTH), 1)
    checkpoint = torch.load(fold / LATEST, weights_only=False)
    checkpoint["iac"]["run"].update(change)
    torch.save(checkpoint, fold / LATEST)
    with pytest.raises(ValueError, match=message):
        make_trainer(LTH, resume=True)


def test_a_checkpoint_whose_backbone_was_changed_is_refused(make_trainer: Make) -> None:
    fold = run_until(make_trainer(LTH), 1)
    checkpoint = torch.load(fold / LATEST, weights_only=False)
    next(w for key, w in checkpoint["network_weights"].items() if "encoder" in key).mul_(1.01)
    torch.save(checkpoint, fold / LATEST)
    with pytest.raises(RuntimeError, match="frozen backbone must be bit-identical throughout"):
        make_trainer(LTH, resume=True)


def test_a_run_whose_backbone_moved_fails_at_its_end(make_trainer: Make) -> None:
    trainer = make_trainer(LTH)
    fold = run_until(trainer, 8)
    with torch.no_grad():
        next(trainer.unet.encoder.parameters()).mul_(1.01)
    with pytest.raises(RuntimeError, match="frozen backbone must be bit-identical throughout"):
        trainer.on_train_end()
    assert not (fold / "checkpoint_final.pth").exists()
    assert not RunFolder.of_fold(fold).read_backbone().unchanged


def test_the_previous_checkpoint_left_alone_is_pointed_at(make_trainer: Make) -> None:
    fold = run_until(make_trainer(LTH), 2)
    (fold / LATEST).unlink()
    for name in (LTH, "nnUNetTrainerContinue"):
        trainer = make_trainer(name)
        trainer.continues = True
        (Path(trainer.output_folder) / PREVIOUS).touch()
        with pytest.raises(ValueError, match=f"copy {PREVIOUS} to {LATEST}, or start anew"):
            trainer.run_training()


def test_a_run_that_another_process_continued_is_not_continued(make_trainer: Make) -> None:
    run_until(make_trainer(LTH), 1)
    slow = make_trainer(LTH, resume=True)
    fold = run_until(make_trainer(LTH, resume=True), 2)
    before = _snapshot(fold)
    with pytest.raises(RuntimeError, match="has been replaced since it was read"):
        slow.run_training()
    assert _snapshot(fold) == before


def test_a_cell_found_in_an_epoch_without_checkpoint_is_forgotten(make_trainer: Make) -> None:
    fold = run_until(make_trainer(LTH), 6)
    searching = (fold / LATEST).read_bytes()
    run_until(make_trainer(LTH, resume=True), 7)
    record = RunFolder.of_fold(fold)
    assert record.read_genotype()
    (fold / LATEST).write_bytes(searching)
    make_trainer(LTH, resume=True).continue_run()
    assert not any(path.exists() for path in (record.genotype_file, *record.cell_files))


def test_resuming_under_other_versions_or_with_other_processes_is_recorded(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(make_trainer(LTH), 1)
    resumed = make_trainer(LTH, resume=True)
    resumed.continue_run()
    assert resumed.run.recorder.folder.read_cost().continued == []
    monkeypatch.setattr("nnunet_iac.training.provenance.PACKAGES", ("torch",))
    monkeypatch.setattr("nnunet_iac.training.recorder.ranks", lambda: 2)
    resumed = make_trainer(LTH, resume=True)
    resumed.continue_run()
    (other,) = resumed.run.recorder.folder.read_cost().continued
    assert set(other["versions"]) == {"python", "nnunet-iac", "torch"}
    assert other["ranks"] == 2
    assert "WARNING: versions and ranks differ" in Path(resumed.log_file).read_text()


def test_a_fold_in_use_is_left_alone(make_trainer: Make, in_process: Any) -> None:
    fold = in_process.model(LTH, "small") / "fold_0"
    trainer = make_trainer(LTH)
    with FileLock(fold / LOCK):
        before = _snapshot(fold)
        for work in (trainer.run_training, trainer.perform_actual_validation):
            with pytest.raises(RuntimeError, match="only one process may work on"):
                work()
        assert _snapshot(fold) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_last_checkpoint(
    make_trainer: Make, in_process: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNet, "sleep", lambda _: None)  # Before it tries to log once more.
    shutil.copytree(in_process.path / "results", small_disk / "results")
    monkeypatch.setenv("nnUNet_results", str(small_disk / "results"))
    trainer = make_trainer(LTH)
    fold = run_until(trainer, 4)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(4_000_000))
    before = _snapshot(fold)
    resumed = make_trainer(LTH, resume=True)
    with pytest.raises(RuntimeError, match=r"must have \d+ MB free for the checkpoints, and has"):
        resumed.run_training()
    monkeypatch.setattr("nnunet_iac.training.preflight.require_space", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"must be written and could not be .*No space left"):
        make_trainer(LTH, resume=True).run_training()
    assert _snapshot(fold) == before
    filler.unlink()
    resumed = make_trainer(LTH, resume=True)
    resumed.run_training()
    assert resumed.run.recorder.folder.read_backbone().unchanged


def test_ctrl_c_and_a_full_disk_end_with_how_to_resume(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(LTH)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        validate = nnUNet.nnUNetTrainer.validation_step
        patch.setattr(
            trainer,
            "validation_step",
            lambda batch: interrupted() if trainer.current_epoch == 2 else validate(trainer, batch),
        )
        with pytest.raises(SystemExit, match="130"):
            trainer.run_training()
    said = "Interrupted with 2 of at most 9 epochs done: run the same command again with --c"
    assert said in Path(trainer.log_file).read_text()
    resumed = make_trainer(LTH, resume=True)
    assert resumed.current_epoch == 2
    resumed.run_training()
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_iac.training.retrofit_trainer.validate_others", interrupted)
        with pytest.raises(SystemExit, match="130"):
            resumed.perform_actual_validation()
    said = "Interrupted in the final validation: run the same command again with --val"
    assert said in Path(resumed.log_file).read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nnunet_iac.training.retrofit_trainer.validate_others", full)
    fold = Path(resumed.output_folder)
    with pytest.raises(RuntimeError, match=f"{fold} must have room .* again with --val"):
        resumed.perform_actual_validation()


def test_a_write_that_fails_keeps_the_last_checkpoint(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = run_until(make_trainer(LTH), 4)
    before = (fold / LATEST).read_bytes()
    resumed = make_trainer(LTH, resume=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(RuntimeError, match=r"could not be .*File too large.*kept: free disk"):
            resumed.save_checkpoint(str(fold / LATEST))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (fold / LATEST).read_bytes() == before
    assert not list(fold.rglob(".*"))


def test_a_read_only_folder_is_refused_before_anything_is_made(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = in_process.path / "results"
    command = ["mount", "--bind", "-o", "ro", str(results), str(results)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = _snapshot(results)
    try:
        with pytest.raises(RuntimeError, match=r"cannot be written to: fix its permissions"):
            make_trainer(LTH)
        assert _snapshot(results) == before
    finally:
        subprocess.run(["umount", "-l", str(results)], capture_output=True)
