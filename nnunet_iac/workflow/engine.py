"""Studies as Snakemake runs them: here, or wherever a profile says."""

import copy
import importlib.resources
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from nnunet_iac.host.folders import results_folder
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.workflow.steps import GPUS
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_checks import require_ready
from nnunet_iac.workflow.study_file import read_document, read_study, reckoned_from
from nnunet_iac.workflow.study_plans import fold_folder

AS_RUN, SNAKEFILE, PAGE = "as-run.yaml", "Snakefile", "report.html"

PROFILES = ("--profile", "--workflow-profile")


def study_folder(study: Study, folder: Path | None) -> Path:
    """Return where a study's results go: DIR, or its place in nnUNet_results."""
    return (results_folder() / "studies" / study.name if folder is None else folder).resolve()


def run_study(
    path: Path,
    folder: Path | None,
    cores: int | None,
    gpus: int | None,
    options: Sequence[str],
) -> Path:
    """Run all that a study lacks, and return its page.

    What is finished is not run again, and trainings that were interrupted go on.

    Args:
        path: of the study file.
        folder: see `study_folder`.
        cores: for all jobs together; None for all there are, or the profile's.
        gpus: likewise; one for each training.
        options: of Snakemake, such as --profile DIR.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: the study cannot be run, or a job failed.
    """
    study = read_study(path)
    require_ready(study)
    own = study_folder(study, folder)
    _require_same_study(own, path, study)
    _lay_out(own, path, study)
    _forget(own, study)
    command = [sys.executable, "-m", "snakemake", "--directory", str(own)]
    command += ["--snakefile", str(own / SNAKEFILE), "--keep-going", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "input", "params", "--nolock"]
    profiled = any(option.partition("=")[0] in PROFILES for option in options)
    if cores is not None or not profiled:
        command += ["--cores", "all" if cores is None else str(cores)]
    environment = dict(os.environ)
    if study.device == "cuda" and (gpus is not None or not profiled):
        count = _present_gpus() if gpus is None else gpus
        command += ["--resources", f"gpu={count}"]
        environment[GPUS] = str(count)
    done = subprocess.run([*command, *options], env=environment)
    if done.returncode != 0:
        raise RuntimeError(
            "all jobs of the study must succeed, and some did not; their logs, named above, are "
            f"in {own / 'logs'}: mend what they say and run the same command again, which goes on"
        )
    return own / PAGE


def plan_lines(study: Study, hours: Mapping[str, float | str]) -> list[str]:
    """Return what a study would train, a line per run, and the hours of all.

    Args:
        study: checked.
        hours: of each run, or why they are not known; see `estimate.hours_of`.
    """
    lines = []
    for run in study.runs.values():
        known = hours[run.name]
        text = f"{known:8.2f} h" if isinstance(known, float) else f"       ?  ({known})"
        lines.append(f"{text}  {study.trainer_of(run)}  {run.name}")
    total = sum(known for known in hours.values() if isinstance(known, float))
    unknown = sum(not isinstance(known, float) for known in hours.values())
    rest = f"; {unknown} trainings are not reckoned" if unknown else ""
    lines.append(
        f"{total:8.2f} h  {len(study.runs)} trainings, one after the other{rest}; steps only: "
        "loading, augmentation and validation come on top"
    )
    return lines


def _require_same_study(own: Path, path: Path, study: Study) -> None:
    """Check that a folder holds no other study.

    Raises:
        ValueError: it does.
    """
    if not (own / AS_RUN).is_file():
        return
    before = yaml.safe_load((own / AS_RUN).read_text())["study"]["name"]
    if before != study.name:
        raise ValueError(
            f"{own} holds the study {before!r}; {path} is {study.name!r}: take another"
        )


def _lay_out(own: Path, path: Path, study: Study) -> None:
    """Put rules and study, with its splits, into the study's folder: what jobs need anywhere.

    Cells that it names stay where they are, which all jobs must reach.
    """
    document = copy.deepcopy(read_document(path))
    for given, dataset in zip(document["datasets"], study.datasets, strict=True):
        if dataset.splits is not None:
            given["splits"] = (
                dataset.splits if isinstance(dataset.splits, list) else read_json(dataset.splits)
            )
    for method in document["methods"].values():
        values = (method or {}).get("settings", {})
        if isinstance(values.get("genotype"), str):
            values["genotype"] = reckoned_from(path.parent, values["genotype"])
    python = os.environ.get("NNUNET_IAC_PYTHON", sys.executable)
    text = yaml.safe_dump({"python": python, "study": document}, sort_keys=False)
    _copy(text, own / AS_RUN)
    rules = importlib.resources.files("nnunet_iac") / "workflow" / SNAKEFILE
    _copy(rules.read_text(), own / SNAKEFILE)


def _copy(text: str, to: Path) -> None:
    """Write a file unless it says that already."""
    if not to.is_file() or to.read_text() != text:
        write_text(to, text)


def _forget(own: Path, study: Study) -> None:
    """Remove what was told of trainings that are gone, and a page without all of its runs.

    Snakemake would not look for them behind a page that is there.
    """
    told = {run: own / "runs" / f"{run.name}.json" for run in study.runs.values()}
    for run, path in told.items():
        if not (fold_folder(study, run) / "validation" / "summary.json").is_file():
            path.unlink(missing_ok=True)
    if not all(path.is_file() for path in told.values()):
        (own / PAGE).unlink(missing_ok=True)


def _present_gpus() -> int:
    import torch

    if not (count := torch.cuda.device_count()):
        raise RuntimeError(
            "a study with device: cuda needs a GPU, and torch finds none: run nnunet-iac doctor, "
            "or set device: cpu"
        )
    return count
