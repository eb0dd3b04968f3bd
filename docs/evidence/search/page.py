"""Write docs/evidence/search.md and its figure from the result files in search/."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.case_scores import pooled
from nnunet_iac.analysis.scores.ceiling import Ceiling, ceiling
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.convergence import Convergence, convergences
from nnunet_iac.analysis.scores.method_table import MethodTable, Row, method_tables, run_scores
from nnunet_iac.analysis.scores.wording import difference_text, finding, p_text
from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, plain_axes, write_figure
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
TITLES = {
    "hippocampus": "Hippocampus, 2-D",
    "acdc": "ACDC, 128 x 128",
    "hippocampus-3d": "Hippocampus, small 3-D",
}
NAMES = {
    "continued": "the continued backbone",
    "random": "cells: random",
    "iac-lth": "cells: IAC-LTH, `literal`",
    "swift": "cells: IAC-LTH, `swift`",
    "iac-lth-long": "cells: IAC-LTH, `literal`, a longer search",
    "random-iac": "cells: random, for as long as IAC",
    "paper": "cells: IAC-LTH, `paper`",
    "adaptive": "cells: IAC-LTH, `adaptive`",
    "iac": "cells: IAC, the full search",
    "halving": "cells: direct evaluation",
    "halving-convolutions": "cells: direct evaluation, convolutions only",
    "identity": "cells: identity",
    "convolution": "convolutions of equal parameters",
    "attention": "attention gates",
    "nested": "nested skips",
    "residual-attention": "residual attention",
    "random-decoder": "cells: random, and the decoder",
    "random-all": "cells: random, and the backbone",
    "random-wide": "cells: random, wide",
    "random-alone": "cells: random, in place of the skip",
    "continued-ema": "the continued backbone, averaged weights (EMA)",
    "random-ema": "cells: random, averaged weights (EMA)",
    "iac-lth-ema": "cells: IAC-LTH, averaged weights (EMA)",
    "continued-100": "the continued backbone",
    "continued-240": "the continued backbone",
    "random-10": "cells: random",
    "random-30": "cells: random",
    "random-80": "cells: random",
    "random-120": "cells: random",
}
STUDY_NAMES = {
    "converged": "whether the backbone has converged",
    "choose": "learning rates",
    "genotypes": "how far cells differ",
    "searches": "searched cells",
    "methods": "controls and other skip modules",
    "core": "searched cells and controls",
    "time": "searches and finetunings of other lengths",
    "parts": "other trained parts and averaged weights",
    "paper": "the paper's protocol",
}
SEARCHES = ("iac-lth", "iac-lth-long", "swift", "paper", "adaptive", "iac")
TRIED = "halving"
"""A search by direct evaluation, which was measured once and removed; its results are kept."""

DIRECT = ("halving", "halving-convolutions")
CONTROLS = {
    "random": ("random-10", "random-30", "random", "random-80", "random-120"),
    "continued": ("continued", "continued-100", "continued-240"),
}
"""Controls and their trainings of several lengths, the shortest first."""

TRAIN_THE_NETWORK = ("continued", "continued-ema", "random-decoder", "random-all")

EQUAL = ("searches", "methods", "core", "parts", TRIED)
"""Studies whose methods are trained for as many batches; cells of `genotypes` are random ones."""

MATTERS = 0.002
"""Standard deviation between cells below which it does not matter which cell is chosen."""

MARGIN = 0.002
"""Dice by which a cheaper method may be worse."""

COUNTS = (2, 8, 16, 100)
"""Numbers of cells of which the best is taken."""

PAPER_CONTROLS = ("random", "random-iac")
"""Random cells in the study of the paper's protocol, trained for as long as either search."""

PAPERS = (
    {"protocol": "grid of six backbones", "iac": 0.011, "paper": 0.010, "attention": 0.068,
     "nested": 0.034, "residual-attention": 0.048, "minutes": (16.3, 3.7)},
    {"protocol": "nnU-Net, no augmentation", "iac": 0.023, "paper": 0.025, "minutes": (37, 11)},
    {"protocol": "nnU-Net, augmentation", "iac": 0.106, "paper": 0.076, "minutes": (41, 11)},
)  # fmt: skip
"""ACDC in the paper's tables: Dice minus the backbone's, and minutes of the searches."""

COLOURS = ("#0072b2", "#d55e00")


def compared(runs: Sequence[Any], others: Sequence[Any], a: str, b: str) -> PairedComparison:
    """Return the runs of B against those of A by patient, each the mean over its runs."""
    sides = [
        pooled([run_scores(run, "dice") for run in own], name)
        for own, name in ((others, a), (runs, b))
    ]
    pattern = runs[0]["patient_pattern"] or ".*"
    return compare_scores(*sides, patient_pattern=pattern, margin=MARGIN)


@dataclass(frozen=True)
class AtEqualTime:
    """A search against the longest training of a control that takes no longer, or the shortest."""

    method: str
    minutes: float
    control: str
    control_minutes: float
    against: PairedComparison


@dataclass(frozen=True)
class Cheapest:
    """The retrofit with the fewest MACs not inferior to the best, whose `against` is None.

    `alone` is whether no other is shown not to be inferior. `cheaper` are those without a search
    that are not inferior to the best, and have fewer MACs than random cells.
    """

    row: Row
    best: Row
    against: PairedComparison | None
    alone: bool
    cheaper: Sequence[Row]

    @property
    def backbone_will_do(self) -> bool:
        """Whether the best is better than the backbone by less than `MARGIN`."""
        return self.best.against[REFERENCE].interval.high < MARGIN


@dataclass(frozen=True)
class Length:
    """A finetuning of a random cell, against the longest; None is the longest itself."""

    row: Row
    batches_per_epoch: int
    against: PairedComparison | None

    @property
    def batches(self) -> int:
        """Batches of the whole finetuning."""
        return round(self.row.epochs * self.batches_per_epoch)


@dataclass(frozen=True)
class Measured:
    """The result files of a data set's studies, by their names, and how many runs each has."""

    key: str
    studies: Mapping[str, Any]
    planned: Mapping[str, int]
    chosen_on: str | None = None

    @property
    def title(self) -> str:
        """The name of the data set on the page."""
        return TITLES[self.key]

    @property
    def unit(self) -> str:
        """The unit of a comparison: patients, or cases where file names do not name patients."""
        runs = [run for name in self.studies for run in self.studies[name]["runs"]]
        return "patients" if any(run.get("patient_pattern") for run in runs) else "cases"

    @property
    def missing(self) -> list[str]:
        """The studies that have not been measured, or not wholly."""
        found = []
        for name, planned in self.planned.items():
            runs = len(self.runs_of(name))
            if name not in self.studies:
                found.append(STUDY_NAMES[name])
            elif runs < planned:
                found.append(f"{STUDY_NAMES[name]} ({runs} of {planned} runs are finished)")
        return found

    @cached_property
    def converged(self) -> list[Convergence]:
        """Whether the backbone has converged."""
        return convergences(self.studies.get("converged", {"runs": []}))

    @property
    def has_converged(self) -> bool:
        """Whether the backbone is shown to have converged."""
        shown = bool(self.converged) and all(one.has_converged for one in self.converged)
        return shown and not self.other_backbone

    @property
    def other_backbone(self) -> bool:
        """Whether methods start from another training of the network than the one shown here."""
        shown = [run["dice"] for run in self.studies.get("converged", {"runs": []})["runs"]]
        own = [name for name in self.studies if name in (*EQUAL, "genotypes", "time")]
        runs = [run for name in own for run in self.studies[name]["runs"]]
        return any(run["dice"] not in shown for run in runs if run["method"] == REFERENCE)

    @cached_property
    def ceiling(self) -> Ceiling | None:
        """How far cells differ."""
        return ceiling(self.studies["genotypes"]) if "genotypes" in self.studies else None

    @property
    def matters(self) -> bool | None:
        """Whether it matters which cell is chosen; None where the interval does not decide."""
        assert self.ceiling is not None
        if self.ceiling.interval.high < MATTERS:
            return False
        return True if self.ceiling.interval.low >= MATTERS else None

    @cached_property
    def equal_runs(self) -> list[Any]:
        """The runs that are trained for equally many batches, all random cells as one method."""
        runs = [run for name in EQUAL for run in self.runs_of(name)]
        # Each with a seed of its own, since two of a seed are two cells.
        own = {"method": "random"}
        return runs + [
            {**run, **own, "seed": f"{run['method']} {run['seed']}"}
            for run in self.runs_of("genotypes")
        ]

    def runs_at_equal_batches(self, method: str) -> list[Any]:
        """Return the runs of a method at equal batches."""
        return [run for run in self.equal_runs if run["method"] == method]

    @cached_property
    def table(self) -> MethodTable | None:
        """All methods at equal batches, against the continued backbone and the mean random cell."""
        return self._table(("continued", "random"))

    def _table(self, baselines: Sequence[str]) -> MethodTable | None:
        methods = [name for name in NAMES if any(r["method"] == name for r in self.equal_runs)]
        if not methods:
            return None
        document = {"methods": methods, "runs": self.equal_runs}
        (table,) = method_tables(document, baselines, MARGIN)
        return table

    @property
    def shorter(self) -> list[Row]:
        """The rows of methods that were trained for fewer epochs than the longest."""
        rows = [] if self.table is None else list(self.table.rows)
        return [row for row in rows if row.epochs < max(each.epochs for each in rows)]

    @cached_property
    def cheapest(self) -> Cheapest | None:
        """The retrofit with the fewest MACs that is not inferior to the best."""
        every = self.table.rows if self.table else ()
        rows = [row for row in every if row.method not in TRAIN_THE_NETWORK]
        if len(rows) < 2:
            return None
        best = max(rows, key=lambda row: row.dice)
        table = self._table((best.method,))
        assert table is not None
        against = {row.method: table.row(row.method).against.get(best.method) for row in rows}
        good = [r for r in rows if (c := against[r.method]) is None or c.not_inferior]
        cheapest = min(good, key=lambda row: row.macs)
        random = min((row.macs for row in rows if row.method == "random"), default=-math.inf)
        cheaper = [row for row in good if row.macs < random and not row.search_epochs]
        cheaper.sort(key=lambda row: row.macs)
        return Cheapest(cheapest, best, against[cheapest.method], len(good) == 1, cheaper)

    @cached_property
    def at_equal_time(self) -> list[AtEqualTime]:
        """Searches against controls that take no longer.

        Without a control that is as short, the shortest is there. A comparison that `table` has is
        that of the table; the p values of the others are adjusted for each other.
        """
        by_method: dict[str, list[Any]] = {}
        for run in [*self.equal_runs, *self.runs_of("time")]:
            by_method.setdefault(run["method"], []).append(run)
        minutes = {name: self._minutes(own) for name, own in by_method.items()}
        pairs = []
        for search in (name for name in (*SEARCHES, *DIRECT) if name in by_method):
            for lengths in CONTROLS.values():
                if known := sorted((minutes[n], n) for n in lengths if n in minutes):
                    fit = [n for time, n in known if time <= minutes[search]]
                    pairs.append((search, fit[-1] if fit else known[0][1]))
        rows = () if self.table is None else self.table.rows
        shown = {(row.method, base): c for row in rows for base, c in row.against.items()}
        new = [(s, c, compared(by_method[s], by_method[c], c, s)) for s, c in pairs]
        family = adjusted([each for s, c, each in new if (s, c) not in shown])
        shown |= {(c.labels[1], c.labels[0]): c for c in family}
        return [AtEqualTime(s, minutes[s], c, minutes[c], shown[s, c]) for s, c in pairs]

    def _minutes(self, runs: Sequence[Any]) -> float:
        """Return the median minutes of runs on the machine that measured the searches.

        A control of another length may be of another machine: its epochs count, each as long as
        one of the control that was measured with the searches.
        """
        kind = next((k for k, names in CONTROLS.items() if runs[0]["method"] in names), None)
        beside = [run for run in self.runs_of("methods") if run["method"] == kind]
        if not beside:
            return median(run["seconds"] for run in runs) / 60
        return runs[0]["epochs"] * median(run["seconds"] / run["epochs"] for run in beside) / 60

    @cached_property
    def lengths(self) -> list[Length]:
        """Random cells after finetunings of several lengths, the shortest first."""
        tried = [*self.runs_of("methods"), *self.runs_of("time")]
        runs = [run for run in tried if run["method"] in CONTROLS["random"]]
        if not runs:
            return []
        methods = sorted({run["method"] for run in runs}, key=CONTROLS["random"].index)
        longest, batches = methods[-1], runs[0]["settings"]["iterations_per_epoch"]
        (table,) = method_tables({"methods": methods, "runs": runs}, (longest,), MARGIN)
        return [Length(row, batches, row.against.get(longest)) for row in table.rows]

    @property
    def longest_helps(self) -> bool:
        """Whether the longest finetuning is better than the backbone, which has none.

        If not, the lengths show nothing of how long a finetuning must be.
        """
        return bool(self.lengths) and self.lengths[-1].row.against[REFERENCE].verdict == "better"

    @property
    def enough(self) -> Length | None:
        """The shortest finetuning not inferior to the longest, and none between them is either."""
        found = None
        for each in reversed(self.lengths[:-1]):
            if each.against is None or not each.against.not_inferior:
                break
            found = each
        return found if self.longest_helps else None

    @property
    def rates(self) -> list[Row]:
        """The Dice of every tried learning rate on the cases of fold 1."""
        study = self.studies.get("choose")
        return [] if study is None else list(method_tables(study, (), MARGIN)[0].rows)

    @cached_property
    def papers(self) -> MethodTable | None:
        """The methods of the paper's protocol."""
        study = self.studies.get("paper")
        baselines = "iac", *PAPER_CONTROLS
        return None if study is None else method_tables(study, baselines, MARGIN)[0]

    def paper_against(self, row: Row, baselines: Sequence[str]) -> PairedComparison | None:
        """Return a method against the first baseline that was trained for as many epochs.

        The accelerated search is compared with the full one, whose quality it is to keep sooner.
        """
        assert self.papers is not None
        alike = {
            each.method for each in self.papers.rows if round(each.epochs) == round(row.epochs)
        }
        alike |= {"iac"} if row.method == "paper" else set()
        return next((row.against[b] for b in baselines if b in alike and b in row.against), None)

    def paper_minutes(self, method: str, of: str) -> float:
        """Return the median minutes of runs of the paper's protocol, or of their searches.

        `of` is `seconds` or `search_seconds`.
        """
        own = [run for run in self.runs_of("paper") if run["method"] == method]
        return median([run[of] for run in own] or [math.nan]) / 60

    def runs_of(self, study: str) -> list[Any]:
        """Return the runs of a study, the backbone's left out; none where it is not measured."""
        runs = self.studies.get(study, {"runs": []})["runs"]
        return [run for run in runs if run["method"] != REFERENCE]

    @property
    def hours(self) -> dict[str, float]:
        """The hours of one core that the methods of every study took, without the final validation.

        Of every method the median times its runs, since some had to wait for other work.
        """
        found = {}
        for name in self.studies:
            by_method: dict[str, list[float]] = {}
            for run in self.runs_of(name):
                by_method.setdefault(run["method"], []).append(run["seconds"] / 3600)
            found[name] = sum(len(hours) * median(hours) for hours in by_method.values())
        return {name: hours for name, hours in found.items() if hours}

    @property
    def slowest(self) -> float:
        """How many times as long an epoch took in one run of a method as in another, at most."""
        by_method: dict[tuple[str, str], list[float]] = {}
        for name in self.studies:
            for run in self.runs_of(name):
                by_method.setdefault((name, run["method"]), []).append(
                    run["seconds"] / run["epochs"]
                )
        return max((max(each) / min(each) for each in by_method.values()), default=1.0)

    @property
    def curves(self) -> dict[str, list[float]]:
        """The Dice of every epoch of the backbone's trainings, as nnU-Net logs it, by trainer."""
        runs = self.studies.get("converged", {"runs": []})["runs"]
        return {run["trainer"]: run["curve"] for run in runs if run["curve"]}


def measured() -> list[Measured]:
    """Return what there is of every data set."""
    document = yaml.safe_load((HERE / "studies.yaml").read_text())
    found = []
    for key, given in document["sets"].items():
        files = {name: file(key, name) for name in (*given["studies"], TRIED)}
        studies = {name: read_json(path) for name, path in files.items() if path.is_file()}
        known = document["studies"]
        planned = {name: runs_planned(known.get(name), key) for name in given["studies"]}
        found.append(Measured(key, studies, planned, given.get("chosen_on")))
    return found


def runs_planned(study: Mapping[str, Any] | None, data: str) -> int:
    """Return how many runs a study has on a data set, the backbone's left out."""
    if study is None:
        return 0
    own = [m for m in study["methods"].values() if data in (m or {}).get("sets", [data])]
    return len(own) * len(study["seeds"])


def file(key: str, study: str) -> Path:
    """Return the result file of a study on a data set."""
    return HERE / f"{key}-{study}.json"


def curves_figure(sets: Sequence[Measured]) -> Figure:
    """Return the Dice of every epoch of the backbones, a panel per data set."""
    figure = Figure(figsize=(6.4, 2.2 * len(sets)), dpi=160, facecolor=PAPER, layout="constrained")
    for axes, one in zip(figure.subplots(len(sets), 1, squeeze=False).flat, sets, strict=True):
        for (trainer, curve), colour in zip(one.curves.items(), COLOURS, strict=False):
            axes.plot(range(1, len(curve) + 1), curve, color=colour, lw=1.2, label=trainer)
        plain_axes(axes, 8)
        axes.set_title(f"{one.title}: pseudo Dice", loc="left", color=MUTED, size=9)
        axes.set_xlabel("epoch", color=MUTED, size=8)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
    return figure


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters.update(difference=difference_text, p=p_text)
    own = {"names": NAMES, "direct": DIRECT, "counts": COUNTS}
    own |= {
        "titles": TITLES,
        "matters": MATTERS,
        "margin": MARGIN,
        "papers": PAPERS,
        "paper_controls": PAPER_CONTROLS,
        "reference": REFERENCE,
    }
    environment.globals.update(own, finding=finding)
    return environment.get_template("page.md.jinja").render(sets=measured())


def main() -> None:
    """Write page and figure."""
    write_text(HERE.with_suffix(".md"), page())
    if shown := [one for one in measured() if one.curves]:
        write_figure(curves_figure(shown), HERE / "curves.png")


if __name__ == "__main__":
    main()
