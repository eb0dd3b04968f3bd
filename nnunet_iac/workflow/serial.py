"""Runs studies in this process, one step after the other: without Snakemake."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.folders import command_environment
from nnunet_iac.host.forks import import_nnunet, run_forked
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.typed import typed
from nnunet_iac.workflow import steps
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_checks import require_ready
from nnunet_iac.workflow.study_plans import study_folder

PROGRESS = re.compile(r"(Epoch \d+|Phase: .*|Pseudo dice .*|Pruned .*|predicting .*|Mean Val.*)$")
SECONDS = "seconds.json"
Log = Callable[[str], None]
StudyStep = Callable[[steps.Command], dict[str, Any]]
RunCommand = Callable[[Sequence[str], Mapping[str, str], Log], int]
"""Runs a command with additional variables, passes on its lines, and returns its exit status."""


def run_serially(study: Study, report: Log) -> Path:
    """Run all missing steps of a study, and return the folder of its results.

    Finished steps are kept, and interrupted trainings are continued. After a step that ran, all
    later ones are checked again. nnU-Net's folders must be set in the environment.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: the study cannot be run, or a step failed; the
            message has the end of its output.
    """
    torch.set_num_threads(1)  # A fork would wait for ever for threads that were started here.
    import_nnunet()  # The checks would, and show warnings.
    importlib.import_module("nnunet_iac.training.trainers")  # Once, for all forks.
    require_ready(study)
    folder = study_folder(study)
    planned = steps_of(study)
    seconds = read_seconds(folder)
    # macOS forbids its libraries in forks; CUDA cannot be used in them at all.
    run = run_forked if study.device == "cpu" and sys.platform == "linux" else run_process
    complete = True
    for number, (file, title, step) in enumerate(planned, start=1):
        to = folder / f"{file}.json"
        head = f"[{number}/{len(planned)}] {title}"
        complete = complete and to.is_file()
        if complete:
            report(f"{head}: done before")
            continue
        report(head)
        started = time.monotonic()
        log = folder / "logs" / f"{file.replace('/', '_')}.log"
        try:
            write_json(to, step(partial(run_logged, log, report, run)))
        except KeyboardInterrupt:
            done = f"{number - 1} of {len(planned)} steps are done"
            raise KeyboardInterrupt(f"{done}; run the same command again, which resumes") from None
        took = time.monotonic() - started
        seconds[file] = round(seconds.get(file, 0) + took, 1)
        write_json(folder / SECONDS, seconds)
        report(f"    {took:.0f} s")
    steps.report(study, [folder / "runs", folder / "predictions"], folder / "report.html")
    return folder


def read_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds of the finished steps of a study, by the file that each ends with."""
    path = folder / SECONDS
    return typed(dict[str, float], read_json(path), str(path)) if path.is_file() else {}


def steps_of(study: Study) -> list[tuple[str, str, StudyStep]]:
    """Return the steps of a study in their order: the file that each ends with, title and step."""
    found: list[tuple[str, str, StudyStep]] = []
    for dataset in study.datasets:
        title = f"Plan and preprocess {dataset.dataset}"
        found.append((f"prepared/{dataset.dataset}", title, partial(steps.prepare, study, dataset)))
    # A method may take cells or epochs from another one that the study lists later.
    ordered = sorted(study.runs.values(), key=lambda run: len(study.sources_of(run)))
    for folder, verb, step in (
        ("runs", "Train", steps.train),
        ("predictions", "Predict the test cases:", steps.predict),
    ):
        for run in ordered:
            name = f"the backbone {run.backbone}" if run.method == REFERENCE else run.method
            title = f"{verb} {name} ({study.trainer_of(run)}, fold {run.fold})"
            if folder == "runs" or run.dataset.predict:
                found.append((f"{folder}/{run.name}", title, partial(step, study, run)))
    return found


def run_logged(
    log: Path, report: Log, run: RunCommand, words: Sequence[str], **environment: str
) -> None:
    """Run a command, which must succeed; log its output, and report lines that show progress."""
    log.parent.mkdir(parents=True, exist_ok=True)
    report(f"    $ {shlex.join(words)}")
    with open(log, "a", encoding="utf-8") as file:

        def receive(line: str) -> None:
            file.write(line)
            if shown := PROGRESS.search(line.rstrip()):
                report(f"      {shown.group(1)}")

        status = run(words, {**command_environment(), **environment}, receive)
    if status != 0:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise RuntimeError(
            f"{words[0]} must succeed and exited with {status}; {log} ends with\n{end}"
        )


def run_process(words: Sequence[str], environment: Mapping[str, str], receive: Log) -> int:
    """Run a command in a process of its own, pass on its lines, and return its exit status."""
    with subprocess.Popen(
        words,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            receive(line)
    return process.returncode
