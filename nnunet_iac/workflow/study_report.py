"""The provenance, scores and costs of a study's runs, its result file, tables and page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.analysis.report.page import environment, inline_figure
from nnunet_iac.analysis.report.plane import PlanePoint, plane
from nnunet_iac.analysis.report.run import Run, read_run
from nnunet_iac.analysis.scores.case_scores import CaseScores, read_case_scores
from nnunet_iac.analysis.scores.convergence import convergences
from nnunet_iac.analysis.scores.forgetting import scores_of
from nnunet_iac.analysis.scores.method_table import MethodTable, cells, method_tables
from nnunet_iac.analysis.scores.wording import csv_text, finding, score_text
from nnunet_iac.analysis.vocabulary import REFERENCE, STUDY_BASELINES
from nnunet_iac.host.folders import results_folder
from nnunet_iac.runs.atomic import content_of, write_json, write_text
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.controls import CellSource
from nnunet_iac.workflow.study import PlannedRun, Study
from nnunet_iac.workflow.study_plans import fold_folder, plans_name

TIMES = ("epochs", "search_epochs", "seconds", "search_seconds")


def provenance(study: Study, run: PlannedRun) -> dict[str, Any]:
    """Return how a finished run was made, what it scored and what it cost.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: its record or scores are not there or damaged,
            or its backbone did not stay as it was.
    """
    folder = fold_folder(study, run)
    names = ("configuration", "fold", "backbone", "method", "augmentation", "seed")
    known = {
        "run": run.name,
        "dataset": folder.parent.parent.name,
        **{name: getattr(run, name) for name in names},
        "trainer": study.trainer_of(run),
        "plans": plans_name(study, run),
        "patient_pattern": run.dataset.patients,
        **scored_as("", read_case_scores(folder)),
    }
    source = RunFolder.of_fold(folder).read_source()
    if source is not None and source.forgetting is not None:
        sides = {side.label: side for side in scores_of(source)}
        known["source"] = {
            "dataset": source.dataset,
            **{label: side.dice for label, side in sides.items()},
            "errors": {label: errors_of(side) for label, side in sides.items()},
        }
    if run.method == REFERENCE:
        return {**known, **_backbone(folder / FINAL)}
    return {**known, **_record(read_run(folder))}


def scored_as(prefix: str, scores: CaseScores | None) -> dict[str, Any]:
    """Return what a result file has of scores: Dice and `errors_of` them."""
    if scores is None:
        return {f"{prefix}dice": None}
    return {f"{prefix}dice": scores.dice, f"{prefix}errors": errors_of(scores)}


def errors_of(scores: CaseScores) -> dict[str, list[float]] | None:
    """Return false positives and misses of the cases that have any; None if they are unknown."""
    if scores.errors is None:
        return None
    return {case: list(counts) for case, counts in scores.errors.items() if any(counts)}


def _backbone(path: Path) -> dict[str, Any]:
    """Return nnU-Net's pseudo Dice of every epoch, and the SHA-256 over the tensors, if known."""
    if not path.is_file():
        return {"curve": [], "backbone_hash": None}
    with content_of(path):
        checkpoint = read_checkpoint(path)
        curve = [round(float(dice), 4) for dice in checkpoint["logging"]["mean_fg_dice"]]
        return {"curve": curve, "backbone_hash": tensors_hash(checkpoint["network_weights"])}


def _record(run: Run) -> dict[str, Any]:
    kept = run.backbone.trained is None and run.backbone.after is not None
    if kept and not run.backbone.unchanged:
        raise RuntimeError(
            f"a run's backbone must stay as it was; that of {run.fold_folder} did not: run it again"
        )
    networks = {name: run.cost.networks[name] for name in ("backbone", "final")}
    return {
        "settings": _portable(run.settings.to_mapping()),
        **{name: getattr(run, name) for name in TIMES},
        "parameters": {name: cost.parameters for name, cost in networks.items()},
        "macs": {name: cost.macs for name, cost in networks.items()},
        "backbone_hash": run.backbone.before,
        "backbone_unchanged": run.backbone.unchanged,
        "leakage": run.backbone.leakage,
        "genotype": None if run.genotype is None else run.genotype.to_document(),
        "events": [f"{e.epoch} {e.edge} {e.operation} {e.rule}" for e in run.events],
        **scored_as("frozen_", run.reference),
        **{name: getattr(run.cost, name) for name in ("hardware", "versions", "commit")},
    }


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that name cell and backbone by their places in nnUNet_results, or names."""
    found, source = {**settings}, CellSource.of(settings.get("genotype") or "identity")
    if source.path is not None:
        found["genotype"] = source.moved(_place(source.path))
    if settings["backbone_checkpoint"] is not None:
        found["backbone_checkpoint"] = _place(settings["backbone_checkpoint"])
    return found


def _place(file: str) -> str:
    path, root = Path(file), results_folder().resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def write_study_report(document: Mapping[str, Any], page: Path) -> None:
    """Write a study's HTML page, and results.json, the document, and tables.csv beside it."""
    tables = method_tables(document)
    write_json(page.with_name("results.json"), document)
    write_text(page.with_name("tables.csv"), _csv(tables))
    shown = [
        (table, cells(table), _first_words(table), _plane(table, f"plane-{number}"))
        for number, table in enumerate(tables)
    ]
    template = environment().get_template("study.html.j2")
    forgets = any("source" in run for run in document["runs"])
    numbers = {"runs": len(document["runs"]), "forgets": forgets, "caption": CAPTIONS["plane"]}
    converged = convergences(document)
    leaks = dict.fromkeys(
        f"{run['run']}: the backbone {run['leakage']}."
        for run in document["runs"]
        if run.get("leakage")
    )
    named = {"study": document["study"], "converged": converged, "leaks": list(leaks)}
    text = template.render(tables=shown, **named, **numbers)
    write_text(page, text)


def _first_words(table: MethodTable) -> list[str]:
    """Return what must be read before the numbers."""
    return [
        f"{row.method}: Dice {score_text(row.dice)}, "
        f"{finding(row.against[baseline], _with_length(table, row.method, baseline))}."
        for row in table.rows
        for baseline in STUDY_BASELINES
        if row.search_epochs and baseline in row.against
    ]


def _plane(table: MethodTable, name: str) -> Markup | None:
    """Return the figure of gain and forgetting, if the methods adapt a model."""
    points = [
        PlanePoint(row.method, row.against[REFERENCE], row.forgetting)
        for row in table.rows
        if row.forgetting is not None
    ]
    if not points:
        return None
    title = f"Gain on the {table.scores} of {table.place['dataset']}, and forgetting on the source"
    return inline_figure(plane(points), name, title)


def _with_length(table: MethodTable, searched: str, baseline: str) -> str:
    """Return what a baseline is and, where it was trained on other batches, on how many."""
    own, other = (f"{table.row(method).batches:.0f}" for method in (searched, baseline))
    name = STUDY_BASELINES[baseline]
    return name if own == other else f"{name} trained on {other} batches instead of {own}"


def _csv(tables: list[MethodTable]) -> str:
    rows = [
        {**table.place, "scores": table.scores, **dict(zip(head, row, strict=True))}
        for table in tables
        for head, *rows in [cells(table)]
        for row in rows
    ]
    columns = dict.fromkeys(column for row in rows for column in row)
    lines = [[row.get(column) for column in columns] for row in rows]
    return csv_text([list(columns), *lines]) if rows else ""
