"""Write docs/evidence/performance.md from the result files in this folder."""

from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, replacing

HERE = Path(__file__).parent


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
    waiting = [
        {
            "policy": policy,
            "threads": threads,
            **{kind: found[f"{kind}_{policy}_{threads}"] for kind in ("step", "inference")},
        }
        for policy, threads in product(("active", "passive"), (1, 2))
        if f"inference_{policy}_{threads}" in found
    ]
    levers = found["levers"]["levers"]
    (frozen,) = [row for row in levers if row["lever"].startswith("Frozen backbone")]
    return environment.get_template("page.md.jinja").render(
        r=found,
        growth=[found["step"], *growth, found["step_narrow"], found["step_large"]],
        levers={part: list(rows) for part, rows in groupby(levers, itemgetter("part"))},
        frozen=frozen,
        waiting=waiting,
    )


def main() -> None:
    """Write the page."""
    with replacing(HERE.parent / "performance.md") as temporary:
        temporary.write_text(page())


if __name__ == "__main__":
    main()
