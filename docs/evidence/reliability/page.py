"""Write docs/evidence/reliability.md from the result files in this folder."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.statistics import CONFIDENCE
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
TEMPORARY = re.compile(r"\.writing\.([\w-]+\.\w+)")
REACHED = (
    "before the first checkpoint",
    "training",
    "validation of the backbone",
    "validation of the network",
    "after the end",
)
"""How far runs that were killed from outside had come, in turn."""


def place(moment: str) -> str:
    """Return what a run was doing at a moment, the random part of temporary names left out."""
    action, _, name = moment.partition(", then ")[0].partition(" ")
    if action in ("train_step", "validation_step"):
        return "a step of an epoch"
    if action == "predict_sliding_window_return_logits":
        return "predicting a case"
    if action == "os.link":
        return "putting a whole checkpoint in place"
    temporary = TEMPORARY.search(name)
    whole = temporary.group(1) if temporary else name
    kind = "checkpoint" if whole.startswith("checkpoint_") else "record"
    if temporary and action == "write":
        return f"writing a {kind}: half a file"
    if temporary:
        return f"putting a whole {kind} in place"
    return "what nnU-Net writes itself, folders, moves"


def kills() -> list[dict[str, Any]]:
    """Return per trainer where it was killed, with the kills and identical ends there.

    `places` has them by stage and place, and `reached` those from outside by stage.
    """
    found = []
    for path in sorted(HERE.glob("kills_*.json")):
        measured = read_json(path)
        places: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in measured["kills"]:
            places[row["stage"], place(row["moment"])].update(_count(row))
        reached: dict[str, Counter[str]] = {stage: Counter() for stage in REACHED}
        for row in measured["outside"]:
            reached[row["stage"]].update(_count(row))
        found.append({**measured, "places": places, "reached": reached})
    return found


def _count(row: dict[str, Any]) -> dict[str, int]:
    return {"tried": 1, "identical": int(not row["differs"])}


def tests() -> dict[str, list[tuple[str, str]]]:
    """Return per test file the names and outcomes of its tests."""
    found = defaultdict(list)
    for node, outcome in read_json(HERE / "tests.json")["outcomes"].items():
        file, _, name = node.partition("::")
        found[Path(file).stem.removeprefix("test_")].append((name, outcome))
    return found


def inputs() -> dict[str, Counter[str]]:
    """Return per kind of input how many were tried, and refused as they must be."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, outcome in tests()["bad_input"]:
        if area := re.search(r"\[([^:]+): ", name):
            found[area.group(1)].update(tried=1, refused=int(outcome == "passed"))
    return found


def faults() -> dict[str, Counter[str]]:
    """Return per fault of the tests, in words, how often it was tried and survived."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for file in ("damage", "checkpoint", "fold", "distributed", "host_features", "batches"):
        for name, outcome in tests()[file]:
            sentence = name.partition("[")[0].removeprefix("test_").replace("_", " ")
            found[sentence].update(
                tried=1,
                survived=int(outcome == "passed"),
                skipped=int(outcome == "skipped"),
            )
    return found


def between(count: int, total: int) -> str:
    """Return the exact interval of a share."""
    found = binomtest(count, total).proportion_ci(CONFIDENCE)
    return f"{100 * found.low:.1f} % to {100 * found.high:.1f} %"


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    killed, wrong = kills(), inputs()
    places = [
        count
        for measured in killed
        for count in (*measured["places"].values(), *measured["reached"].values())
    ]
    totals = {
        "killed": sum(count["tried"] for count in places),
        "identical": sum(count["identical"] for count in places),
        "inputs": sum(count["tried"] for count in wrong.values()),
        "refused": sum(count["refused"] for count in wrong.values()),
    }
    return environment.get_template("page.md.jinja").render(
        kills=killed,
        inputs=wrong,
        faults=faults(),
        totals=totals,
        between=between,
        run=read_json(HERE / "tests.json"),
    )


def main() -> None:
    """Write the page."""
    write_text(HERE.with_suffix(".md"), page())


if __name__ == "__main__":
    main()
