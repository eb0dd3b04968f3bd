"""Write docs/comparison.md from the result files in this folder."""

from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison as Comparison
from nnunet_iac.analysis.scores.comparison import compare_scores
from nnunet_iac.analysis.scores.statistics import holm
from nnunet_iac.analysis.scores.wording import interval_text, p_text, signed_text
from nnunet_iac.runs.atomic import read_json, replacing

HERE = Path(__file__).parent
TITLES = {"Dataset004_Hippocampus": "Hippocampus", "Dataset027_ACDC128": "ACDC, 128 x 128"}
NAMES = {
    "lth": "IAC-LTH",
    "iac": "IAC, full search",
    "random": "random cell",
    "identity": "all-identity cell",
    "conv": "convolution of equal parameters",
    "attention": "attention gates",
    "nested": "nested skips (U-Net++)",
    "residual": "residual attention",
    "continued": "U-Net trained on at 1e-3",
    "continued_fast": "U-Net trained on at 3e-3",
    "decoder": "decoder trained on at 1e-3",
    "decoder_fast": "decoder trained on at 3e-3",
}
"""What the page calls the methods of `runs.py`, in its order."""

SEARCHED = ("lth", "iac")


def scores(name: str, dice: dict[str, float | None]) -> CaseScores:
    """Return Dice per case as the comparisons take it."""
    return CaseScores(HERE, name, dict(dice), {case: {"mean": d} for case, d in dice.items()})


def method_scores(measured: dict[str, Any], name: str) -> CaseScores:
    """Return a method's Dice per case, the mean over its seeds."""
    seeds = [scores(name, run["dice"]) for run in measured["methods"][name]]
    return pooled(seeds, NAMES[name])


def compared(measured: dict[str, Any], a: CaseScores, b: CaseScores) -> Comparison:
    """Return B against A by patient."""
    return compare_scores(a, b, patient_pattern=measured["patient_pattern"] or ".*")


def rows(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per method: cost, Dice, and differences to the reference and to IAC-LTH."""
    reference = scores("frozen", measured["reference"]["dice"])
    of = {name: method_scores(measured, name) for name in NAMES}
    found = []
    for name in NAMES:
        runs = measured["methods"][name]
        against = compared(measured, reference, of[name])
        searched = None if name == "lth" else compared(measured, of[name], of["lth"])
        per_seed = [compared(measured, reference, scores(name, run["dice"])).mean_b for run in runs]
        found.append(
            {
                "name": NAMES[name],
                "parameters": share(runs, measured, "parameters"),
                "macs": share(runs, measured, "macs"),
                "seconds": median(run["seconds"] for run in runs),
                "dice": against.mean_b,
                "spread": stdev(per_seed),
                "against": against,
                "searched": searched,
            }
        )
    adjust(found)
    return found


def adjust(found: list[dict[str, Any]]) -> None:
    """Add Holm's p values, over all comparisons of a data set."""
    made = [(row, key) for row in found for key in ("against", "searched") if row[key] is not None]
    known = [(row, key) for row, key in made if row[key].p is not None]
    for (row, key), p in zip(known, holm([row[key].p for row, key in known]), strict=True):
        row[f"{key}_p"] = p


def share(runs: list[dict[str, Any]], measured: dict[str, Any], key: str) -> float:
    """Return what a method adds to the frozen network, as a share of it."""
    return fmean(run[key] for run in runs) / measured["reference"][key] - 1


def reference_row(measured: dict[str, Any]) -> dict[str, Any]:
    """Return mean and interval of the frozen network, and how many patients there are."""
    own = scores("frozen", measured["reference"]["dice"])
    same = compared(measured, own, own)
    return {"dice": same.mean_a, "patients": same.patients, "cases": same.cases}


def difference_text(row: dict[str, Any]) -> str:
    """Return difference and interval as text."""
    return f"{signed_text(row.difference)} {interval_text(row.interval)}"


def results() -> list[dict[str, Any]]:
    """Return every data set's result file with its table."""
    return [
        {
            **measured,
            "title": TITLES[measured["dataset"]],
            "rows": rows(measured),
            "frozen": reference_row(measured),
        }
        for measured in (read_json(HERE / f"{name}.json") for name in TITLES)
    ]


def against_random(measured: dict[str, Any], name: str) -> Comparison:
    """Return a searched method against the random cells."""
    return compared(measured, method_scores(measured, "random"), method_scores(measured, name))


def sentence(measured: dict[str, Any], name: str) -> str:
    """Return in words what a search adds over drawing the cell at random."""
    made = against_random(measured, name)
    interval = made.interval
    assert interval is not None
    text = f"{signed_text(made.difference)} {interval_text(interval)}"
    if interval.low > 0:
        verdict = "more than a random cell"
    elif interval.high < 0:
        verdict = "less than a random cell"
    else:
        verdict = "as much as a random cell, as far as these patients can tell"
    return f"{NAMES[name]} gave {verdict} ({text} Dice)"


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters["percent"] = lambda value: f"{100 * value:+.1f} %" if value else "0"
    environment.filters["dice"] = lambda value: f"{value:.3f}"
    environment.filters["million"] = lambda value: f"{value / 1e6:.2f} M"
    environment.filters["giga"] = lambda value: f"{value / 1e9:.2f} G"
    environment.filters["difference"] = difference_text
    environment.filters["p"] = p_text
    template = environment.get_template("page.md.jinja")
    return template.render(
        sets=results(),
        networks=read_json(HERE / "networks.json"),
        sentence=sentence,
        searched=SEARCHED,
    )


def main() -> None:
    """Write the page."""
    with replacing(HERE.parent / "comparison.md") as temporary:
        temporary.write_text(page())


if __name__ == "__main__":
    main()
