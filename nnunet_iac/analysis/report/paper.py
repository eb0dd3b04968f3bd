"""The paper's tables 1 to 5 and figures 2 to 7, of the runs at hand.

Source: arXiv 2604.14849. A backbone is the trainer and plans that made it; where
the paper pools over backbones or data sets, so do we, and a cell without runs stays empty.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from nnunet_iac.analysis.report.evaluation import GroupComparison, speed_up
from nnunet_iac.analysis.report.page import Table, markdown_environment, write_csv
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.statistics import fisher_combination
from nnunet_iac.analysis.scores.wording import (
    counted,
    difference_text,
    errors_text,
    floating,
    p_text,
    tabular,
)
from nnunet_iac.analysis.trajectories import figures as drawn
from nnunet_iac.analysis.trajectories.similarity_figures import similarity_figure
from nnunet_iac.drawing.cell_picture import cell_figure
from nnunet_iac.drawing.figure_files import write_figure
from nnunet_iac.runs.atomic import write_text

FULL, ACCELERATED = "IAC", "IAC-LTH"
PAPER_DPI = 300
NO_AUGMENTATION = "NoDA"
"""Part of the names of trainers without augmentation."""

COMPARED = (
    ("Ref to IAC", FULL, "reference"),
    ("Ref to LTH", ACCELERATED, "reference"),
    ("IAC to LTH", ACCELERATED, "full search"),
)
"""The paper's three comparisons: whose cells, against what."""


FIGURES: dict[int, tuple[str, Callable[[Sequence[Run]], Figure]]] = {
    2: ("The found cell of the first run", lambda runs: _first_cell(runs)),
    3: (
        "Share of every operation in its edge's importance over the search",
        lambda runs: drawn.importance_figure(runs[0]),
    ),
    4: (
        "Cosine and Hamming similarity of the cells of the reported epochs",
        similarity_figure,
    ),
    5: ("Cosine of every epoch's importances to the final ones", drawn.convergence_figure),
    6: ("Epochs at which final operations and final edges first emerged", drawn.emergence_figure),
    7: ("Epochs at which each edge's final operation first came first", drawn.difficulty_figure),
}
"""Caption and drawing of the paper's figures, by their numbers there."""


def write_paper(runs: Sequence[Run], made: Sequence[GroupComparison], folder: Path) -> list[Path]:
    """Write tables, figures (of the full searches, else the accelerated ones) and `paper.md`."""
    written = tables(runs, made)
    paths = [write_csv(table, folder) for table in written]
    for table in written:
        paths.append(folder / f"{table.name}.tex")
        write_text(paths[-1], latex_table(table))
    searched = searches(runs)
    of = counted(len(searched), f"{searched[0].method} run") if searched else "no searches"
    shown: list[tuple[int, str]] = []
    for number, (caption, draw) in FIGURES.items() if searched else ():
        figure = draw(searched)
        for suffix in (".png", ".svg"):
            paths.append(folder / f"figure{number}{suffix}")
            write_figure(figure, paths[-1], PAPER_DPI)
        shown.append((number, caption))
    page = markdown_environment().get_template("paper.md.j2")
    paths.append(folder / "paper.md")
    write_text(paths[-1], page.render(tables=written, figures=shown, of=of))
    return paths


def searches(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the ended searches that the figures show: the full ones, or the accelerated."""
    full, accelerated = (
        tuple(run for run in runs if run.method == method and run.genotype is not None)
        for method in (FULL, ACCELERATED)
    )
    return full or accelerated


def tables(runs: Sequence[Run], made: Sequence[GroupComparison]) -> tuple[Table, ...]:
    """Return the paper's five tables; of those without rows the head alone."""
    plain = [one for one in made if NO_AUGMENTATION in one.group.runs[0].trainer]
    augmented = [one for one in made if NO_AUGMENTATION not in one.group.runs[0].trainer]
    return (
        _combined(made),
        _compared("table2", "without augmentation", plain),
        _compared("table3", "with augmentation", augmented),
        _times("table4", "by backbone", runs, by_backbone=True),
        _times("table5", "by data set and augmentation", runs, by_backbone=False),
    )


def latex_table(table: Table) -> str:
    """Return a table as LaTeX; it needs the package booktabs."""
    return floating(table.caption, tabular(table.head, table.rows))


def _combined(made: Sequence[GroupComparison]) -> Table:
    """Return table 1: per data set and comparison, pooled over backbones by Fisher's method."""
    rows = []
    for place in dict.fromkeys(map(_place, made)):
        for name, method, kind in COMPARED:
            chosen = [one for one in _chosen(made, method, kind) if _place(one) == place]
            if not chosen:
                continue
            paired = [one.paired for one in chosen]
            backbones = {one.group.runs[0].backbone.before for one in chosen}
            differences = [c.difference for c in paired]
            p_values = [c.p for c in paired if c.p is not None]
            mean = f"{fmean(differences):+.3f}"
            span = f"{min(differences):+.3f} to {max(differences):+.3f}"
            apart = p_values and len(backbones) == len(chosen)
            p = p_text(fisher_combination(p_values) if apart else None)
            rows.append((*place, name, str(len(backbones)), mean, span, p))
    head = ("data set", "configuration", "comparison", "backbones", "mean difference")
    return Table(
        "table1",
        "Mean difference of Dice over backbones, and Fisher's combination of their Wilcoxon tests. "
        "The tests share their patients, so the combined p is too small; there is none where one "
        "backbone has several groups, such as other settings.",
        (*head, "least to largest", "p, Fisher"),
        tuple(rows),
    )


def _compared(name: str, how: str, made: Sequence[GroupComparison]) -> Table:
    """Return table 2 or 3: every comparison by itself."""
    rows = []
    for comparison, method, kind in COMPARED:
        for one in _chosen(made, method, kind):
            c, backbone = one.paired, one.group.runs[0].backbone.trainer
            scores = (str(c.patients), f"{c.mean_a:.4f}", f"{c.mean_b:.4f}", difference_text(c))
            row = (backbone, comparison, *scores, p_text(c.p), p_text(c.p_holm), *errors_text(c))
            rows.append((*_place(one), *row))
    head = ("data set", "configuration", "backbone", "comparison", "patients")
    return Table(
        name,
        f"Patient-level Dice {how}: before, after, difference with its 95 % bootstrap interval, "
        "two-sided Wilcoxon test alone and adjusted after Holm over all comparisons of the report.",
        (*head, "A", "B", "B - A", "p", "p, Holm", "false positives", "misses"),
        tuple(rows),
    )


def _times(name: str, how: str, runs: Sequence[Run], by_backbone: bool) -> Table:
    """Return table 4 or 5: minutes and epochs of both searches, and the speed-ups."""

    def key(run: Run) -> tuple[str, str, str]:
        bare = NO_AUGMENTATION in run.trainer
        distinguished = run.backbone.trainer if by_backbone else "no" if bare else "yes"
        return run.dataset, run.configuration, distinguished

    searched = [run for run in runs if run.genotype and run.method in (FULL, ACCELERATED)]
    rows = []
    for at in dict.fromkeys(key(run) for run in searched):
        cells: list[str] = []
        for method in (FULL, ACCELERATED):
            own = [run for run in searched if key(run) == at and run.method == method]
            minutes = fmean(run.search_seconds for run in own) / 60 if own else 0
            epochs = fmean(run.search_epochs for run in own) if own else 0
            cells += [f"{minutes:.1f}", f"{epochs:.0f}"] if own else ["", ""]
        for whole in (False, True):
            own = [run for run in searched if key(run) == at]
            factors = [f for run in own if (f := speed_up(run, searched, whole))]
            cells.append(f"{fmean(factors):.1f}" if factors else "")
        rows.append((*at, *cells))
    head = ("data set", "configuration", "backbone" if by_backbone else "augmentation")
    return Table(
        name,
        f"Cost of the searches {how}: mean minutes and epochs of a search, warm-up and validation "
        "included, and how many times faster the accelerated one is than the full one of its fold, "
        "alone and with the finetuning.",
        (*head, "IAC min", "IAC epochs", "LTH min", "LTH epochs", "speed-up", "of whole runs"),
        tuple(rows),
    )


def _chosen(made: Sequence[GroupComparison], method: str, kind: str) -> list[GroupComparison]:
    return [one for one in made if one.group.method == method and one.against.kind == kind]


def _place(one: GroupComparison) -> tuple[str, str]:
    run = one.group.runs[0]
    return run.dataset, run.configuration


def _first_cell(runs: Sequence[Run]) -> Figure:
    genotype = runs[0].genotype
    assert genotype is not None
    return cell_figure(genotype, runs[0].settings.cell.output_nodes)
