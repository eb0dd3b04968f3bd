"""A study's result file, its tables and its page."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import environment
from nnunet_iac.analysis.scores.method_table import MethodTable, cells, method_tables
from nnunet_iac.analysis.scores.wording import finding, score_text
from nnunet_iac.analysis.vocabulary import STUDY_BASELINES
from nnunet_iac.runs.atomic import write_json, write_text

SEARCHES = ("iac-lth", "iac")


def write_study_report(document: Mapping[str, Any], page: Path) -> None:
    """Write `page`, and results.json and tables.csv beside it.

    Args:
        document: as `study_results.document`.
        page: an HTML file.
    """
    tables = method_tables(document)
    write_json(page.with_name("results.json"), document)
    write_text(page.with_name("tables.csv"), _csv(tables))
    shown = [(table, cells(table), _first_words(table)) for table in tables]
    template = environment().get_template("study.html.j2")
    text = template.render(study=document["study"], runs=len(document["runs"]), tables=shown)
    write_text(page, text)


def _first_words(table: MethodTable) -> list[str]:
    """Return what must be read before the numbers."""
    return [
        f"{row.method}: Dice {score_text(row.dice)}, "
        f"{finding(row.against[baseline], _with_length(table, row.method, baseline))}."
        for row in table.rows
        for baseline in STUDY_BASELINES
        if row.method in SEARCHES and baseline in row.against
    ]


def _with_length(table: MethodTable, searched: str, baseline: str) -> str:
    """Return what a baseline is and, where it was trained for other epochs, for how many."""
    own, other = (f"{table.row(method).epochs:.0f}" for method in (searched, baseline))
    name = STUDY_BASELINES[baseline]
    return name if own == other else f"{name} trained for {other} epochs instead of {own}"


def _csv(tables: list[MethodTable]) -> str:
    rows = [
        {**table.place, "scores": table.scores, **dict(zip(head, row, strict=True))}
        for table in tables
        for head, *rows in [cells(table)]
        for row in rows
    ]
    columns = dict.fromkeys(column for row in rows for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
