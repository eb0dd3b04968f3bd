"""Write docs/evidence/adaptation.md and its figures from the result files in adaptation/."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import binomtest

from nnunet_iac.adaptation.choice import NO_ADAPTER, NOISE
from nnunet_iac.adaptation.sites import SITE
from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.report.plane import PlanePoint, plane
from nnunet_iac.analysis.scores.case_scores import pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison
from nnunet_iac.analysis.scores.convergence import Convergence, convergences
from nnunet_iac.analysis.scores.method_table import MethodTable, Row, method_tables, run_scores
from nnunet_iac.analysis.scores.statistics import CONFIDENCE
from nnunet_iac.analysis.scores.wording import (
    counted,
    difference_text,
    enumerated,
    finding,
    p_text,
)
from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.drawing.figure_files import write_figure
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.runs.scores import mean_of_present, patient_means
from nnunet_iac.search.patients import patient_of
from nnunet_iac.search.settings import Settings

HERE = Path(__file__).parent
PAIRS = {
    "heart": "Cine MRI of the heart: ACDC to another site and sequence",
    "hippocampus": "Hippocampus: a simulated change of the scanner",
}
CASES = {"heart": (1, 3, 5, 10), "hippocampus": (3,)}
"""How many cases each pair is adapted to; studies.py plans the same."""

FOR_RATES = 3
"""Cases in the draws on which learning rates were chosen."""

SOURCES = {"heart": "acdc", "hippocampus": "hippocampus"}
"""Names of the sources' data sets in ../search."""

PATIENTS = r"patient\d+|cmr_\d+|hippocampus_\d+"
"""Pattern of a patient's name in all data sets; ACDC has two volumes of each."""

SEARCH, RANDOM, CONTINUED, SCRATCH = "iac-lth", "random", "continued", "scratch"
DEFAULT = "proposed"
"""Random cells as `nnunet-iac adapt` proposes them, where others have another rate."""
CONTROLS = (CONTINUED, "decoder", "l2-sp", "rehearsal", "ewc", "lwf", "norms")
"""Methods that train the network itself, without cells."""

TRAINED = ("random-decoder", "random-all")
"""Methods that train cells and the network together."""

NEED_SOURCE = ("rehearsal", "ewc")
"""Controls that need cases of the source."""

WITHOUT_SOURCE = "controls without source cases"

NAMES = {
    CONTINUED: "continued, all weights",
    "decoder": "continued, decoder",
    "l2-sp": "continued with L2-SP",
    "rehearsal": "continued with rehearsal of 10 source cases",
    "ewc": "continued with EWC",
    "lwf": "continued with LwF",
    "norms": "continued, norms of the decoder",
    DEFAULT: "cells: random, at the default rate",
    RANDOM: "cells: random",
    "random-mean": "cells: random, at the rate best on the mean of all pools",
    "identity": "cells: identity",
    "random-norms": "cells: random, and norms",
    "random-wide": "cells: random, wide",
    "random-rehearsal": "cells: random, with rehearsal",
    "random-lwf": "cells: random, with LwF",
    "random-ema": "cells: random, averaged weights (EMA)",
    "random-decoder": "cells: random, and the decoder",
    "random-all": "cells: random, and the whole network",
    SEARCH: "cells: searched (IAC-LTH)",
    "transferred": "cells: searched on the source",
    "convolution": "convolutions of equal parameters",
    "attention": "attention gates",
}
UNTRIED = "cells in some of the skip connections only"
"""A way that no study tries."""

MARGIN = 0.005
"""Dice by which the default may be lower than the best control."""

SHARE = 0.25
"""The most that the default may forget of what that control forgets."""

BYTES, RIGHT, MINUTES = 0.05, 0.95, 10
"""Most bytes of an adapter as a share of the model's, fewest right choices, and most minutes."""

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Adapted:
    """The results for one number of cases; `picture` is the name of its figure.

    `controls` are that of the highest Dice on the target, and that of those that need no cases of
    the source, if it is another one. `draws` has the standard deviation
    of every method over draws, None of one draw; `scratch_draws` that of a network that was trained
    from scratch, if there is one. `rate` is that of the default's row,
    and `search_rate` that of searched cells.
    """

    cases: int
    picture: str
    table: MethodTable
    draws: Mapping[str, float | None]
    controls: Sequence[Row]
    scratch_draws: float | None
    rate: float
    search_rate: float
    unchanged: tuple[int, int]

    @property
    def default(self) -> Row:
        """The row of the default method; where that was not measured, of other random cells."""
        measured = DEFAULT in {row.method for row in self.table.rows}
        return self.table.row(DEFAULT if measured else RANDOM)

    @property
    def is_proposed(self) -> bool:
        """Whether the rate of that row is the one that `nnunet-iac adapt` proposes."""
        return self.rate == Settings(preset="adapt").optimisation.finetune_lr

    @property
    def cells(self) -> list[Row]:
        """The rows of all methods that put something into the network."""
        return [row for row in self.table.rows if row.method not in CONTROLS]

    @property
    def compared(self) -> list["AgainstControl"]:
        """All of these methods against every control, one control after the other."""
        return [AgainstControl(row, control) for control in self.controls for row in self.cells]

    @property
    def higher_on_both(self) -> list[Row]:
        """Controls that have a higher mean Dice than the default on target and source alike."""
        own = self.default
        return [
            row
            for row in self.table.rows
            if row.method in CONTROLS
            and row.dice > own.dice
            and forgotten(row).mean_b > forgotten(own).mean_b
        ]

    @property
    def targets_missed(self) -> bool:
        """Whether the default misses a target against one of the controls."""
        return not all(
            each.not_inferior and each.forgets_little
            for each in self.compared
            if each.row is self.default
        )


@dataclass(frozen=True)
class AgainstControl:
    """A method against a control that trains the network itself."""

    row: Row
    control: Row

    @property
    def difference(self) -> PairedComparison:
        """The method minus the control, on the target."""
        return self.row.against[self.control.method]

    @property
    def not_inferior(self) -> bool:
        """Whether the method's Dice is not lower by `MARGIN`."""
        return self.difference.not_inferior

    @property
    def share(self) -> float | None:
        """The forgetting as a share of the control's; None if that forgets nothing.

        Nothing is forgotten where the Dice on the source has risen.
        """
        lost, most = (max(0.0, -forgotten(one).difference) for one in (self.row, self.control))
        return lost / most if most else None

    @property
    def forgets_little(self) -> bool:
        """Whether the method forgets at most `SHARE` of what the control forgets."""
        return forgotten(self.row).difference >= 0 if self.share is None else self.share <= SHARE


@dataclass(frozen=True)
class Target:
    """A target: its text, of what, the value found, and whether it is met; None: not measured."""

    target: str
    where: str
    found: str = NOT_MEASURED
    met: bool | None = None

    @property
    def result(self) -> str:
        """The last column of the table."""
        return {True: "met", False: "**missed**", None: NOT_MEASURED}[self.met]


def result(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a result file, or None where it has not been measured."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    for run in found.get("runs", ()):
        run["patient_pattern"] = PATIENTS
    return found


def forgotten(row: Row) -> PairedComparison:
    """Return a method on the source, after minus before."""
    assert row.forgetting is not None
    return row.forgetting


def runs_of(measured: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """Return a method's runs."""
    return [run for run in measured["runs"] if run["method"] == method]


def spread(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the standard deviation of the mean Dice over runs, each of a draw."""
    means = [mean for run in runs if (mean := mean_of_present(run["dice"].values())) is not None]
    return stdev(means) if len(means) > 1 else None


def mean_dice(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean Dice over runs, then patients."""
    dice = pooled([run_scores(run, "dice") for run in runs], "runs").dice
    return fmean(patient_means(dice, PATIENTS)[0].values())


def adapted(folder: Path, pair: str, cases: int) -> Adapted | None:
    """Return what was measured of one number of cases, or None."""
    name = f"{pair}-k{cases}"
    measured, scratch = result(folder, name), result(folder, f"{name}-scratch")
    if measured is None:
        return None
    dice = {
        method: mean_dice(runs_of(measured, method))
        for method in CONTROLS
        if method in measured["methods"]
    }
    alone = {method: value for method, value in dice.items() if method not in NEED_SOURCE}
    controls = dict.fromkeys(max(known, key=lambda one: known[one]) for known in (dice, alone))
    baselines = dict.fromkeys((CONTINUED, RANDOM, *controls))
    if scratch is not None:
        measured["runs"] += scratch["runs"]
        measured["adapted"] = ["adapted"]  # The first results do not name these backbones.
    (table,) = method_tables(measured, tuple(baselines), MARGIN)
    default = runs_of(measured, DEFAULT) or runs_of(measured, RANDOM)
    changing = (*CONTROLS, *TRAINED, REFERENCE)
    frozen = [run for run in measured["runs"] if run["method"] not in changing]
    return Adapted(
        cases=cases,
        picture=f"{name}.png",
        table=table,
        draws={row.method: spread(runs_of(measured, row.method)) for row in table.rows},
        controls=[table.row(control) for control in controls],
        scratch_draws=None if scratch is None else spread(runs_of(scratch, REFERENCE)),
        rate=default[0]["settings"]["finetune_lr"],
        search_rate=runs_of(measured, SEARCH)[0]["settings"]["finetune_lr"],
        unchanged=(sum(bool(run["backbone_unchanged"]) for run in frozen), len(frozen)),
    )


def rates(folder: Path, pair: str) -> list[tuple[Row, bool]]:
    """Return what every rate and weight that was tried is worth, the mean over draws.

    With each, whether the study of `FOR_RATES` cases uses it.
    """
    measured, used = (result(folder, f"{pair}-{name}") for name in ("rates", f"k{FOR_RATES}"))
    if measured is None or used is None:
        return []

    def chosen(document: Mapping[str, Any], method: str) -> list[float]:
        settings = runs_of(document, method)[0]["settings"]
        return [settings[key] for key in ("finetune_lr", "retention_weight")]

    return [
        (row, chosen(measured, row.method) == chosen(used, tried(row.method)[0]))
        for row in method_tables(measured, (), MARGIN)[0].rows
    ]


def tried(name: str) -> tuple[str, float]:
    """Return the method, and the learning rate or the weight of L2-SP, that a name stands for."""
    found = re.fullmatch(r"(.+?)-(\d+e-?\d+)", name)
    assert found
    return found[1], float(found[2])


def rate_name(name: str) -> str:
    """Return the words for what was tried."""
    method, value = tried(name)
    return f"{NAMES[method]}, {value:g}"


def convergence(folder: Path, pair: str) -> list[Convergence]:
    """Return whether the source has converged, which the study of searches shows."""
    measured = result(folder.parent / "search", f"{SOURCES[pair]}-converged")
    return [] if measured is None else convergences(measured)


def search_is_worth(measured: Sequence[Adapted]) -> str:
    """Return the first sentence: whether searched cells were better than random ones."""
    verdicts = [one.table.row(SEARCH).against[RANDOM].verdict for one in measured]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    if len(verdicts) == 1 and not better:
        found = "Searched cells were worse than random ones"
        return found if worse else "No difference between searched and random cells was detected"
    compared = counted(len(verdicts), "comparison")
    others = {verdict: verdicts.count(verdict) for verdict in sorted({*verdicts} - {"better"})}
    rest = "".join(f", {verdict} in {count}" for verdict, count in others.items())
    if better:
        return f"Searched cells were better than random ones in {better} of {compared}{rest}"
    return f"Searched cells were not better than random ones: better in 0 of {compared}{rest}"


def percent(share: float) -> str:
    """Return a share, for example `25 %`."""
    return f"{100 * share:.0f} %"


def targets(
    pairs: Mapping[str, Mapping[int, Adapted | None]], products: Mapping[str, Any]
) -> Iterator[Target]:
    """Yield all targets; a pair of which nothing has been measured has none.

    `products` has what product.py measured of a pair.
    """
    for pair, by_cases in pairs.items():
        for cases, one in by_cases.items():
            rate = "" if one is None or one.is_proposed else f", a rate of {one.rate:g}"
            yield from targets_of(f"{pair}, {counted(cases, 'case')}{rate}", one)
    measured = [one for by_cases in pairs.values() for one in by_cases.values() if one is not None]
    same, runs = (sum(one.unchanged[side] for one in measured) for side in (0, 1))
    found = f"the backbone is bit-identical after {same} of {counted(runs, 'run')}"
    off, where = "with cells off nothing is forgotten", "all runs of cells"
    yield Target(off, where, found, same == runs) if runs else Target(off, where)
    for pair in pairs:
        yield from targets_of_product(pair, products.get(pair))


def targets_of(where: str, one: Adapted | None) -> Iterator[Target]:
    """Yield the targets on the Dice of both sides, of one number of cases."""
    aims = (
        f"target Dice not lower than the best control's by {MARGIN}",
        f"forgetting at most {percent(SHARE)} of that control's",
    )
    if one is None:
        yield from (Target(aim, where) for aim in aims)
        return
    for control in one.controls:
        each = AgainstControl(one.default, control)
        where_exactly = where if control is one.controls[0] else f"{where}, {WITHOUT_SOURCE}"
        found = f"{difference_text(each.difference)} against {NAMES[control.method]}"
        yield Target(aims[0], where_exactly, found, each.not_inferior)
        what = "the control forgets nothing" if each.share is None else percent(each.share)
        own, theirs = (difference_text(forgotten(row)) for row in (one.default, control))
        found = f"{what}: {own}, the control {theirs}"
        yield Target(aims[1], where_exactly, found, each.forgets_little)


def targets_of_product(pair: str, product: Mapping[str, Any] | None) -> Iterator[Target]:
    """Yield the targets on files, choices and time."""
    aims = (
        "with cells off predictions are those of nnU-Net's own command, byte for byte",
        f"an adapter has at most {percent(BYTES)} of the bytes of the model's weights",
        f"`auto` is right for at least {percent(RIGHT)} of held-out cases",
        f"adapting to 3 cases takes at most {MINUTES} minutes on two cores",
    )
    if product is None:
        yield from (Target(aim, f"{pair}, 3 cases") for aim in aims)
        return
    where = f"{pair}, {counted(product['cases'], 'case')}, {product['trainer']}"
    is_equal, number = product["off"]["equal"], counted(product["off"]["predictions"], "prediction")
    yield Target(aims[0], where, f"{number} {'equal' if is_equal else 'not equal'}", is_equal)
    adapter, model = product["bytes"]["adapter"], product["bytes"]["model"]
    found = f"{100 * adapter / model:.1f} %, {adapter / 1000:.0f} of {model / 1000:.0f} kB"
    yield Target(aims[1], where, found, adapter <= BYTES * model)
    for site, choices in product["auto"].items():
        right, total = sum(choice == site for choice in choices.values()), len(choices)
        wrong = {patient_of(case, PATIENTS) for case, choice in choices.items() if choice != site}
        patients = len({patient_of(case, PATIENTS) for case in choices})
        between = binomtest(patients - len(wrong), patients).proportion_ci(CONFIDENCE)
        ends = f"[{percent(between.low)}, {percent(between.high)}]"
        found = (
            f"{right} of {total}, {percent(right / total)}; of {patients} patients {ends}; "
            f"{product['warned'][site]} of the cases fit none"
        )
        side = "the source" if site == "none" else "the target"
        yield Target(aims[2], f"{pair}, {side}", found, right >= RIGHT * total)
    for cases, sides in product["choice"]["held_out"].items():
        (right, number), (of_source, others) = sides[SITE], sides[NO_ADAPTER]
        share = percent((right + of_source) / (number + others))
        found = (
            f"{share}: {right} of {number} of the target, {of_source} of {others} of the source, "
            "counted once per draw"
        )
        is_met = right + of_source >= RIGHT * (number + others)
        yield Target(aims[2], f"{pair}, {counted(int(cases), 'case')}, all draws", found, is_met)
    prepared, trained = (product["seconds"][key] / 60 for key in ("prepare", "train"))
    minutes = prepared + trained
    found = (
        f"{minutes:.1f} minutes: {prepared:.1f} to prepare, {trained:.1f} to train and to validate "
        "on both sides"
    )
    yield Target(aims[3], where, found, minutes <= MINUTES)


def ways_to_choose(product: Mapping[str, Any]) -> tuple[list[int], list[list[str]]]:
    """Return numbers of cases, and per way to choose an adapter how often it was right, as text."""
    tried = product["choice"]["compared"]
    cases = sorted({each["cases"] for each in tried})
    shares: dict[tuple[str, float], dict[int, str]] = {}
    for each in tried:
        both = " / ".join(f"{100 * each['right'][site]:.1f}" for site in (SITE, NO_ADAPTER))
        shares.setdefault((each["stages"], each["noise"]), {})[each["cases"]] = both
    rows = [
        [stages, f"{noise:g}", *(known[k] for k in cases), "yes" if taken else "no"]
        for (stages, noise), known in shares.items()
        for taken in [(stages, noise) == ("all", NOISE)]
    ]
    return cases, rows


def capitalised(sentence: str) -> str:
    """Return a sentence with a large first letter."""
    return sentence[:1].upper() + sentence[1:]


def page(folder: Path = HERE, draw: bool = False) -> str:
    """Return the page of the result files in a folder, and draw its figures there if wanted."""
    known = {pair: {k: adapted(folder, pair, k) for k in CASES[pair]} for pair in PAIRS}
    known = {pair: found for pair, found in known.items() if any(found.values())}
    pairs = []
    for name, by_cases in known.items():
        found = [one for one in by_cases.values() if one is not None]
        measured = {row.method for one in found for row in one.table.rows}
        measured |= {DEFAULT for one in found if one.is_proposed}
        more = {
            "methods": measured,
            "converged": convergence(folder, name),
            "rates": rates(folder, name),
            "untried": [UNTRIED, *(NAMES[method] for method in NAMES if method not in measured)],
        }
        pairs.append({"name": name, "title": PAIRS[name], "found": found, **more})
        for one in found if draw else ():
            points = [
                PlanePoint(NAMES[row.method], row.against[REFERENCE], forgotten(row))
                for row in one.table.rows
            ]
            write_figure(plane(points), folder / one.picture)
    environment = markdown_environment(HERE)
    environment.filters.update(
        difference=difference_text,
        p=p_text,
        capitalised=capitalised,
        percent=percent,
        rate=rate_name,
    )
    own = {"names": NAMES, "finding": finding, "forgotten": forgotten}
    own |= {"counted": counted, "enumerated": enumerated}
    constants = {"REFERENCE": REFERENCE, "RANDOM": RANDOM, "CONTINUED": CONTINUED, "SEARCH": SEARCH}
    constants |= {"SCRATCH": SCRATCH, "MARGIN": MARGIN, "SHARE": SHARE}
    environment.globals.update(own, **constants)
    every = [one for pair in pairs for one in pair["found"]]
    products = {pair: result(folder, f"{pair}-product") for pair in known}
    return environment.get_template("page.md.jinja").render(
        pairs=pairs,
        first=search_is_worth(every) if every else None,
        absent=[title for name, title in PAIRS.items() if name not in known],
        targets=list(targets(known, products)),
        choices={
            PAIRS[pair]: ways_to_choose(product)
            for pair, product in products.items()
            if product is not None
        },
    )


if __name__ == "__main__":
    write_text(HERE.with_suffix(".md"), page(draw=True))
