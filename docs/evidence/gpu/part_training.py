"""Short runs through nnU-Net's own commands: trained, repeated, killed, predicted, exported.

All runs start at the same untrained backbone, so their Dice means nothing. They train at the same
time, each with results of its own.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from visit import Rows, Visit

from nnunet_iac.host.folders import command_environment
from nnunet_iac.host.planning import write_plans
from nnunet_iac.host.stock_trainer import stock_trainer
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import VALIDATION_SUMMARY

DATASET, PLANS = "Dataset004_Hippocampus", "nnUNetPlans"
KILLED_IN = re.compile(r": Epoch 5\b")
"""The line of nnU-Net's log at which a run is killed: the search has pruned by then."""

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "full search": ("nnUNetTrainerIAC_1warmup6search2finetune", {}),
    "random cell": (DISCRETE, {"genotype": "random:0"}),
    "attention gates": (DISCRETE, {"skip": "attention"}),
    "continued backbone": (
        "nnUNetTrainerContinue",
        {"finetune_epochs": 2, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1},
    ),
}
"""Trainer and settings of the runs that are not repeated."""

ONNX = ("onnx", "onnxscript", "onnxruntime")
AT_ONCE = 8
"""Runs that train at the same time on a GPU."""


def rows(visit: Visit, scratch: Path) -> Rows:
    """Prepare the data, start all runs, and return what waits for each of them."""
    bench = Bench(visit, scratch)
    bench.prepare()
    pool = ThreadPoolExecutor(1 if visit.quick else AT_ONCE)
    begin = partial(pool.submit, timed)
    first = begin(bench.run, "first", LTH)
    others = {
        "the same again": begin(bench.run, "again", LTH),
        "killed and continued": begin(bench.continued, "killed", LTH),
        **{name: begin(bench.run, name, trainer) for name, (trainer, _) in OTHERS.items()},
    }
    further = {
        "prediction": begin(bench.predicted, after=first),
        "export": begin(bench.exported, after=first),
    }

    def compared(name: str, folder: str) -> dict[str, Any]:
        ends = [bench.fold(run, LTH) / FINAL for run in ("first", folder)]
        return {**others[name].result(), **difference(*ends)}

    repeated = {"the same again": "again", "killed and continued": "killed"}
    return {
        "search and finetuning": first.result,
        **{name: partial(compared, name, folder) for name, folder in repeated.items()},
        **{
            name: later.result for name, later in (further | others).items() if name not in repeated
        },
    }


def timed(
    task: Callable[..., dict[str, Any]], *arguments: str, after: Future | None = None
) -> dict[str, Any]:
    """Run a task, once another has ended, and return what it does with the seconds it took."""
    if after is not None:
        after.result()
    started = time.monotonic()
    return {**task(*arguments), "seconds": round(time.monotonic() - started, 2)}


def run_command(
    words: list[str], environment: dict[str, str], log: Path, killed_in: re.Pattern | None = None
) -> int:
    """Run a command with its output into a file, kill it at a line, and return its status."""
    own = {**os.environ, **command_environment(), **environment}
    keywords: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, env=own, text=True, **keywords) as process, log.open("a") as file:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if killed_in is not None and killed_in.search(line):
                process.kill()
    return process.returncode


@dataclass(frozen=True)
class Bench:
    """nnU-Net's folders below `scratch`: shared data, and results for every run."""

    visit: Visit
    scratch: Path

    def environment(self, name: str) -> dict[str, str]:
        """Return nnU-Net's variables for a run."""
        folders = {key: str(self.scratch / key) for key in ("raw", "preprocessed")}
        folders["results"] = str(self.results(name))
        return {
            **{f"nnUNet_{key}": value for key, value in folders.items()},
            "nnUNet_n_proc_DA": "1" if self.visit.quick else "2",
            "nnUNet_def_n_proc": "1" if self.visit.quick else "2",
            "PYTHONUNBUFFERED": "1",
        }

    def results(self, name: str) -> Path:
        """Return the folder of a run's results."""
        return self.scratch / "results" / name.replace(" ", "_")

    def fold(self, name: str, trainer: str) -> Path:
        """Return the folder of a run's fold."""
        return self.results(name) / DATASET / f"{trainer}__{plans_of(name)}__2d" / "fold_0"

    def command(self, name: str, *words: str, killed_in: re.Pattern | None = None) -> int:
        """Run a command that must succeed, unless it is killed; the end of its log is the error."""
        log = self.scratch / f"{name.replace(' ', '_')}.log"
        status = run_command(list(words), self.environment(name), log, killed_in)
        if status != 0 and killed_in is None:
            end = " | ".join(log.read_text().splitlines()[-12:])
            raise RuntimeError(f"{words[0]} ended with status {status}: {end}")
        return status

    def prepare(self) -> None:
        """Plan and preprocess the embedded cases, save a backbone, and write all plans."""
        shutil.copytree(str(files("nnunet_iac") / "data" / DATASET), self.scratch / "raw" / DATASET)
        processes = "1" if self.visit.quick else "4"
        planning = ("-d", "4", "-c", "2d", "-np", processes, "-npfp", processes)
        self.command("prepare", "nnUNetv2_plan_and_preprocess", *planning)
        os.environ.update(self.environment("prepare"))
        folder = self.scratch / "preprocessed" / DATASET
        plans = read_json(folder / f"{PLANS}.json")
        if self.visit.quick:
            shrink(plans["configurations"]["2d"])
            write_json(folder / f"{PLANS}.json", plans)
        backbone = self.scratch / "backbone.pth"
        with stock_trainer(plans, "2d", read_json(folder / "dataset.json"), workers=1) as trainer:
            trainer.save_checkpoint(str(backbone))
        # A backbone of fold "all" may have seen all cases; this one has seen none.
        given = {"backbone_checkpoint": str(backbone), "allow_leakage": True}
        for name, settings in {"first": {}, **{n: s for n, (_, s) in OTHERS.items()}}.items():
            write_plans(DATASET, "2d", PLANS, plans_of(name), {**given, **settings})

    def run(self, name: str, trainer: str, *flags: str) -> dict[str, Any]:
        """Train and validate; return what the record has of it."""
        self.command(name, *self.training(name, trainer), *flags)
        fold = self.fold(name, trainer)
        record = RunFolder.of_fold(fold)
        cost, backbone = record.read_cost(), record.read_backbone()
        found = {"genotype": str(record.read_genotype())} if record.genotype_file.is_file() else {}
        return {
            "phases": {phase: part.epochs for phase, part in cost.phases.items()},
            "backbone_unchanged": backbone.unchanged,
            "gpu": cost.hardware["gpu"],
            "peak_mb": cost.peak_memory_bytes / 2**20,
            "validation_dice": read_json(fold / VALIDATION_SUMMARY)["foreground_mean"]["Dice"],
            **found,
        }

    def continued(self, name: str, trainer: str) -> dict[str, Any]:
        """Train, kill the run in its search, and let it end with `--c`."""
        status = self.command(name, *self.training(name, trainer), killed_in=KILLED_IN)
        return {"killed_with": status, **self.run(name, trainer, "--c")}

    def training(self, name: str, trainer: str) -> list[str]:
        """Return the command that trains a run."""
        where = ["4", "2d", "0", "-p", plans_of(name), "-device", self.visit.device]
        return ["nnUNetv2_train", *where, "-tr", trainer]

    def predicted(self) -> dict[str, Any]:
        """Predict the test cases with the first run."""
        images, to = self.scratch / "raw" / DATASET / "imagesTs", self.scratch / "predicted"
        model = ("-d", "4", "-c", "2d", "-f", "0", "-tr", LTH, "-p", plans_of("first"))
        device = ("-device", self.visit.device, "-npp", "1", "-nps", "1")
        self.command("first", "nnUNetv2_predict", "-i", f"{images}", "-o", f"{to}", *model, *device)
        return {"predicted": len(list(to.glob("*.nii.gz"))), "images": len(list(images.iterdir()))}

    def exported(self) -> dict[str, Any]:
        """Export the first run, and as ONNX, if that is installed; the command compares the two."""
        to = self.scratch / "exported"
        onnx = ("--onnx", "--cases", "1") if all(map(find_spec, ONNX)) else ()
        words = ("export", str(self.fold("first", LTH)), "-o", str(to), *onnx)
        self.command("first", "nnunet-iac", *words)
        log = (self.scratch / "first.log").read_text().splitlines()
        return {
            "onnx": bool(onnx),
            "compared": [line for line in log if "differ by at most" in line],
        }


def plans_of(name: str) -> str:
    """Return the identifier of a run's plans; repeated runs share theirs."""
    return f"visit_{name.replace(' ', '_')}" if name in OTHERS else "visit"


def shrink(configuration: dict[str, Any]) -> None:
    """Leave three narrow stages of a network from plans, for a dry run."""
    keywords = configuration["architecture"]["arch_kwargs"]
    for key, value in keywords.items():
        if isinstance(value, list):
            keywords[key] = value[:3]
    keywords |= {"n_stages": 3, "features_per_stage": [4, 8, 8]}
    keywords["n_conv_per_stage_decoder"] = keywords["n_conv_per_stage_decoder"][:2]
    configuration["batch_size"] = 2


def difference(checkpoint: Path, other: Path) -> dict[str, Any]:
    """Return whether the weights of two checkpoints are the same bits, and how far they are."""
    first, second = (read_checkpoint(path)["network_weights"] for path in (checkpoint, other))
    same_cell = first.keys() == second.keys()
    pairs = [(first[key].double(), second[key].double()) for key in first] if same_cell else []
    return {
        "same_cell": same_cell,
        "equal_to_the_bit": same_cell and all(torch.equal(a, b) for a, b in pairs),
        "largest_difference": max((float((a - b).abs().max()) for a, b in pairs), default=None),
    }
