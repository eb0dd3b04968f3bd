"""Write docs/evidence/width.md and its figures from the result files in this folder."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.convergence import Convergence, convergences
from nnunet_iac.analysis.scores.method_table import run_scores
from nnunet_iac.analysis.scores.statistics import Interval, bootstrap_interval
from nnunet_iac.analysis.scores.wording import difference_text, enumerated, finding, p_text
from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.drawing.figure_files import INK, MUTED, plain_axes, write_figure
from nnunet_iac.drawing.panels import empty_figure
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.runs.scores import patient_means
from nnunet_iac.width.consensus import consensus
from nnunet_iac.width.selection import Rule

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
"""Dice by which a network may be lower than the best one."""

NAMES = {
    "continued": "the continued backbone",
    "random": "cells: random",
    "iac-lth": "cells: searched (IAC-LTH)",
}


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


@dataclass(frozen=True)
class Width:
    """A width that was trained, and its Dice against the best one's; None of that itself."""

    cap: int
    parameters: int
    macs: int
    scores: CaseScores
    dice: float
    interval: Interval | None
    against: PairedComparison | None

    @property
    def is_close(self) -> bool:
        """Whether it is not inferior to the best by `CLOSE`."""
        return self.against is None or self.against.not_inferior


@dataclass(frozen=True)
class Pick:
    """The most frequent pick of rules, their names, and what that width is worth.

    `smaller` is how many times more parameters the widest network that rules score has.
    """

    names: str
    point: Width
    smaller: float

    @property
    def against(self) -> PairedComparison | None:
        """The pick minus the best."""
        return self.point.against


@dataclass(frozen=True)
class Beside:
    """A method on a narrow network, against the plain one with the most similar MACs.

    It was trained for `batches` more than that.
    """

    cap: int
    method: str
    macs: float
    batches: float
    dice: float
    wider: Width
    against: PairedComparison


@dataclass(frozen=True)
class Trained:
    """The widths of a data set that were trained, the widest first."""

    study: dict[str, Any]
    scored: dict[str, Any] | None
    cells: dict[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        found: str = self.references[0]["dataset"]
        return found

    @property
    def references(self) -> list[dict[str, Any]]:
        """The trainings of the widths, those that were only trained longer left out."""
        longer = set(self.study["halves"].values())
        runs = [run for run in self.study["runs"] if run["method"] == REFERENCE]
        runs = [run for run in runs if run["backbone"] not in longer]
        return sorted(runs, key=lambda run: -self.study["costs"][run["backbone"]]["macs"])

    @property
    def pattern(self) -> str:
        """The pattern of a patient in the names of cases."""
        return self.references[0]["patient_pattern"] or ".*"

    @cached_property
    def widths(self) -> list[Width]:
        """All widths, the p values of the comparisons with the best adjusted together."""
        scores = [pooled([run_scores(run, "dice")], run["backbone"]) for run in self.references]
        means = [list(patient_means(own.dice, self.pattern)[0].values()) for own in scores]
        best = max(range(len(means)), key=lambda number: fmean(means[number]))
        how: dict[str, Any] = {"patient_pattern": self.pattern, "margin": CLOSE}
        others = [own for own in scores if own is not scores[best]]
        family: list[PairedComparison | None] = [
            *adjusted([compare_scores(scores[best], own, **how) for own in others])
        ]
        family.insert(best, None)
        found = []
        for run, own, values, against in zip(self.references, scores, means, family, strict=True):
            dice, interval = fmean(values), bootstrap_interval(values)
            cost = self.study["costs"][run["backbone"]]
            found.append(Width(**cost, scores=own, dice=dice, interval=interval, against=against))
        return found

    @property
    def has_widest(self) -> bool:
        """Whether the widest network that rules score, the plan's, was trained."""
        return self.scored is None or self.widths[0].cap == max(self.scored["caps"])

    @property
    def best(self) -> Width:
        """The width of the highest Dice, chosen after the fact."""
        return next(width for width in self.widths if width.against is None)

    @property
    def smallest(self) -> Width:
        """The smallest that is close to the best, as all between them are."""
        narrower = self.widths[self.widths.index(self.best) :]
        return [*takewhile(lambda width: width.is_close, narrower)][-1]

    @property
    def converged(self) -> list[Convergence]:
        """Whether widths that were trained twice as long have converged."""
        return convergences(self.study)

    @property
    def picks(self) -> list[Pick]:
        """The most frequent picks of the rules with one seed and of the votes, if trained."""
        names: dict[int, list[str]] = {}
        for row in [] if self.scored is None else stability(self.scored):
            if "geometric" not in row["name"] and "experimental" not in row["name"]:
                names.setdefault(row["cap"], []).append(f"`{row['name'].strip('*')}`")
        most = 0 if self.scored is None else max(self.scored["parameters"])
        return [
            Pick(enumerated(names[width.cap]), width, most / width.parameters)
            for width in self.widths
            if width.cap in names
        ]

    @property
    def beside(self) -> list[Beside]:
        """Cells and their controls on narrow networks, against the plain one of equal MACs."""
        if self.cells is None:
            return []
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for run in self.cells["runs"]:
            if run["method"] != REFERENCE:
                groups.setdefault((run["backbone"], run["method"]), []).append(run)
        found = []
        for (backbone, method), runs in groups.items():
            macs = fmean(run["macs"]["final"] for run in runs)
            wider = min(self.widths, key=lambda width: abs(math.log(width.macs / macs)))
            own = pooled([run_scores(run, "dice") for run in runs], f"{backbone} {method}")
            against = compare_scores(wider.scores, own, patient_pattern=self.pattern, margin=CLOSE)
            cap = self.cells["costs"][backbone]["cap"]
            batches = fmean(run["epochs"] * run["settings"]["iterations_per_epoch"] for run in runs)
            found.append(Beside(cap, method, macs, batches, against.mean_b, wider, against))
        family = adjusted([each.against for each in found])
        return [replace(each, against=own) for each, own in zip(found, family, strict=True)]


def measured() -> list[Trained]:
    """Return the trained widths of every data set that has some."""
    scores = {each["dataset"]: each for each in results("scores_*.json")}
    cells = {each["runs"][0]["dataset"]: each for each in results("cells_*.json")}
    found = []
    for study in results("dice_*.json"):
        name = study["runs"][0]["dataset"]
        found.append(Trained(study, scores.get(name), cells.get(name)))
    return found


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters.update(difference=difference_text, p=p_text)
    scores = [
        {**each, "spread": spread(each), "stability": stability(each)}
        for each in results("scores_*.json")
    ]
    return environment.get_template("page.md.jinja").render(
        benchmark=results("benchmark.json"),
        close=CLOSE,
        scores=scores,
        trained=measured(),
        finding=finding,
        names=NAMES,
    )


def stability_figure(scores: Sequence[dict[str, Any]]) -> Figure:
    """Return a panel per data set: the share of the repetitions that pick each cap, by method."""
    figure = empty_figure(0.4 + 3 * len(scores))
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


def dice_figure(trained: Sequence[Trained]) -> Figure:
    """Return a panel per data set: mean Dice over the caps, with intervals over patients."""
    figure = empty_figure(0.3 + 2.2 * len(trained))
    panels = figure.subplots(len(trained), 1, squeeze=False).flat
    for axes, one in zip(panels, trained, strict=True):
        widths = one.widths[::-1]
        for x, width in enumerate(widths):
            if width.interval is not None:
                ends = [width.interval.low, width.interval.high]
                axes.plot([x, x], ends, color=BLUE, lw=1.4)
        axes.plot([width.dice for width in widths], "o-", color=INK, lw=1, ms=4)
        plain_axes(axes, 8)
        axes.set_title(f"{one.dataset}: Dice", loc="left", color=MUTED, size=9)
        axes.set_xlabel("cap", color=MUTED, size=9)
        axes.set_xticks(range(len(widths)), [str(width.cap) for width in widths])
    return figure


def main() -> None:
    """Write page and figures."""
    write_figure(stability_figure(results("scores_*.json")), HERE / "scores.png")
    if trained := measured():
        write_figure(dice_figure(trained), HERE / "dice.png")
    write_text(HERE.with_suffix(".md"), page())


if __name__ == "__main__":
    main()
