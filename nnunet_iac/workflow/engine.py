"""Runs studies through Snakemake, on this machine or as a profile defines."""

import copy
import importlib.resources
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from nnunet_iac.host.devices import require_device
from nnunet_iac.host.folders import command_environment
from nnunet_iac.runs.atomic import content_of, read_json, write_text
from nnunet_iac.workflow.steps import GPUS
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_checks import require_ready
from nnunet_iac.workflow.study_file import absolute_genotype, read_document, read_study
from nnunet_iac.workflow.study_plans import is_finished, study_folder

AS_RUN, SNAKEFILE, STUDY_PAGE = "as-run.yaml", "Snakefile", "report.html"
PROFILES = ("--profile", "--workflow-profile")


def run_study(
    path: Path, folder: Path | None, cores: int | None, gpus: int | None, options: Sequence[str]
) -> Path:
    """Run all missing parts of the study in a file with Snakemake's options; return its page.

    Finished runs are kept, and interrupted trainings are continued. `cores` and `gpus`, one for
    each training, are for all jobs together; None for all there are, or the profile's. Without a
    folder the copy of a study file stands for the folder it is in.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: the study cannot be run, or a job failed.
    """
    study = read_study(path)
    profiled = any(option.partition("=")[0] in PROFILES for option in options)
    if profiled:
        _require_named_device(path)
    require_ready(study)
    beside = path.parent if path.name == AS_RUN else None
    own = study_folder(study, beside if folder is None else folder)
    _lay_out(own, path, study)
    _remove_outdated(own, study)
    command = [sys.executable, "-m", "snakemake", "--directory", str(own)]
    command += ["--snakefile", str(own / SNAKEFILE), "--keep-going", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "input", "params", "--nolock"]
    if cores is not None or not profiled:
        command += ["--cores", "all" if cores is None else str(cores)]
    environment = {**os.environ, **command_environment()}
    if study.device != "cpu" and (gpus is not None or not profiled):
        count = _present_gpus(study.device) if gpus is None else gpus
        command += ["--resources", f"gpu={count}"]
        environment[GPUS] = str(count)
    try:
        status = subprocess.run([*command, *options], env=environment).returncode
    except KeyboardInterrupt:
        done = sum((own / "runs" / f"{name}.json").is_file() for name in study.runs)
        raise KeyboardInterrupt(
            f"{done} of {len(study.runs)} runs are done; run the same command again, which resumes"
        ) from None
    if status != 0:
        raise RuntimeError(
            "all jobs of the study must succeed, and some did not; their logs, named above, are "
            f"in {own / 'logs'}: fix the errors there and run the same command again, which resumes"
        )
    return own / STUDY_PAGE


def _lay_out(own: Path, path: Path, study: Study) -> None:
    """Copy rules and study, with its splits, into the study's folder, where every job reads them.

    Cells and models that it names stay where they are; all jobs must be able to read them.

    Raises:
        ValueError: the folder holds another study.
    """
    known = read_document(own / AS_RUN) if (own / AS_RUN).is_file() else None
    with content_of(own / AS_RUN):
        before = known["name"] if known else study.name
    if before != study.name:
        raise ValueError(
            f"{own} holds the study {before!r}; {path} is {study.name!r}: give another "
            "folder with -o"
        )
    document = copy.deepcopy(read_document(path))
    document["device"] = study.device
    for given, dataset in zip(document["datasets"], study.datasets, strict=True):
        if (splits := dataset.splits) is not None:
            given["splits"] = read_json(splits) if isinstance(splits, Path) else splits
    for method in document["methods"].values():
        values = (method or {}).get("settings", {})
        if isinstance(values.get("genotype"), str):
            values["genotype"] = absolute_genotype(path.parent, values["genotype"])
    for name, backbone in (document.get("backbones") or {}).items():
        model = os.path.expandvars((backbone or {}).get("adapt", "/"))
        if not Path(model).is_absolute():
            backbone["adapt"] = study.backbones[name].adapt
    python = os.environ.get("NNUNET_IAC_PYTHON", sys.executable)
    rules = importlib.resources.files("nnunet_iac") / "workflow" / SNAKEFILE
    content = yaml.safe_dump({"python": python, "study": document}, sort_keys=False)
    for name, text in ((AS_RUN, content), (SNAKEFILE, rules.read_text())):
        if not (own / name).is_file() or (own / name).read_text() != text:
            write_text(own / name, text)


def _remove_outdated(own: Path, study: Study) -> None:
    """Remove the results of runs whose training is gone, and a page without all of its runs.

    Snakemake does not check the inputs of a page that is there.
    """
    results = {run: own / "runs" / f"{run.name}.json" for run in study.runs.values()}
    for run, path in results.items():
        if not is_finished(study, run):
            path.unlink(missing_ok=True)
    if not all(path.is_file() for path in results.values()):
        (own / STUDY_PAGE).unlink(missing_ok=True)


def _require_named_device(path: Path) -> None:
    """Check that a study whose jobs may run on other machines names its device."""
    if "device" not in read_document(path):
        raise ValueError(
            "a study that runs through a profile must name its device, since its jobs may run on "
            f"other machines; {path} names none: add device: cuda, or device: cpu"
        )


def _present_gpus(device: str) -> int:
    import torch

    require_device(device)
    return torch.cuda.device_count() if device == "cuda" else 1
