"""Write docs/evidence/width.md and its figures from the result files in this folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.wording import enumerated
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, plain_axes, write_figure
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.width.consensus import consensus
from nnunet_iac.width.selection import Rule
from nnunet_iac.workflow.pareto import ParetoPoint, draw_pareto

HERE = Path(__file__).parent
BLUE, ORANGE = "#0072b2", "#d55e00"

WAYS_TO_PICK: dict[str, tuple[Rule, int, bool]] = {
    "curve, one seed (published)": ("curve", 1, False),
    "slope, one seed (published)": ("slope", 1, False),
    "curve, geometric mean of 8 seeds": ("curve", 8, True),
    "slope, vote of 8 seeds": ("slope", 8, False),
    "**curve, vote of 8 seeds (default rule and seeds, K = 8)**": ("curve", 8, False),
    "dispersion, 16 seeds (experimental)": ("dispersion", 16, False),
}
"""Rule, seeds of one repetition, and whether all seeds together decide."""
CLOSE = 0.005
"""Dice by which a narrower network may be worse than the best."""

DEFAULT = next(number for number, name in enumerate(WAYS_TO_PICK) if "(default" in name)


def results(pattern: str) -> list[dict[str, Any]]:
    """Return the result files of a kind."""
    return [read_json(path) for path in sorted(HERE.glob(pattern))]


def picks(measured: dict[str, Any], rule: Rule, seeds: int, together: bool) -> list[int | None]:
    """Return what each repetition picks, every one with seeds of its own; None for a refusal."""
    scores = np.array(measured["scores"])
    found: list[int | None] = []
    for start in range(0, len(scores) - seeds + 1, seeds):
        block = scores[start : start + seeds]
        try:
            choice = consensus(rule, measured["caps"], measured["parameters"], block)
        except ValueError:
            found.append(None)
        else:
            found.append(choice.together.pick if together else choice.pick)
    return found


def stability(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return per method how often which cap was picked."""
    rows = []
    for name, method in WAYS_TO_PICK.items():
        counts = Counter(picks(measured, *method))
        total = counts.total()
        cap, most = counts.most_common(1)[0]
        rows.append(
            {"name": name, "counts": counts, "total": total, "cap": cap, "share": most / total}
        )
    return rows


def spread(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of ln S over the seeds, and the costs, of every cap."""
    logarithms = np.log(np.array(measured["scores"]))
    columns = zip(
        *(measured["caps"], measured["parameters"], measured["macs"]),
        *(logarithms.mean(axis=0), logarithms.std(axis=0, ddof=1)),
        strict=True,
    )
    keys = ("cap", "parameters", "macs", "mean", "spread")
    return [dict(zip(keys, column, strict=True)) for column in columns]


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    scores, dice, cells = (results(f"{name}_*.json") for name in ("scores", "dice", "cells"))
    return environment.get_template("page.md.jinja").render(
        benchmark=results("benchmark.json"),
        close=CLOSE,
        scores=[{**each, "spread": spread(each), "stability": stability(each)} for each in scores],
        dice=dice,
        picked=[cost_of_the_pick(each, measured) for measured in dice for each in scores],
        cells=[{**each, "points": beside_wider(each, dice)} for each in cells],
        searched=[searched_cells(each) for each in cells],
    )


def searched_cells(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what a searched cell and its controls scored at every width."""
    dice = {(point["cap"], point["method"]): point["dice"] for point in measured["points"]}
    caps = sorted({cap for cap, _ in dice})
    seeds = len(measured.get("seeds", [0]))
    return {"dataset": measured["dataset"], "seeds": seeds, "caps": caps, "dice": dice}


def cost_of_the_pick(scored: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any] | None:
    """Return the best width, the smallest that is hardly worse, and what rules usually pick.

    `picks` has the published rules and the default, by the width; None for another data set's
    scores.
    """
    if scored["dataset"] != trained["dataset"]:
        return None
    points, rows = trained["points"], stability(scored)
    names: dict[int, list[str]] = {}
    for row in (rows[0], rows[1], rows[DEFAULT]):
        names.setdefault(row["cap"], []).append(f"`{row['name'].strip('*')}`")
    best = max(points, key=lambda point: point["dice"])
    close = [point for point in points if point["dice"] >= best["dice"] - CLOSE]
    return {
        "dataset": trained["dataset"],
        "best": best,
        "smallest": min(close, key=lambda point: point["cap"]),
        "widest": max(points, key=lambda point: point["cap"]),
        "picks": [
            {"names": enumerated(names[point["cap"]]), "count": len(names[point["cap"]]), **point}
            for point in points
            if point["cap"] in names
        ],
    }


def beside_wider(cells: dict[str, Any], dice: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points of cells, each with the Dice of a plain network of as many MACs.

    That is interpolated over the logarithm of the MACs; None beyond the widths that were trained.
    """
    plain = [p for each in dice if each["dataset"] == cells["dataset"] for p in each["points"]]
    plain.sort(key=lambda point: point["macs"])
    known = [np.log([point["macs"] for point in plain]), [point["dice"] for point in plain]]
    found = []
    for point in cells["points"]:
        wider = np.interp(np.log(point["macs"]), *known, left=np.nan, right=np.nan)
        found.append({**point, "wider": None if np.isnan(wider) else float(wider)})
    return found


def stability_figure(scores: Sequence[dict[str, Any]]) -> Figure:
    """Return a panel per data set: the share of the repetitions that pick each cap, by method."""
    figure = Figure(
        figsize=(4.6, 0.4 + 3 * len(scores)), dpi=200, facecolor=PAPER, layout="constrained"
    )
    for axes, measured in zip(
        figure.subplots(len(scores), 1, squeeze=False).flat, scores, strict=True
    ):
        caps = measured["caps"][::-1]
        rows = stability(measured)
        for y, row in enumerate(rows):
            for x, cap in enumerate(caps):
                if share := row["counts"][cap] / row["total"]:
                    colour = ORANGE if cap == row["cap"] else BLUE
                    axes.scatter(x, y, s=190 * share, color=colour, lw=0)
                    if cap == row["cap"]:
                        text, place = f"{share:.0%}", (x, y)
                        style = {"ha": "center", "va": "bottom", "color": INK, "size": 8}
                        axes.annotate(text, place, (0, 8), textcoords="offset points", **style)
        names = [row["name"].strip("*").replace(" (", "\n(") for row in rows]
        plain_axes(axes, 8)
        axes.set_title(f"{measured['dataset']}: caps picked", loc="left", color=MUTED, size=9)
        axes.set_xticks(range(len(caps)), map(str, caps))
        axes.set_yticks(range(len(rows)), names, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-0.5, len(caps) - 0.5))
        axes.tick_params(axis="y", length=0)
    return figure


def dice_figure(dice: Sequence[dict[str, Any]]) -> Figure:
    """Return a panel per data set: mean Dice over the caps, with intervals over patients."""
    figure = Figure(
        figsize=(4.6, 0.3 + 2.2 * len(dice)), dpi=200, facecolor=PAPER, layout="constrained"
    )
    for axes, measured in zip(figure.subplots(len(dice), 1, squeeze=False).flat, dice, strict=True):
        rows = measured["points"][::-1]
        for x, row in enumerate(rows):
            if row["low"] is not None:
                axes.plot([x, x], [row["low"], row["high"]], color=BLUE, lw=1.4)
        axes.plot([row["dice"] for row in rows], "o-", color=INK, lw=1, ms=4)
        plain_axes(axes, 8)
        axes.set_title(f"{measured['dataset']}: Dice", loc="left", color=MUTED, size=9)
        axes.set_xlabel("cap", color=MUTED, size=9)
        axes.set_xticks(range(len(rows)), [str(row["cap"]) for row in rows])
    return figure


def main() -> None:
    """Write page and figures."""
    for name, drawn in (("scores", stability_figure), ("dice", dice_figure)):
        if found := results(f"{name}_*.json"):
            write_figure(drawn(found), HERE / f"{name}.png")
    for measured in results("cells_*.json"):
        points = [ParetoPoint(**point) for point in measured["points"]]
        draw_pareto(points, HERE / f"cells_{measured['dataset']}.png")
    write_text(HERE.with_suffix(".md"), page())


if __name__ == "__main__":
    main()
