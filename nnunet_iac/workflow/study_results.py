"""The provenance, scores and costs of a study's runs, as plain values for JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.run import Run, read_run
from nnunet_iac.analysis.scores.case_scores import read_case_scores
from nnunet_iac.host.folders import results_folder
from nnunet_iac.search.controls import CellSource
from nnunet_iac.workflow.study import REFERENCE, PlannedRun, Study
from nnunet_iac.workflow.study_plans import fold_folder, plans_name


def provenance(study: Study, run: PlannedRun) -> dict[str, Any]:
    """Return how a finished run was made, what it scored and what it cost.

    Raises:
        FileNotFoundError, ValueError: its record or scores are not there, or damaged.
        RuntimeError: its backbone did not stay as it was.
    """
    folder = fold_folder(study, run)
    known = {
        "run": run.name,
        "dataset": folder.parent.parent.name,
        "configuration": run.configuration,
        "fold": run.fold,
        "backbone": run.backbone,
        "method": run.method,
        "augmentation": run.augmentation,
        "seed": run.seed,
        "trainer": study.trainer_of(run),
        "plans": plans_name(study, run),
        "patient_pattern": run.dataset.patients,
        "dice": read_case_scores(folder).dice,
    }
    return known if run.method == REFERENCE else {**known, **_record(read_run(folder))}


def _record(run: Run) -> dict[str, Any]:
    if run.backbone.after is not None and not run.backbone.unchanged:
        raise RuntimeError(
            f"a run's backbone must stay as it was; that of {run.fold_folder} did not: run it again"
        )
    final, backbone = run.cost.networks["final"], run.cost.networks["backbone"]
    return {
        "settings": _portable(run.settings.to_mapping()),
        "epochs": run.epochs,
        "search_epochs": run.search_epochs,
        "seconds": run.seconds,
        "search_seconds": run.search_seconds,
        "epoch_seconds": [round(float(s), 3) for s in run.trajectory.seconds],
        "parameters": {"backbone": backbone.parameters, "final": final.parameters},
        "macs": {"backbone": backbone.macs, "final": final.macs},
        "backbone_hash": run.backbone.before,
        "backbone_unchanged": run.backbone.unchanged,
        "leakage": run.backbone.leakage,
        "genotype": None if run.genotype is None else run.genotype.to_document(),
        "events": [f"{e.epoch} {e.source}->{e.target} {e.operation} {e.rule}" for e in run.events],
        "frozen_dice": None if run.reference is None else run.reference.dice,
        "hardware": run.cost.hardware,
        "versions": run.cost.versions,
        "commit": run.cost.commit,
    }


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that name a cell by its place in nnUNet_results, or by its file alone."""
    source = CellSource.of(settings.get("genotype") or "identity")
    if source.path is None:
        return settings
    path, root = Path(source.path), results_folder().resolve()
    place = path.relative_to(root) if path.is_relative_to(root) else path.name
    return {**settings, "genotype": source.moved(str(place))}


def document(study: Study, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result file of a study."""
    return {
        "study": study.name,
        "device": study.device,
        "methods": list(study.methods),
        "runs": list(runs),
    }
