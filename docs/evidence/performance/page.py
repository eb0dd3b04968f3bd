"""Write docs/evidence/performance.md from the result files in this folder."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
NAMED = {
    "frozen": "Frozen backbone",
    "finetuned": "Finetuning: the cells edge by edge",
    "predicted": "Prediction of one patch: the cells edge by edge",
    "no_head": "The head of the lowest resolution",
}
"""Levers that the text of the page refers to, by how their names begin."""
WAITING = {
    "run_active_1": "Hippocampus plan",
    "run_active_2": "Hippocampus plan",
    "run_passive_1": "Hippocampus plan",
    "run": "Hippocampus plan",
    "run_narrow_active_2": "narrow network",
    "run_narrow": "narrow network",
}
"""Runs whose threads wait in different ways, and their networks."""


def results() -> dict[str, Any]:
    """Return every result file by its name."""
    return {path.stem: read_json(path) for path in sorted(HERE.glob("*.json"))}


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters["ms"] = lambda seconds: f"{seconds * 1e3:.{1 if seconds >= 1e-3 else 2}f}"
    for digits, name in enumerate(("one", "two", "three"), 1):
        environment.filters[name] = f"{{:.{digits}f}}".format
    found = results()
    growth = [found[name] for name in found if name.startswith("growth_")]
    levers = found["levers"]["levers"]
    named = {
        name: next(row for row in levers if row["lever"].startswith(text))
        for name, text in NAMED.items()
    }
    return environment.get_template("page.md.jinja").render(
        r=found,
        growth=[found["step"], *growth, found["step_narrow"], found["step_large"]],
        enough=sum(s["estimated_mb"] >= s["peak_mb"] for s in found["memory"]["steps"]),
        levers={part: list(rows) for part, rows in groupby(levers, itemgetter("part"))},
        waiting=[(title, found[name]) for name, title in WAITING.items()],
        **named,
    )


def main() -> None:
    """Write the page."""
    write_text(HERE.with_suffix(".md"), page())


if __name__ == "__main__":
    main()
