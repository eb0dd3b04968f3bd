"""Kills a run at many moments, continues it with --c and compares it with one that was not killed.

Run in nnU-Net's environment with planned data and a backbone:

    python tests/faults/kills.py TRAINER PLANS --kills 30 --json FILE

The moments are counted, not timed: every training and validation step, every validated case, and
everything the process does to a file of its fold, nnU-Net's own doings included. Where a file is
about to be written, half a file is left. The process is forked, so that torch is imported once.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_results
from nnunetv2.run import run_training as commands
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet

from nnunet_iac.runs.atomic import write_json, write_text
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.training import recorder
from nnunet_iac.training.cost import circumstances
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer

CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.move", "os.chmod")
"""Audit events of Python, besides `open`, that change a folder."""

SECOND_KILL_EVERY, SECOND_KILL_AT = 4, 60
"""Every so many kills the continued run is killed as well, at that moment of its own."""

DATASET, CONFIGURATION, FOLD = "4", "2d", 0
Report = Callable[[str], None]


class Moments:
    """Counts the moments of this process and ends it at one of them.

    Args:
        folder: files below it count.
        last: number of the moment to be killed at; 0 for none.
        log: file that gets the name of every moment.
    """

    def __init__(self, folder: Path, last: int, log: Path) -> None:
        self.folder = f"{folder}{os.sep}"
        self.last = last
        self.log = log
        self.names: list[str] = []
        self.busy = False

    def pass_by(self, name: str, torn: Path | None = None) -> None:
        """Count a moment; at the last one leave half a file where one was to be written."""
        self.names.append(name)
        if len(self.names) != self.last:
            return
        if torn is not None:
            torn.write_bytes(b'{"half": [1, 2')
        self.log.write_text(name)
        os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Listen to what Python does to files."""
        path = str(arguments[0]) if arguments else ""
        if self.busy or not path.startswith(self.folder) or "training_log" in path:
            return
        self.busy = True
        try:
            name = Path(path).name
            if event in CHANGES:
                self.pass_by(f"{event} {name}")
            elif event == "open" and _writes(*arguments[1:3]):
                self.pass_by(f"write {name}", torn=Path(path))
            elif event == "open" and name.startswith(".writing."):
                self.pass_by(f"fsync {name}")
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
            self.pass_by(name)
            return function(*arguments, **keywords)

        return counted


def _writes(mode: str | None, flags: int) -> bool:
    """Return whether an `open` is there to write; without a mode the flags say so."""
    if mode is None:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return bool(set(mode) & set("wax+"))


def run(trainer: str, plans: str, fold: Path, last: int, go_on: bool, log: Path) -> int:
    """Run nnUNetv2_train in a forked process; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        output = os.open(log.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 1
        try:
            moments = Moments(fold, last, log)
            moments.listen()
            commands.run_training(
                DATASET, CONFIGURATION, FOLD, trainer, plans,
                continue_training=go_on, device=torch.device("cpu"),
            )  # fmt: skip
            log.write_text(json.dumps(moments.names))
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


def measure(trainer: str, plans: str, kills: int, report: Report) -> dict[str, Any]:
    """Return what became of a number of kills, spread evenly over the moments of a run."""
    dataset = commands.maybe_convert_to_dataset_name(int(DATASET))
    model = Path(nnUNet_results) / dataset / f"{trainer}__{plans}__{CONFIGURATION}"
    fold = model / f"fold_{FOLD}"
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        shutil.rmtree(model, ignore_errors=True)
        status = run(trainer, plans, model, 0, False, log)
        assert status == 0, log.with_suffix(".out").read_text()[-5000:]
        names, wanted = json.loads(log.read_text()), outcome(fold)
        report(f"{len(names)} moments in an unbroken run")
        rows = []
        for last in np.unique(np.linspace(1, len(names), kills).round().astype(int)).tolist():
            shutil.rmtree(model)
            log.with_suffix(".out").unlink()
            killed = run(trainer, plans, model, last, False, log)
            assert killed == -signal.SIGKILL, (killed, last)
            moment = log.read_text()
            if len(rows) % SECOND_KILL_EVERY == 1:
                again = run(trainer, plans, model, SECOND_KILL_AT, True, log)
                assert again in (-signal.SIGKILL, 0), again
                moment += f", then {log.read_text()}" if again else ""
            status = run(trainer, plans, model, 0, True, log)
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


def _print(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Measure, write the result and return 1 if any continued run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    parser.add_argument("plans")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    leave_out_what_only_takes_time()
    measured = measure(arguments.trainer, arguments.plans, arguments.kills, _print)
    if arguments.json:
        write_json(arguments.json, {**circumstances(), **measured})
    return int(any(row["differs"] for row in measured["kills"]))


if __name__ == "__main__":
    sys.exit(main())
