"""Studies of several methods at several widths, and the figure of Dice against cost."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from matplotlib.figure import Figure

from nnunet_iac.analysis.scores.case_scores import pooled
from nnunet_iac.analysis.scores.method_table import run_scores
from nnunet_iac.analysis.scores.statistics import bootstrap_interval
from nnunet_iac.analysis.vocabulary import REFERENCE, shown_name
from nnunet_iac.drawing.figure_files import INK, MUTED, plain_axes, write_figure
from nnunet_iac.drawing.panels import AXIS_NAME, LABEL_SIZE, LEGEND, empty_figure
from nnunet_iac.host.plans import require_file_ending, settings_of
from nnunet_iac.runs.atomic import content_of, write_json, write_text
from nnunet_iac.runs.scores import patient_means
from nnunet_iac.search.cost import Cost
from nnunet_iac.training.provenance import circumstances
from nnunet_iac.width.candidates import candidate, features_of
from nnunet_iac.width.crops import training_cases
from nnunet_iac.width.planning import plans_name, write_width
from nnunet_iac.width.source import Source
from nnunet_iac.workflow.study import METHODS, OURS_TO_SET, Study
from nnunet_iac.workflow.study_file import read_document, study_of

STYLES = {
    REFERENCE: ("o", INK),
    "continued": ("v", MUTED),
    "iac-lth": ("s", "#d55e00"),
    "iac": ("D", "#0072b2"),
    "random": ("^", "#009e73"),
}
"""The methods that can be compared, with their markers and Okabe and Ito's colours."""
assert STYLES.keys() - {REFERENCE} <= METHODS.keys()

OTHERS_TO_SET = {*OURS_TO_SET, "genotype", "skip"} - {"seed", "patient_pattern"}
"""Settings of the source plans that would lead a method to another backbone or other cells."""


@dataclass(frozen=True)
class Pareto:
    """A grid of widths (caps) and methods, whose backbones are trained by the source's trainer.

    The backbone (`reference`) is trained in any case.

    Raises:
        ValueError: no or an impossible cap, no fold, something named twice, a
            bad setting, too few cases for a fold, or a trainer that ignores the widths of plans.
        FileNotFoundError: the data are not preprocessed.
    """

    source: Source
    caps: tuple[int, ...]
    methods: tuple[str, ...] = tuple(method for method in STYLES if method != "iac")
    folds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] | None = None
    name: str = "pareto"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.caps or not self.folds:
            found = f"{len(self.caps)} caps and {len(self.folds)} folds"
            raise ValueError(f"a comparison needs at least one cap and one fold; got {found}")
        for named in (self.caps, self.folds, self.methods):
            if len(set(named)) < len(named):
                found = ", ".join(map(str, named))
                raise ValueError(f"caps, folds and methods must each be named once; got {found}")
        widest = max(features_of(self.source.architecture))
        caps = sorted({widest, *self.caps}, reverse=True)
        self.source.costs([candidate(self.source.architecture, cap) for cap in caps])
        for fold in self.folds:
            training_cases(self.source, fold)
        if taken := sorted(OTHERS_TO_SET & {*(self.settings or {})}):
            raise ValueError(f"{taken[0]} is what the methods differ in: leave it out of --set")
        require_file_ending(self.source.dataset.get("file_ending"))
        self.study()

    def document(self) -> dict[str, Any]:
        """Return the content of the study file."""
        known = {**settings_of(self.source.config).written, **(self.settings or {})}
        settings = {key: value for key, value in known.items() if key not in OTHERS_TO_SET}
        seed, patients = settings.pop("seed", 0), settings.pop("patient_pattern", None)
        name, configuration = self.source.folder.name, self.source.configuration
        dataset = {"dataset": name, "configurations": [configuration], "folds": list(self.folds)}
        trainer = self.source.trainer.__name__
        return {
            "name": self.name,
            "device": self.device,
            "datasets": [dataset if patients is None else {**dataset, "patients": patients}],
            "backbones": {
                f"cap{cap}": {"plans": plans_name(self.source, cap), "trainer": trainer}
                for cap in self.caps
            },
            "seeds": [seed],
            "settings": settings,
            "methods": {m: None for m in STYLES if m in self.methods and m != REFERENCE},
        }

    def study(self) -> Study:
        """Return the study of all trainings, every backbone before the methods on top of it."""
        return study_of(self.document())

    def write_study(self, folder: Path) -> Path:
        """Write the plans of all widths, which stay if they are there; return the study file."""
        path, new = folder / "study.yaml", self.document()
        if path.is_file():
            _require_same_kind(path, new)
        for cap in self.caps:
            write_width(self.source, cap)
        write_text(path, yaml.safe_dump(new, sort_keys=False))
        return path


def _require_same_kind(path: Path, new: Mapping[str, Any]) -> None:
    """Check that a study file is of the same data, trainer and settings; widths may be added."""

    def kind(document: Mapping[str, Any]) -> list[Any]:
        datasets = [{**dataset, "folds": None} for dataset in document["datasets"]]
        trainers = {spec["trainer"] for spec in document["backbones"].values()}
        return [datasets, document["seeds"], document["settings"], trainers]

    known = read_document(path)
    with content_of(path):
        own, theirs = new["backbones"], known["backbones"]
        same = all(own[cap] == theirs[cap] for cap in own.keys() & theirs.keys())
        same = same and kind(known) == kind(new)
    if not same:
        raise ValueError(
            f"a folder has one comparison of widths; {path} is of other data, plans, settings or "
            "another trainer: name another folder with -o"
        )


def study_name(folder: Path) -> str:
    """Return the name of a study whose results go to a folder: trainings are called after it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", folder.resolve().name).strip("-") or "pareto"


@dataclass(frozen=True)
class ParetoPoint:
    """Costs and scores of a method at a width (cap); costs and epochs are means over folds.

    The multiply-accumulates are those of one patch without deep supervision. The foreground Dice is
    the mean over a patient's validation cases, then over patients, with its 95 % bootstrap interval
    unless there is only one. The epochs are those after the backbone's, search included.
    """

    cap: int
    method: str
    parameters: float
    macs: float
    dice: float
    low: float | None
    high: float | None
    patients: int
    cases: int
    epochs: float


def points(pareto: Pareto, runs: Sequence[Mapping[str, Any]]) -> list[ParetoPoint]:
    """Return the points of the methods whose folds are all in a study's runs, by cap and method."""
    found, place = [], (pareto.source.folder.name, pareto.source.configuration)
    for cap in pareto.caps:
        for method in (m for m in STYLES if m in pareto.methods):
            own = [r for r in runs if _place(r) == (*place, f"cap{cap}", method)]
            own = [r for r in own if r["fold"] in pareto.folds]
            if {r["fold"] for r in own} == set(pareto.folds):
                found.append(point_of(cap, method, own, pareto.source.cost(cap)))
    return [point for point in found if point is not None]


def _place(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what decides which point a run is part of."""
    return run["dataset"], run["configuration"], run["backbone"], run["method"]


def point_of(
    cap: int, method: str, runs: Sequence[Mapping[str, Any]], width: Cost
) -> ParetoPoint | None:
    """Return the point of a method's runs, the mean over seeds, on a backbone of the cost `width`.

    None if no case has a Dice.
    """
    dice = pooled([run_scores(run, "dice") for run in runs], method).dice
    means, left_out = patient_means(dice, runs[0]["patient_pattern"])
    if not means:
        return None
    interval = bootstrap_interval(list(means.values())) if len(means) > 1 else None

    def added(name: str) -> float:
        costs = [run[name] for run in runs if name in run]
        return sum(cost["final"] - cost["backbone"] for cost in costs) / len(runs)

    return ParetoPoint(
        cap,
        method,
        width.parameters + added("parameters"),
        width.macs + added("macs"),
        fmean(means.values()),
        interval.low if interval else None,
        interval.high if interval else None,
        len(means),
        len(dice) - len(left_out),
        fmean(run.get("epochs", 0) for run in runs),
    )


def write_points(pareto: Pareto, found: Sequence[ParetoPoint], path: Path) -> None:
    """Write the points as JSON, with the data, settings and versions behind them."""
    source = pareto.source
    document = {
        "dataset": source.folder.name,
        "configuration": source.configuration,
        "plans": source.plans["plans_name"],
        "trainer": source.trainer.__name__,
        "folds": list(pareto.folds),
        "settings": pareto.document()["settings"],
        "device": pareto.device,
        **circumstances(),
        "points": [asdict(point) for point in found],
    }
    write_json(path, document)


def table(found: Sequence[ParetoPoint]) -> str:
    """Return the points as text."""
    lines = [
        f"{'cap':>6}  {'method':<10}{'parameters':>14}{'MACs':>18}{'epochs':>8}{'Dice':>8}  "
        f"{'95 %':<16}{'patients':>8}"
    ]
    for point in found:
        interval = "-" if point.low is None else f"{point.low:.3f} to {point.high:.3f}"
        lines.append(
            f"{point.cap:>6}  {shown_name(point.method):<10}{point.parameters:>14,.0f}"
            f"{point.macs:>18,.0f}{point.epochs:>8.0f}{point.dice:>8.3f}  {interval:<16}"
            f"{point.patients:>8}"
        )
    return "\n".join(lines)


CAP_STYLE: Any = {"textcoords": "offset points", "color": MUTED, "size": 8, "ha": "right"}


def pareto_figure(found: Sequence[ParetoPoint]) -> Figure:
    """Return Dice against parameters and MACs, a line per method over its widths.

    Bars are the 95 % bootstrap intervals over patients; the numbers are caps.

    Raises:
        ValueError: no points.
    """
    if not found:
        raise ValueError("a figure of widths needs a finished training; got none: train one first")
    shown = [method for method in STYLES if method in {p.method for p in found}]
    figure = empty_figure(5.2)
    panels = figure.subplots(2, 1, sharey=True)
    labels = {"parameters": "parameters", "macs": "MACs of one patch"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        for method in shown:
            marker, colour = STYLES[method]
            own = sorted((p for p in found if p.method == method), key=lambda p: p.cap)
            costs, dice = [getattr(p, name) for p in own], [p.dice for p in own]
            for x, point in zip(costs, own, strict=True):
                if point.low is not None:
                    axes.plot([x, x], [point.low, point.high], color=colour, lw=1, alpha=0.6)
                if method == shown[0]:
                    axes.annotate(str(point.cap), (x, point.dice), (-5, 3), **CAP_STYLE)
            style: Any = {"color": colour, "lw": 1.4, "ms": 4.5, "marker": marker}
            axes.plot(costs, dice, **style, label=shown_name(method))
        axes.set_xscale("log")
        plain_axes(axes, LABEL_SIZE)
        axes.set_xlabel(label, color=MUTED, size=LABEL_SIZE)
        axes.set_title("mean Dice over patients", **AXIS_NAME)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), **LEGEND)
    return figure


def draw_pareto(found: Sequence[ParetoPoint], path: Path) -> None:
    """Draw `pareto_figure` into a PNG file, replaced atomically."""
    write_figure(pareto_figure(found), path)
