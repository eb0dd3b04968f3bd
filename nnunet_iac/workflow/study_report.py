"""A study's result file, its tables and its page."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import environment
from nnunet_iac.analysis.scores.method_table import MethodTable, cells, method_tables, verdict
from nnunet_iac.runs.atomic import write_json, write_text

RIVALS = {"random": "a random cell", "continued": "the reference trained on"}


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
    methods = {row.method for row in table.rows}
    return [
        f"{searched} gave {verdict(table, searched, rival, _with_length(table, searched, rival))}."
        for searched in ("iac-lth", "iac")
        for rival in RIVALS
        if {searched, rival} <= methods
    ]


def _with_length(table: MethodTable, searched: str, rival: str) -> str:
    """Return what a rival is and, where it learned for another number of epochs, for how many."""
    own, other = (f"{table.row(method).epochs:.0f}" for method in (searched, rival))
    said = RIVALS[rival]
    return said if own == other else f"{said} that learned for {other} epochs, not {own}"


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
