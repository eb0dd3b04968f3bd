"""Write docs/evidence/adaptation.md and its figures from the result files in adaptation/."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.report.plane import PlanePoint, plane
from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison
from nnunet_iac.analysis.scores.convergence import Convergence, convergences
from nnunet_iac.analysis.scores.forgetting import forward_transfer
from nnunet_iac.analysis.scores.method_table import MethodTable, Row, method_tables
from nnunet_iac.analysis.scores.wording import difference_text, finding, p_text
from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.drawing.figure_files import write_figure
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.runs.scores import mean_of_present

HERE = Path(__file__).parent
CASES = (1, 3, 5, 10)
PAIRS = {
    "heart": "Cine MRI of the heart: ACDC to another site and sequence",
    "hippocampus-mild": "Hippocampus: a simulated change of the scanner",
    "hippocampus": "Hippocampus: a strong simulated change of the scanner",
}
DEFAULT = "iac-lth"
"""What `nnunet-iac adapt` proposes."""

CONTROLS = ("continued", "decoder", "l2-sp", "rehearsal", "norms")
"""Methods that train the network itself."""

NAMES = {
    "continued": "continued, all weights",
    "decoder": "continued, decoder",
    "l2-sp": "continued with L2-SP",
    "rehearsal": "continued with rehearsal of 10 source cases",
    "norms": "continued, norms of the decoder",
    "random": "cells: random",
    "random-norms": "cells: random, and norms",
    "random-wide": "cells: random, wide",
    "random-ema": "cells: random, averaged weights (EMA)",
    "iac-lth": "cells: searched (IAC-LTH)",
    "transferred": "cells: searched on the source",
    "convolution": "convolutions of equal parameters",
    "attention": "attention gates",
}
MARGIN = 0.005


@dataclass(frozen=True)
class Adapted:
    """What was measured of one number of cases; `picture` is the name of its figure."""

    cases: int
    picture: str
    table: MethodTable
    draws: Mapping[str, float]
    control: Row
    against_control: PairedComparison
    transfer: PairedComparison | None

    @property
    def default(self) -> Row:
        """The row of the default method."""
        return self.table.row(DEFAULT)

    @property
    def forgotten_share(self) -> float:
        """The default's forgetting as a share of the best control's."""
        return forgotten(self.default) / forgotten(self.control)


def result(name: str) -> dict[str, Any] | None:
    """Return a result file, or None where it has not been measured."""
    path = HERE / f"{name}.json"
    return read_json(path) if path.is_file() else None


def forgotten(row: Row) -> float:
    """Return a method's change of Dice on the source."""
    assert row.forgetting is not None
    return row.forgetting.difference


def runs_of(measured: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """Return a method's runs."""
    return [run for run in measured["runs"] if run["method"] == method]


def adapted(pair: str, cases: int) -> Adapted | None:
    """Return what was measured of one number of cases, or None."""
    measured, scratch = result(f"{pair}-k{cases}"), result(f"{pair}-k{cases}-scratch")
    if measured is None:
        return None
    (table,) = method_tables(measured, ("continued", "random"), MARGIN)
    control = max((table.row(name) for name in CONTROLS), key=lambda row: row.dice)
    (again,) = method_tables(measured, (control.method,), MARGIN)
    draws = {
        name: stdev(mean_of_present(run["dice"].values()) for run in runs_of(measured, name))
        for name in measured["methods"]
    }
    transfer = None
    if scratch is not None:
        pairs = (runs_of(scratch, REFERENCE), "from scratch"), (runs_of(measured, DEFAULT), DEFAULT)
        sides = [
            pooled([CaseScores.of_dice(run["dice"], name) for run in runs], name)
            for runs, name in pairs
        ]
        transfer = forward_transfer(*sides, pattern=".*", margin=MARGIN)
    against = again.row(DEFAULT).against[control.method]
    return Adapted(cases, f"{pair}-k{cases}.png", table, draws, control, against, transfer)


def rates(pair: str) -> list[Row]:
    """Return what every rate and weight that was tried is worth, the mean over draws."""
    measured = result(f"{pair}-rates")
    return [] if measured is None else list(method_tables(measured, (), MARGIN)[0].rows)


def convergence(pair: str) -> list[Convergence]:
    """Return whether the source has converged."""
    measured = result(f"{pair.removesuffix('-mild')}-source")
    return [] if measured is None else convergences(measured)


def page() -> str:
    """Return the page, and write its figures."""
    pairs = []
    for name, title in PAIRS.items():
        found = [one for one in (adapted(name, cases) for cases in CASES) if one is not None]
        if found:
            known = {"found": found, "converged": convergence(name), "rates": rates(name)}
            pairs.append({"name": name, "title": title, **known})
        for one in found:
            points = [
                PlanePoint(NAMES[row.method], row.against[REFERENCE], row.forgetting)
                for row in one.table.rows
                if row.forgetting is not None
            ]
            write_figure(plane(points), HERE / one.picture)
    environment = markdown_environment(HERE)
    environment.filters.update(difference=difference_text, p=p_text)
    own = {"names": NAMES, "finding": finding, "forgotten": forgotten, "reference": REFERENCE}
    environment.globals.update(own)
    template = environment.get_template("page.md.jinja")
    return template.render(pairs=pairs, product=result("product"), margin=MARGIN)


if __name__ == "__main__":
    write_text(HERE.with_suffix(".md"), page())
