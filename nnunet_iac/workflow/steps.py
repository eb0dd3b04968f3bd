"""The steps of a study: prepare, train, predict, report.

Snakemake runs each as a process:

    python -m nnunet_iac.workflow.steps STEP --study FILE [--dataset D] [--run NAME] --to FILE

Every step ends by writing FILE. Its other results are in nnU-Net's folders, where a repeated step
finds them again.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from nnunet_iac.analysis.scores.case_scores import read_case_scores
from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.folders import command_environment, raw_folder, results_folder
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import configuration_of, dataset_number, read_plans
from nnunet_iac.host.terminal import harmless
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import SUMMARY
from nnunet_iac.runs.splits import SPLITS
from nnunet_iac.runs.typed import typed
from nnunet_iac.workflow.study import DataSet, PlannedRun, Study
from nnunet_iac.workflow.study_checks import raw_cases, require_fitting, wanted_splits
from nnunet_iac.workflow.study_plans import (
    adapted_source,
    fold_folder,
    is_finished,
    plans_name,
    require_own_results,
    study_folder,
    untrained_settings,
    write_plans_of,
)
from nnunet_iac.workflow.study_report import provenance, scored_as, write_study_report

Command = Callable[..., None]
"""Runs words as a command, with keywords as additional environment variables."""

FINGERPRINT = "dataset_fingerprint.json"
"""File that planning needs; where it is missing its extraction takes minutes."""

OWN_CASES = "study_cases.json"
"""File in the folder of a network that nnU-Net trains alone, with its training cases."""

GPUS = "NNUNET_IAC_GPUS"
"""Number of GPUs of this machine that a study's trainings share, unless others assign them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step; return the exit status."""
    # Imported here since reading files needs the extra `study`; the steps themselves do not.
    from nnunet_iac.workflow.study_file import read_study

    parser = argparse.ArgumentParser(prog="nnunet_iac.workflow.steps")
    parser.add_argument("step", choices=("prepare", "train", "predict", "report"))
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--dataset")
    parser.add_argument("--run")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--results", type=Path, nargs="*", default=())
    given = parser.parse_args(argv)
    try:
        study = read_study(given.study)
        if given.step == "report":
            report(study, given.results, given.to)
        elif given.step == "prepare":
            named = next(d for d in study.datasets if d.dataset == given.dataset)
            write_json(given.to, prepare(study, named))
        else:
            step = train if given.step == "train" else predict
            write_json(given.to, step(study, study.runs[given.run]))
    except (ValueError, RuntimeError, OSError) as error:
        print(harmless(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the study's command resumes", file=sys.stderr)
        return 130
    return 0


def run_command(words: Sequence[str], **environment: str) -> None:
    """Run a command, which must succeed and whose output goes to this process's own."""
    print(harmless(f"$ {shlex.join(words)}"), flush=True)
    done = subprocess.run(words, env={**os.environ, **command_environment(), **environment})
    if done.returncode != 0:
        raise RuntimeError(
            f"{words[0]} must succeed and exited with {done.returncode}; see its output above"
        )


def prepare(study: Study, dataset: DataSet, command: Command = run_command) -> dict[str, Any]:
    """Plan and preprocess what is missing, put the splits in place, and write all plans."""
    folder = preprocessed_folder(dataset.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "study.lock"):
        splits, chosen = wanted_splits(dataset), not (folder / SPLITS).is_file()
        own = [run for run in study.runs.values() if run.dataset == dataset]
        if chosen:  # Also in place of those beside the raw data; whatever follows keeps a file.
            write_json(folder / SPLITS, splits)
        for run in own:
            if run.method == REFERENCE and (source := adapted_source(study, run)) is not None:
                from nnunet_iac.adaptation.preparation import prepare as prepare_target
                from nnunet_iac.adaptation.target import Target

                own_settings = untrained_settings(study, dataset)
                given = plans_name(study, run), own_settings, study.threads, print
                prepare_target(source, Target.of(dataset.dataset), *given)
                for note in require_fitting(study, run, source):
                    print(note)
        plans = (spec.plans for spec in study.backbones.values() if spec.adapt is None)
        for name in dict.fromkeys(plans):
            _preprocess(folder, name, dataset, study.threads, command)
        written = [path for run in own if (path := write_plans_of(study, run)) is not None]
        return {"plans": list(dict.fromkeys(path.stem for path in written))}


def _preprocess(folder: Path, plans: str, dataset: DataSet, threads: int, command: Command) -> None:
    number = str(dataset_number(folder.name))
    if not (folder / f"{plans}.json").is_file():
        _plan(folder, threads, command)
    content = read_plans(folder / f"{plans}.json")
    for name in dataset.configurations:
        data = folder / configuration_of(content, name)["data_identifier"]
        there = {path.stem for path in data.glob("*.pkl")}
        if not set(raw_cases(raw_folder(folder.name))) <= there:
            words = ["nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-c", name]
            command([*words, "-np", str(threads)])


def _plan(folder: Path, threads: int, command: Command) -> None:
    """Plan in a folder beside, since planning demands that splits are those of the raw data."""
    with TemporaryDirectory(prefix=".planning.", dir=folder.parent) as beside:
        planned = Path(beside) / folder.name
        planned.mkdir()
        for path in folder.glob(FINGERPRINT):
            shutil.copy(path, planned)
        words = ["nnUNetv2_plan_and_preprocess", "-d", str(dataset_number(folder.name)), "--no_pp"]
        # Planning divides by the number of augmentation workers, so it needs one.
        environment = {"nnUNet_preprocessed": beside, "nnUNet_n_proc_DA": "1"}
        command([*words, "-npfp", str(threads)], **environment)
        for path in sorted(planned.glob("*.json")):
            if not (folder / path.name).exists():
                path.rename(folder / path.name)


def train(study: Study, run: PlannedRun, command: Command = run_command) -> dict[str, Any]:
    """Train a run or continue its training, and return its provenance, scores and costs."""
    write_plans_of(study, run)
    require_own_results(study, run)
    splits, path = wanted_splits(run.dataset), preprocessed_folder(run.dataset.dataset)
    if not (path / SPLITS).is_file():
        write_json(path / SPLITS, splits)
    folder = fold_folder(study, run)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "study.lock"):
        _require_own_cases(folder, splits[run.fold]["train"], keeps=run.method != REFERENCE)
        if not is_finished(study, run):
            begun = any(folder.glob("checkpoint_*.pth"))
            number = str(dataset_number(folder.parent.parent.name))
            program = ["nnUNetv2_train"]
            if study.device == "cpu":
                module = "nnunet_iac.host.nnunet_train"
                program = [sys.executable, "-m", module, str(study.threads)]
            with _a_gpu(study) as own:
                command(
                    [
                        *(*program, number, run.configuration, str(run.fold)),
                        *("-tr", study.trainer_of(run), "-p", plans_name(study, run)),
                        *("-device", study.device, *(["--c"] if begun else [])),
                    ],
                    **processors(study),
                    **own,
                )
    known = provenance(study, run)
    if known["dice"].keys() != set(splits[run.fold]["val"]):
        raise RuntimeError(
            f"{folder} must be validated on the cases of the study's fold {run.fold}, and was on "
            "others: move it elsewhere, and it is trained again"
        )
    return {**known, "date": date.today().isoformat()}


def _require_own_cases(fold: Path, training: Sequence[str], keeps: bool) -> None:
    """Check that a training in a fold's folder, if there is one, has these training cases.

    A run that `keeps` a record has them there; those of another network are written beside it.
    """
    record, path = RunFolder.of_fold(fold), fold / OWN_CASES
    if not any(fold.glob("checkpoint_*.pth")):
        if not keeps:
            write_json(path, sorted(training))
        return
    if record.split_file.is_file():
        known = record.read_split().get("training")
    elif path.is_file():
        known = read_json(path)
    else:  # Begun by an earlier release.
        return
    if not isinstance(known, list) or {*known} != {*training}:
        raise RuntimeError(
            f"{fold} must have been trained on the training cases of the study's splits, and was "
            "on others: move it elsewhere, and it is trained again"
        )


def predictions_folder(study: Study, run: PlannedRun) -> Path:
    """Return where a run's predictions of the test cases go."""
    return study_folder(study) / "predictions" / run.name


def predict(study: Study, run: PlannedRun, command: Command = run_command) -> dict[str, Any]:
    """Predict the test cases with a run, unless that is done, and return Dice per case.

    Without mirroring, because some trainers mirror and others do not.
    """
    folder, output = fold_folder(study, run), predictions_folder(study, run)
    model, scored = folder.parent, output / SUMMARY
    raw = raw_folder(model.parent.name)
    if not scored.is_file() or scored.stat().st_mtime < (folder / FINAL).stat().st_mtime:
        shutil.rmtree(output, ignore_errors=True)
        number = str(dataset_number(model.parent.name))
        with _a_gpu(study) as own:
            command(
                [
                    *("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(output)),
                    *("-d", number, "-c", run.configuration, "-tr", study.trainer_of(run)),
                    *("-p", plans_name(study, run), "-f", str(run.fold)),
                    *("--disable_tta", "-npp", "1", "-nps", "1", "-device", study.device),
                ],
                **processors(study),
                **own,
            )
        files = ["-djfile", str(model / "dataset.json"), "-pfile", str(model / "plans.json")]
        truth = str(raw / "labelsTs")
        command(["nnUNetv2_evaluate_folder", truth, str(output), *files, "-np", "1"])
    return {"run": run.name, **scored_as("test_", read_case_scores(output))}


def report(study: Study, results: Sequence[Path], to: Path) -> None:
    """Gather the results of all runs, and write results.json, tables and page beside each other.

    Files in the folders `results` that are not of the study's runs are ignored.
    """
    gathered: dict[str, dict[str, Any]] = {}
    for path in [path for folder in results for path in sorted(folder.glob("[!.]*.json"))]:
        known = typed(dict[str, Any], read_json(path), str(path))
        gathered.setdefault(str(known.get("run")), {}).update(known)
    document = {
        "study": study.name,
        "device": study.device,
        "methods": list(study.methods),
        "adapted": [k for k, spec in study.backbones.items() if spec.adapt is not None],
        "halves": {k: spec.half_of for k, spec in study.backbones.items() if spec.half_of},
        "runs": [gathered[name] for name in study.runs if name in gathered],
    }
    write_study_report(document, to)


def processors(study: Study) -> dict[str, str]:
    """Return the variables that limit a run to its processors; those that are set win."""
    threads = f"{study.threads}"
    if study.device == "cpu":
        own = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": threads}
    else:
        own = {"nnUNet_n_proc_DA": threads, "nnUNet_def_n_proc": threads}
    return {key: os.environ.get(key, value) for key, value in own.items()}


@contextmanager
def _a_gpu(study: Study) -> Iterator[dict[str, str]]:
    """Yield the environment of a process that has a GPU of its own, if the study assigns them."""
    count = int(os.environ.get(GPUS, "0"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    assigned = "SLURM_JOB_ID" in os.environ and len(visible) == 1  # By SLURM, to this job.
    if study.device == "cpu" or count < 2 or assigned:
        yield {}
        return
    # Not where any user of the machine can make, and hold, a file of this name.
    folder = results_folder() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    for device in visible:
        lock = FileLock(folder / f".gpu-{platform.node()}-{device}-{os.getuid()}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            break
    else:
        raise RuntimeError(
            f"a training must have a GPU of its own; all of {', '.join(visible)} are taken: give "
            "--gpus the number that is free"
        )
    try:
        yield {"CUDA_VISIBLE_DEVICES": device}
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
