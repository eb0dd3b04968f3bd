"""The report of one or many runs: a page, and the same as Markdown, PNG, CSV and JSON."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report import explorer, overlays
from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.analysis.report.evaluation import Evaluation, GroupComparison, evaluate
from nnunet_iac.analysis.report.overlays import CaseOverlay, case_overlays
from nnunet_iac.analysis.report.page import (
    Section,
    environment,
    inline_svg,
    markdown_environment,
    write_csv,
    write_png,
)
from nnunet_iac.analysis.report.paper import write_paper
from nnunet_iac.analysis.report.run import Run, controls_beside, find_runs, labels, read_run
from nnunet_iac.analysis.report.sections import sections
from nnunet_iac.analysis.report.source_and_target import Adaptation, adaptations, numbers_of
from nnunet_iac.analysis.report.summary import alarms, cost, found, verdicts
from nnunet_iac.analysis.scores.comparison_tables import write_comparisons
from nnunet_iac.analysis.scores.comparisons import Comparisons
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.analysis.vocabulary import BASELINES
from nnunet_iac.drawing.cell_picture import cell_svg, draw_cell
from nnunet_iac.runs.atomic import read_json, replacing, write_json, write_text

PAGE, MARKDOWN, NUMBERS = "index.html", "report.md", "report.json"
CELL = "cell.png"
FIGURE_FOLDER, TABLE_FOLDER, PAPER_FOLDER = "figures", "tables", "paper"
FIRST_SCREEN = ("verdicts", "alarms", "found", "cost")
OF_RUN = ("stage", "search_epochs", "search_seconds", "seconds")
OWN = tuple(f"{name}/" for name in (FIGURE_FOLDER, TABLE_FOLDER, PAPER_FOLDER))


@dataclass(frozen=True)
class Report:
    """The content of the page and of its other formats."""

    title: str
    verdicts: tuple[str, ...]
    alarms: tuple[str, ...]
    found: str
    cost: str
    sections: tuple[Section, ...]
    runs: tuple[tuple[str, Run], ...]
    evaluation: Evaluation
    adapted: tuple[Adaptation, ...]
    overlays: tuple[CaseOverlay, ...]
    overlays_absent: str

    @property
    def retrofits(self) -> tuple[tuple[str, Run], ...]:
        """The runs whose cells are to be judged."""
        return tuple((name, run) for name, run in self.runs if not run.is_control)


def write_report(
    paths: Iterable[Path],
    folder: Path,
    *,
    paper: bool = False,
    margin: float = MARGIN,
    seed: int = 0,
) -> Path:
    """Write the report of runs and of controls beside them into a folder and return the page.

    `index.html` needs no network; the other files hold the same. What an earlier report left there
    and this one has not is removed.

    Raises:
        ValueError, FileNotFoundError: no run, or a damaged or incomplete record.
        RuntimeError: the folder cannot be written to.
    """
    earlier = _files_of(folder)
    runs, unread = read_runs(paths)
    report = make_report(runs, margin, seed, unread)
    tables = _write_tables(report, folder / TABLE_FOLDER, margin, seed)
    files = [*tables, *_write_figures(report, folder / FIGURE_FOLDER)]
    if paper:
        files += write_paper(runs, report.evaluation.comparisons, folder / PAPER_FOLDER)
    names = [file.relative_to(folder).as_posix() for file in files]
    content = {
        "report": report,
        "explorer": explorer.page_content(report.retrofits),
        "cell": _cell(report),
        "truth": overlays.TRUTH,
        "prediction": overlays.PREDICTION,
        "data_uri": overlays.data_uri,
        "captions": CAPTIONS,
    }
    templates, plain = environment(), markdown_environment()
    write_text(folder / MARKDOWN, plain.get_template("report.md.j2").render(content))
    write_json(folder / NUMBERS, {**_numbers(report), "files": names})
    write_text(folder / PAGE, templates.get_template("report.html.j2").render(content))
    for file in earlier - set(names):
        (folder / file).unlink(missing_ok=True)
    return folder / PAGE


def read_runs(paths: Iterable[Path]) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Return the runs at paths and the controls beside them, and which of these were not read."""
    # Not resolved: what a link leads to has other neighbours.
    absolute = (Path(os.path.abspath(path)) for path in find_runs(paths))
    runs = {folder.resolve(): read_run(folder) for folder in absolute}
    if all(run.is_control for run in runs.values()):  # Nothing else to judge.
        runs = {f: replace(run, judged=not run.trains_backbone) for f, run in runs.items()}
    unread: dict[str, None] = {}
    for run in list(runs.values()):
        if not run.is_control:
            controls, reasons = controls_beside(run)
            unread.update(dict.fromkeys(reasons))
            for control in controls:
                if control.trains_backbone or not run.judged:
                    runs.setdefault(control.fold_folder.resolve(), control)
    places = {method: place for place, method in enumerate(BASELINES, start=1)}
    ordered = sorted(runs.values(), key=lambda run: places.get(run.method, 0))  # Controls last.
    return tuple(ordered), tuple(unread)


def make_report(
    runs: Sequence[Run], margin: float = MARGIN, seed: int = 0, unread: Sequence[str] = ()
) -> Report:
    """Return the report of retrofits and controls, of which some may be unfinished.

    `unread` are sentences on what could not be read.
    """
    retrofits = [run for run in runs if not run.is_control]
    if not retrofits:
        raise ValueError(
            "a report needs a run with cells or other modules in the skip connections; all runs "
            "given continue the backbone: name a retrofit, such as "
            "nnUNetTrainerIACDiscrete__PLANS__2d/fold_0"
        )
    named = tuple(zip(labels(runs), runs, strict=True))
    evaluation = evaluate(runs, margin, seed)
    adapted = adaptations(evaluation, margin, seed)
    shown, absent = case_overlays(evaluation.comparisons)
    return Report(
        title=", ".join(dict.fromkeys(f"{run.dataset}, {run.configuration}" for run in retrofits)),
        verdicts=verdicts(evaluation),
        alarms=(*alarms(named), *evaluation.left_out, *unread),
        found=found(retrofits),
        cost=cost(evaluation.retrofits, retrofits),
        sections=sections(named, evaluation, adapted),
        runs=named,
        evaluation=evaluation,
        adapted=adapted,
        overlays=shown,
        overlays_absent=absent,
    )


def _cell(report: Report) -> dict[str, Any] | None:
    """Return the first found cell, drawn, and all of them as text."""
    found = [(name, run, run.genotype) for name, run in report.retrofits if run.genotype]
    if not found:
        return None
    name, run, genotype = found[0]
    return {
        "name": name,
        "svg": inline_svg(cell_svg(genotype, run.settings.cell.output_nodes), "found-cell"),
        "texts": [(name, str(genotype)) for name, _, genotype in found],
    }


def _write_tables(report: Report, folder: Path, margin: float, seed: int) -> list[Path]:
    tables = (table for section in report.sections for table in section.tables)
    paths = [write_csv(table, folder) for table in tables]
    compared = (*report.evaluation.comparisons, *report.evaluation.control_comparisons)
    if compared:
        made = Comparisons(tuple(one.paired for one in compared), margin, seed)
        paths += write_comparisons(folder, made)
    return paths


def _write_figures(report: Report, folder: Path) -> list[Path]:
    pictures = (picture for section in report.sections for picture in section.pictures)
    paths = [write_png(picture, folder) for picture in pictures]
    for run, genotype in [(run, run.genotype) for _, run in report.retrofits if run.genotype][:1]:
        paths.append(folder / CELL)
        draw_cell(genotype, paths[-1], run.settings.cell.output_nodes)
    for overlay in report.overlays:
        for side, png in overlay.pictures.items():
            paths.append(folder / f"{overlay.case}_{side}.png")
            with replacing(paths[-1]) as temporary:
                temporary.write_bytes(png)
    return paths


def _files_of(folder: Path) -> set[str]:
    """Return what an earlier report wrote into its folders."""
    path = folder / NUMBERS
    listed = read_json(path) if path.is_file() else None
    files = listed.get("files") if isinstance(listed, dict) else None
    foreign = [n for n in (PAGE, MARKDOWN, NUMBERS) if (folder / n).exists()]
    if foreign and not isinstance(files, list):
        raise ValueError(
            f"a report must go into a folder of its own; {folder} holds {foreign[0]} of "
            "something else: name another folder with -o"
        )
    return {f for f in files or () if isinstance(f, str) and f.startswith(OWN) and ".." not in f}


def _numbers(report: Report) -> dict[str, Any]:
    """Return the results of a report for other programs."""
    return {
        **{key: getattr(report, key) for key in ("title", *FIRST_SCREEN)},
        "runs": [
            {
                "name": name,
                **{key: run.cost.run[key] for key in ("method", "dataset", "plans", "fold")},
                **{key: getattr(run, key) for key in OF_RUN},
                "genotype": run.genotype and run.genotype.to_document(),
                "commit": run.cost.commit,
            }
            for name, run in report.runs
        ],
        "comparisons": [_compared(one, "cells") for one in report.evaluation.comparisons],
        "controls": [_compared(one, "control") for one in report.evaluation.control_comparisons],
        "source_and_target": [numbers_of(one) for one in report.adapted],
    }


def _compared(one: GroupComparison, side: str) -> dict[str, Any]:
    """Return the numbers of a comparison; `side` is what B is called."""
    c = one.paired
    return {
        side: one.group.name,
        "against": one.against.name,
        "patients": c.patients,
        "dice": c.mean_a,
        f"{side}_dice": c.mean_b,
        "difference": c.difference,
        "interval": c.interval and [c.interval.low, c.interval.high],
        "p": c.p,
        "p_holm": c.p_holm,
        "family": c.family,
        "false_positives": c.false_positives,
        "misses": c.misses,
        "not_inferior": c.not_inferior,
        "verdict": c.verdict,
        "equal_budget": one.against.equal_budget,
    }
