"""Continues a run with --c from its state at many moments, as a kill there would leave it.

Run in nnU-Net's environment with planned data and a backbone:

    python tests/faults/kills.py TRAINER PLANS [--kills 30] [--outside 12] [--json FILE]

The moments are counted, not timed: every training and validation step, every validated case, and
everything the process does to a file of its fold, nnU-Net's own doings included. One unbroken run
keeps what is in its folder at every moment; where a file is about to be written, half a file. Each
chosen state is put back and continued, and the end compared with that of the unbroken run. One run
is killed in earnest, to compare what it leaves with what was kept, and so is every fourth that goes
on. The processes are forked, so that torch is imported once.

Runs that are killed from outside have augmentation workers and get SIGKILL at a random time, as
many in training as in either final validation, which is seen by what is on disk; so is how far they
had come. They, too, must end as the unbroken run, which had no workers.
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
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
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
from nnunet_iac.training import memory, recorder
from nnunet_iac.training.batches import WORKERS_VARIABLE
from nnunet_iac.training.provenance import circumstances
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer

CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.move", "os.chmod")
"""Audit events of Python, besides `open`, that change a folder."""

SECOND_KILL_EVERY, SECOND_KILL_AT = 4, 60
"""Every so many kills the continued run is killed as well, at that moment of its own."""

HALF = b'{"half": [1, 2'
"""Content of a file that was being written."""

STAGES = ("training", "validation of the backbone", "validation of the network")
"""Stages of a run, in turn; the last two are its final validations."""

KINDS_OF_STAGES = ("predict_sliding_window_return_logits", "half of record")
"""Kinds of moments of which `one_of_each_kind` returns one of every stage."""

WORKERS, SEED, POLL_SECONDS = 2, 0, 0.01
"""Runs killed from outside: augmentation workers, seed of the times, seconds between looks."""

DATASET, CONFIGURATION, FOLD = "4", "2d", 0
Report = Callable[[str], None]
Choose = Callable[[Sequence[str], Sequence[str]], list[int]]
"""Returns numbers of moments, from 1, by their names and stages."""
State = dict[str, str]
"""A folder's files: the hash of each content by its path, and an empty text for folders."""


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
        self.stages: list[str] = []
        self.states: list[State] = []
        self.begun = {STAGES[0]: time.monotonic()}
        self.busy = False

    def pass_by(self, name: str, torn: Path | None = None) -> None:
        """Count a moment; keep its state, or leave half a file and end where it is the last."""
        self.names.append(name)
        self.stages.append([*self.begun][-1])
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
        for owner in (RetrofitTrainer, nnUNet.nnUNetTrainer):
            owner.perform_actual_validation = self._noted(owner.perform_actual_validation)

    def _counted(self, function: Any, name: str) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count(name)
            return function(*arguments, **keywords)

        return counted

    def _noted(self, validation: Any) -> Any:
        """Note when either final validation begins: nnU-Net's own of the fold is the network's."""

        def noted(trainer: Any, *arguments: Any, **keywords: Any) -> Any:
            is_own = Path(trainer.output_folder).name.startswith("fold_")
            backbone_done = is_own and STAGES[1] in self.begun
            self.begun.setdefault(STAGES[2 if backbone_done else 1], time.monotonic())
            return validation(trainer, *arguments, **keywords)

        return noted


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


def one_of_each_kind(names: Sequence[str], stages: Sequence[str]) -> list[int]:
    """Return numbers of moments, one of every kind, spread over the run.

    A kind in several stages is one of each if it is a prediction or half a record. Kinds that the
    run begins with are taken late: little is left to train again.
    """
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, (name, stage) in enumerate(zip(names, stages, strict=True), 1):
        own = stage if kind(name) in KINDS_OF_STAGES else ""
        kinds.setdefault((kind(name), own), []).append(number)
    shares = np.linspace(1, 0, len(kinds))
    return sorted(
        numbers[round(share * (len(numbers) - 1))]
        for share, numbers in zip(shares, kinds.values(), strict=True)
    )


def evenly(names: Sequence[str], stages: Sequence[str], kills: int) -> list[int]:
    """Return so many numbers of moments, a third of them from each stage if it has as many."""
    found: list[int] = []
    for later, stage in reversed([*enumerate(STAGES)]):
        numbers = [number for number, own in enumerate(stages, 1) if own == stage]
        count = min((kills - len(found)) // (later + 1), len(numbers))
        found += [numbers[k] for k in np.linspace(0, len(numbers) - 1, count).round().astype(int)]
    return sorted(found)


def start(
    trainer: str,
    plans: str,
    fold: Path,
    log: Path,
    last: int = 0,
    go_on: bool = False,
    contents: Path | None = None,
) -> int:
    """Start nnUNetv2_train in a forked process, the first of its group; return its number."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
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
            log.write_text(json.dumps(vars(moments), default=str))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(status)
    return child


def end_of(child: int) -> int:
    """Wait for a process; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(*arguments: Any, **keywords: Any) -> int:
    """Run nnUNetv2_train in a forked process, as `start`; return its exit status."""
    return end_of(start(*arguments, **keywords))


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
        "backbone's validation": record.read_backbone().reference,
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


class Measurement:
    """Kills and continues runs of one trainer, and compares them with an unbroken one.

    Args:
        trainer: name of the class; its run is the first of the fold.
        plans: their name.
        scratch: folder for logs and contents.
        report: gets a line per kill.
    """

    def __init__(self, trainer: str, plans: str, scratch: Path, report: Report) -> None:
        dataset = commands.maybe_convert_to_dataset_name(int(DATASET))
        self.model = Path(nnUNet_results) / dataset / f"{trainer}__{plans}__{CONFIGURATION}"
        self.fold = self.model / f"fold_{FOLD}"
        self.log, self.contents = scratch / "log", scratch / "contents"
        self.contents.mkdir()
        self.run = partial(run, trainer, plans, self.model, self.log)
        self.start = partial(start, trainer, plans, self.model, self.log)
        self.report = report
        self.unbroken = self._unbroken(contents=self.contents)
        self.wanted = outcome(self.fold)

    def _unbroken(self, **keywords: Any) -> dict[str, Any]:
        """Train without a kill; return what its moments were."""
        shutil.rmtree(self.model, ignore_errors=True)
        status = self.run(**keywords)
        assert status == 0, self._output()[-5000:]
        moments: dict[str, Any] = json.loads(self.log.read_text())
        return moments

    def _output(self) -> str:
        return self.log.with_suffix(".out").read_text()

    def _continued(self, what: str) -> list[str]:
        """Continue what a kill left; return the names of what differs in the end."""
        self.log.with_suffix(".out").write_text("")
        status = self.run(go_on=True)
        differing = ["exit status"] if status else differences(self.wanted, outcome(self.fold))
        self.report(f"{what}: {differing or 'identical'}")
        if differing:
            self.report(self._output()[-3000:])
        return differing

    def at_moments(self, choose: Choose) -> list[dict[str, Any]]:
        """Return what became of the run after kills at the moments chosen."""
        names, stages, states = (self.unbroken[key] for key in ("names", "stages", "states"))
        chosen = choose(names, stages)
        self.report(f"{len(names)} moments in an unbroken run, {len(chosen)} chosen")
        rows: list[dict[str, Any]] = []
        for last in chosen:
            if len(rows) == len(chosen) // 2:
                self._kill_in_earnest(last, states[last - 1])
            else:
                put_back(self.model, self.contents, states[last - 1])
            moment = names[last - 1]
            if len(rows) % SECOND_KILL_EVERY == 1:
                again = self.run(SECOND_KILL_AT, go_on=True)
                assert again in (-signal.SIGKILL, 0), again
                moment += f", then {self.log.read_text()}" if again else ""
            stage = stages[last - 1]
            what = f"{len(rows) + 1} of {len(chosen)}, killed at {last}, {stage}, {moment}"
            row = {"number": last, "stage": stage, "moment": moment}
            rows.append({**row, "differs": self._continued(what)})
        return rows

    def _kill_in_earnest(self, last: int, state: State) -> None:
        """Have a run end itself at a moment, and check that this left what was kept."""
        shutil.rmtree(self.model)
        killed = self.run(last)
        assert killed == -signal.SIGKILL, (killed, last)
        left = named(str(path.relative_to(self.model)) for path in self.model.rglob("*"))
        assert left == named(state), (left, state)

    def from_outside(self, kills: int) -> dict[str, Any]:
        """Return what became of runs with workers: one unbroken, others killed at random times.

        A third of the kills is aimed at each stage, at a time after its begin that is less than it
        took the unbroken one. A run that was faster had ended, and is continued as well.
        """
        before = os.environ[WORKERS_VARIABLE]
        os.environ[WORKERS_VARIABLE] = str(WORKERS)
        started = time.monotonic()
        begun = self._unbroken()["begun"]
        borders = [*(begun[stage] - started for stage in STAGES), time.monotonic() - started]
        unbroken, rows = differences(self.wanted, outcome(self.fold)), []
        self.report(f"unbroken with {WORKERS} workers: {unbroken or 'identical'}")
        random = np.random.default_rng(SEED)
        for number in range(kills):
            first = number % len(STAGES)
            seconds = float(random.uniform(0, borders[first + 1] - borders[first]))
            shutil.rmtree(self.model)
            child = self.start()
            self._wait_for(STAGES[first:], child)
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            ended = end_of(child) == 0
            stage = "after the end" if ended else reached(self.fold)
            aim = f"{seconds:.2f} s after the begin of the {STAGES[first]}"
            what = f"{number + 1} of {kills}, killed from outside {aim}, {stage}"
            row = {"aimed_at": STAGES[first], "seconds": seconds, "stage": stage}
            rows.append({**row, "differs": self._continued(what)})
            with suppress(ProcessLookupError):  # nnU-Net's pools, which were forked here.
                os.killpg(child, signal.SIGKILL)
        os.environ[WORKERS_VARIABLE] = before
        return {"workers": WORKERS, "unbroken_with_workers": unbroken, "outside": rows}

    def _wait_for(self, stages: Sequence[str], child: int) -> None:
        """Wait until a run is in one of the last stages, or has ended; training begins at once."""
        while stages[0] != STAGES[0] and reached(self.fold) not in stages:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(POLL_SECONDS)


def reached(fold: Path) -> str:
    """Return the stage that a killed run had reached, by what it left."""
    if (fold / "checkpoint_final.pth").exists():
        scored = RunFolder.of_fold(fold).read_backbone().reference is not None
        return STAGES[2 if scored else 1]
    return STAGES[0] if (fold / "checkpoint_latest.pth").exists() else "before the first checkpoint"


def measure(
    trainer: str, plans: str, choose: Choose, outside: int, report: Report
) -> dict[str, Any]:
    """Return what became of a run after kills at chosen moments, and after some from outside."""
    with tempfile.TemporaryDirectory() as scratch:
        measurement = Measurement(trainer, plans, Path(scratch), report)
        return {
            "trainer": trainer,
            "moments": len(measurement.unbroken["names"]),
            "kills": measurement.at_moments(choose),
            **(measurement.from_outside(outside) if outside else {}),
        }


def leave_out_what_only_takes_time() -> None:
    """Spare the runs what takes longer than all their epochs; every file is still written."""
    fork = nnUNet.multiprocessing.get_context("fork")  # A spawned worker imports all of nnU-Net.
    nnUNet.multiprocessing.get_context = lambda _: fork
    nnUNetPredictor._internal_maybe_mirror_and_predict = lambda self, image: self.network(image)
    LocalLogger.plot_progress_png = lambda _, folder: Path(folder, "progress.png").write_bytes(b"")
    recorder.draw_cell = lambda _, path, __: write_text(path, "")
    memory.run_memory = lambda *_, **__: StepMemory(0, 0, (), 0)


def _print(line: str) -> None:
    print(line, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, write the result and exit with 1 if any continued run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    parser.add_argument("plans")
    parser.add_argument("--kills", type=int, help="evenly spread (default: one of each kind)")
    parser.add_argument("--outside", type=int, default=0, help="kills from outside (default: 0)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    leave_out_what_only_takes_time()
    kills = arguments.kills
    choose = one_of_each_kind if kills is None else partial(evenly, kills=kills)
    measured = measure(arguments.trainer, arguments.plans, choose, arguments.outside, _print)
    if arguments.json:
        write_json(arguments.json, {**circumstances(), **measured})
    rows = [*measured["kills"], *measured.get("outside", ())]
    if any(row["differs"] for row in rows) or measured.get("unbroken_with_workers"):
        sys.exit(1)


if __name__ == "__main__":
    main()
