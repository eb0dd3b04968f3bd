"""Continues a run with --c from its state at many moments, as a kill there would leave it.

Run in nnU-Net's environment with planned data and a backbone:

    python tests/faults/kills.py TRAINER PLANS [--kills 30] [--json FILE]

The moments are counted, not timed: every training and validation step, every validated case, and
everything the process does to a file of its fold, nnU-Net's own doings included. One unbroken run
keeps what is in its folder at every moment; where a file is about to be written, half a file. Each
chosen state is put back and continued, and the end compared with that of the unbroken run. One run
is killed in earnest, to compare what it leaves with what was kept, and so is every fourth that goes
on. The processes are forked, so that torch is imported once.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_results
from nnunetv2.run import run_training as commands
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet

from nnunet_iac.nn.cost import StepMemory
from nnunet_iac.runs.atomic import write_json, write_text
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.training import preflight, recorder
from nnunet_iac.training.cost import circumstances
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer

CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.move", "os.chmod")
"""Audit events of Python, besides `open`, that change a folder."""

SECOND_KILL_EVERY, SECOND_KILL_AT = 4, 60
"""Every so many kills the continued run is killed as well, at that moment of its own."""

HALF = b'{"half": [1, 2'
"""What is in a file that was being written."""

DATASET, CONFIGURATION, FOLD = "4", "2d", 0
Report = Callable[[str], None]
State = dict[str, str]
"""Of a folder: the hash of every file's content by its path, and an empty text for folders."""


class Moments:
    """Counts the moments of this process, keeps the states of a folder, or ends at one of them.

    Args:
        folder: files below it count.
        last: number of the moment to be killed at; 0 for none.
        log: file that gets the name of the last moment.
        contents: folder that gets every content by its hash; None to keep nothing.
    """

    def __init__(self, folder: Path, last: int, log: Path, contents: Path | None) -> None:
        self.folder = folder
        self.last = last
        self.log = log
        self.contents = contents
        self.names: list[str] = []
        self.states: list[State] = []
        self.busy = False

    def pass_by(self, name: str, torn: Path | None = None) -> None:
        """Count a moment; keep its state, or leave half a file and end where it is the last."""
        self.names.append(name)
        if self.contents is not None:
            self.states.append(keep(self.folder, self.contents, torn))
        if len(self.names) == self.last:
            if torn is not None:
                torn.write_bytes(HALF)
            self.log.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Listen to what Python does to files."""
        path = str(arguments[0]) if arguments else ""
        if self.busy or not path.startswith(f"{self.folder}{os.sep}") or "training_log" in path:
            return
        name = Path(path).name
        if event in CHANGES:
            self.count(f"{event} {name}")
        elif event == "open" and _writes(*arguments[1:3]):
            # Where a folder is opened, it is for a file without a name.
            self.count(f"write {name}", torn=None if Path(path).is_dir() else Path(path))
        elif event == "open" and name.startswith(".writing."):
            self.count(f"fsync {name}")

    def count(self, name: str, torn: Path | None = None) -> None:
        """Pass a moment by, deaf to what that itself does to files."""
        self.busy = True
        try:
            self.pass_by(name, torn)
        finally:
            self.busy = False

    def listen(self) -> None:
        """Begin to count, in a process of its own: Python cannot take a hook back."""
        sys.addaudithook(self.audit)
        for owner, method in (
            (RetrofitTrainer, "train_step"),
            (nnUNet.nnUNetTrainer, "validation_step"),
            (nnUNetPredictor, "predict_sliding_window_return_logits"),
        ):
            setattr(owner, method, self._counted(getattr(owner, method), method))

    def _counted(self, function: Any, name: str) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count(name)
            return function(*arguments, **keywords)

        return counted


def _writes(mode: str | None, flags: int) -> bool:
    """Return whether an `open` is there to write; without a mode the flags say so."""
    if mode is None:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return bool(set(mode) & set("wax+"))


def keep(folder: Path, contents: Path, torn: Path | None) -> State:
    """Return the state of a folder after keeping its contents; of a torn file, half a file's."""
    files = {path: None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}
    if torn is not None:
        files[torn] = HALF
    state = {}
    for path, content in files.items():
        digest = "" if content is None else hashlib.sha1(content).hexdigest()
        if content is not None and not (contents / digest).exists():
            (contents / digest).write_bytes(content)
        state[str(path.relative_to(folder))] = digest
    return state


def put_back(folder: Path, contents: Path, state: State) -> None:
    """Make a folder what it was."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in sorted(state):
        if state[name]:
            shutil.copyfile(contents / state[name], folder / name)
        else:
            (folder / name).mkdir()


def named(paths: Iterable[str]) -> list[str]:
    """Return the paths of a state, without what is random or a date in them."""
    return sorted(re.sub(r"(\.\w{8}(?=\.\w+$)|[\d_]{10,})", "", path) for path in paths)


def kind(moment: str) -> str:
    """Return what sort of moment it is, after which a folder is in the same sort of state."""
    action, _, name = moment.partition(" ")
    ours, whole = (
        name.startswith(".writing."),
        ".".join(name.removeprefix(".writing.").split(".")[:2]),
    )
    if whole.startswith("checkpoint_"):
        whole = "checkpoint"
    if not ours:
        return action if whole != "checkpoint" else f"{action} {whole}"
    sort = "checkpoint" if whole == "checkpoint" else "record"
    if action == "write":
        return f"half of {sort}"
    return f"{sort} in place" if action == "os.remove" else f"{sort} not yet in place"


def one_of_each_kind(names: Sequence[str]) -> list[int]:
    """Return numbers of moments, one of every kind, spread over the run.

    Kinds that the run begins with are taken late: little is left to train again.
    """
    kinds: dict[str, list[int]] = {}
    for number, name in enumerate(names, 1):
        kinds.setdefault(kind(name), []).append(number)
    shares = np.linspace(1, 0, len(kinds))
    return sorted(
        numbers[round(share * (len(numbers) - 1))]
        for share, numbers in zip(shares, kinds.values(), strict=True)
    )


def evenly(names: Sequence[str], kills: int) -> list[int]:
    """Return so many numbers of moments, from the first to the last."""
    found: list[int] = np.unique(np.linspace(1, len(names), kills).round().astype(int)).tolist()
    return found


def run(
    trainer: str,
    plans: str,
    fold: Path,
    log: Path,
    last: int = 0,
    go_on: bool = False,
    contents: Path | None = None,
) -> int:
    """Run nnUNetv2_train in a forked process; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        output = os.open(log.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 1
        try:
            moments = Moments(fold, last, log, contents)
            moments.listen()
            commands.run_training(
                DATASET, CONFIGURATION, FOLD, trainer, plans,
                continue_training=go_on, device=torch.device("cpu"),
            )  # fmt: skip
            log.write_text(json.dumps([moments.names, moments.states]))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(fold: Path) -> dict[str, Any]:
    """Return all of a finished run that must not depend on how it came about."""
    record = RunFolder.of_fold(fold)
    trajectory = record.read_trajectory()
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    arrays = {name: getattr(trajectory, name) for name in Trajectory.__annotations__}
    arrays.pop("seconds")
    best = torch.load(fold / "checkpoint_best.pth", weights_only=False)
    files = ("genotype", "events", "health", "settings", "split", "ticket")
    return {
        **{name: getattr(record, f"{name}_file").read_bytes() for name in files},
        "best epoch": best["current_epoch"],
        "best average": best["_best_ema"],
        "curves": {k: final["logging"][k] for k in ("train_losses", "val_losses", "ema_fg_dice")},
        "backbone": record.read_backbone().unchanged,
        "validation": summary["foreground_mean"],
        "unfinished files": [str(path) for path in fold.rglob(".*")],
        **{f"trajectory {name}": array.tobytes() for name, array in arrays.items()},
        **{f"final {k}": t.numpy().tobytes() for k, t in final["network_weights"].items()},
        **{f"best {k}": t.numpy().tobytes() for k, t in best["network_weights"].items()},
    }


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the names of what differs."""
    return [
        name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)
    ]


def measure(
    trainer: str, plans: str, choose: Callable[[Sequence[str]], list[int]], report: Report
) -> dict[str, Any]:
    """Return what became of a run after kills at the moments chosen among its names."""
    dataset = commands.maybe_convert_to_dataset_name(int(DATASET))
    model = Path(nnUNet_results) / dataset / f"{trainer}__{plans}__{CONFIGURATION}"
    fold = model / f"fold_{FOLD}"
    with tempfile.TemporaryDirectory() as scratch:
        log, contents = Path(scratch) / "log", Path(scratch) / "contents"
        contents.mkdir()
        shutil.rmtree(model, ignore_errors=True)
        status = run(trainer, plans, model, log, contents=contents)
        assert status == 0, log.with_suffix(".out").read_text()[-5000:]
        (names, states), wanted = json.loads(log.read_text()), outcome(fold)
        chosen = choose(names)
        report(f"{len(names)} moments in an unbroken run, {len(chosen)} chosen")
        rows = []
        for last in chosen:
            log.with_suffix(".out").unlink()
            if len(rows) == len(chosen) // 2:
                shutil.rmtree(model)
                killed = run(trainer, plans, model, log, last)
                assert killed == -signal.SIGKILL, (killed, last)
                left = named(str(path.relative_to(model)) for path in model.rglob("*"))
                assert left == named(states[last - 1]), (left, states[last - 1])
            else:
                put_back(model, contents, states[last - 1])
            moment = names[last - 1]
            if len(rows) % SECOND_KILL_EVERY == 1:
                again = run(trainer, plans, model, log, SECOND_KILL_AT, go_on=True)
                assert again in (-signal.SIGKILL, 0), again
                moment += f", then {log.read_text()}" if again else ""
            status = run(trainer, plans, model, log, go_on=True)
            differing = ["exit status"] if status else differences(wanted, outcome(fold))
            rows.append({"number": last, "moment": moment, "differs": differing})
            report(f"killed at {last}, {moment}: {differing or 'identical'}")
            if differing:
                report(log.with_suffix(".out").read_text()[-3000:])
    return {"trainer": trainer, "moments": len(names), "kills": rows}


def leave_out_what_only_takes_time() -> None:
    """Spare the runs what takes longer than all their epochs; every file is still written."""
    fork = nnUNet.multiprocessing.get_context("fork")  # A spawned worker imports all of nnU-Net.
    nnUNet.multiprocessing.get_context = lambda _: fork
    nnUNetPredictor._internal_maybe_mirror_and_predict = lambda self, image: self.network(image)
    LocalLogger.plot_progress_png = lambda _, folder: Path(folder, "progress.png").write_bytes(b"")
    recorder.draw_cell = lambda _, path, __: write_text(path, "")
    preflight.run_memory = lambda *_, **__: StepMemory(0, 0, (), 0)


def _print(line: str) -> None:
    print(line, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, write the result and exit with 1 if any continued run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    parser.add_argument("plans")
    parser.add_argument("--kills", type=int, help="evenly spread (default: one of each kind)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    leave_out_what_only_takes_time()
    kills = arguments.kills
    choose = one_of_each_kind if kills is None else partial(evenly, kills=kills)
    measured = measure(arguments.trainer, arguments.plans, choose, _print)
    if arguments.json:
        write_json(arguments.json, {**circumstances(), **measured})
    if any(row["differs"] for row in measured["kills"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
