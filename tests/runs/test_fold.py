"""One run per fold: the lock, the room it needs, and what an earlier run left."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from nnunet_iac.runs import fold
from nnunet_iac.runs.atomic import write_text
from nnunet_iac.runs.fold import (
    LOCK,
    archive_previous_run,
    fold_folders,
    full_disk_named,
    held,
    held_or_waited_for,
    require_space,
    require_writable,
)

HOLD = """
import sys, time
from pathlib import Path
from filelock import FileLock
from multiprocessing import get_context
from nnunet_iac.runs.fold import LOCK, held
with held(FileLock(Path(sys.argv[1]) / LOCK)):
    worker = get_context("fork").Process(target=time.sleep, args=(30,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize(
    ("error", "free", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 10**9, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 10**9, True),
        (RuntimeError("sitk::ERROR: ImageIO\nmore"), 1000, True),
        (RuntimeError("sitk::ERROR: ImageIO\nmore"), 10**9, False),
        (PermissionError(errno.EACCES, "Permission denied"), 1000, False),
    ],
)
def test_a_full_disk_is_named_whatever_could_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, free: int, named: bool
) -> None:
    usage = type("usage", (), {"free": free})
    monkeypatch.setattr(fold.shutil, "disk_usage", lambda path: usage)
    folder = tmp_path / "not" / "there"
    with (
        pytest.raises(type(error) if not named else RuntimeError) as raised,
        full_disk_named(folder, "go on with --val"),
    ):
        raise error
    assert (raised.value is not error) is named
    if named:
        what = str(error).splitlines()[0]
        said = f"{folder} must have room on its disk, which is full ({what}): free some, and go on"
        assert str(raised.value) == f"{said} with --val"


def test_an_error_that_names_its_file_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    usage = type("usage", (), {"free": 0})
    monkeypatch.setattr(fold.shutil, "disk_usage", lambda path: usage)
    with (
        pytest.raises(RuntimeError, match=r"file/a\.txt must be written"),
        full_disk_named(tmp_path, "go on"),
    ):
        write_text(tmp_path / "file" / "a.txt", "text")


def _hold(folder: Path) -> None:
    with held(FileLock(folder / LOCK)):
        pass


def test_the_lock_of_a_killed_process_does_not_block_even_if_a_worker_of_it_lives_on(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        with pytest.raises(RuntimeError, match="another one does"):
            _hold(tmp_path)
        process.kill()
        process.wait()
        try:
            _hold(tmp_path)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_folder_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    other, lines = FileLock(tmp_path / "a.lock"), []
    other.acquire()

    def log(line: str) -> None:
        lines.append(line)
        other.release()

    for _ in range(2):
        with held_or_waited_for(FileLock(tmp_path / "a.lock"), log):
            assert lines == [f"waiting for another process that works on {tmp_path}"]


def test_one_process_may_hold_a_fold_twice(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / LOCK)
    with held(lock), held(lock):
        pass
    assert not lock.is_locked


def test_a_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(RuntimeError, match=f"{tmp_path} cannot be written to"):
        require_writable(tmp_path / "not" / "there" / "yet")


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(RuntimeError, match=r"must have 1000000000000 MB free .* and has \d+ MB"):
        require_space(tmp_path, 10**18)


def test_record_and_checkpoints_of_an_earlier_run_are_moved_aside(tmp_path: Path) -> None:
    assert archive_previous_run(tmp_path) is None
    kept = ("training_log.txt",)
    for name in ("iac/genotype.json", "checkpoint_final.pth", "validation/summary.json", *kept):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("earlier")
    aside = archive_previous_run(tmp_path)
    assert aside is not None
    assert sorted(os.listdir(tmp_path)) == [aside.name, "training_log.txt"]
    assert (aside / "iac" / "genotype.json").read_text() == "earlier"
    assert (aside / "checkpoint_final.pth").read_text() == "earlier"
    assert (aside / "validation" / "summary.json").read_text() == "earlier"
    assert archive_previous_run(tmp_path) is None


def test_copies_of_folds_are_no_folds(tmp_path: Path) -> None:
    for name in ("fold_0", "fold_10", "fold_all", "fold_0_old", "fold_x", "model"):
        (tmp_path / name).mkdir()
    assert [path.name for path in fold_folders(tmp_path)] == ["fold_0", "fold_10", "fold_all"]
