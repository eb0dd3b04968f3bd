"""Write docs/evidence/results.md and its figure from the result files in this folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib.figure import Figure

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.method_table import MethodTable, markdown, method_tables, run_scores
from nnunet_iac.analysis.scores.wording import difference_text, finding, p_text
from nnunet_iac.analysis.trajectories.similarity import mean_agreement, pairwise_agreement
from nnunet_iac.analysis.vocabulary import STUDY_BASELINES
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, write_figure
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import parameter_free_share
from nnunet_iac.search.space import EDGES

HERE = Path(__file__).parent
SETS = {"hippocampus": "Hippocampus", "acdc": "ACDC, 128 x 128"}
ARMS = {"augmented": "with augmentation", "plain": "finetuned without augmentation"}
MARGIN = 0.005
"""Dice by which a faster search may be worse."""
SEARCHES = ("iac", "paper", "adaptive", "literal")
PRESETS = ("literal", "adaptive", "paper")
BENCHMARKED = {
    "iac": "iac",
    "paper": "lth",
    "adaptive": "adaptive",
    "literal": "literal",
    "swift": "swift",
}
"""The searches that were timed, and what their result file calls them."""
COLOURS = {
    "iac": INK,
    "paper": "#0072b2",
    "adaptive": "#009e73",
    "literal": "#d55e00",
    "swift": "#cc79a7",
}
TRIED = {
    "literal-zero": "a residual start (`residual=zero`)",
    "literal-zero-norms": "a residual start, and tuned norms (`trainable_part=cells+norms`)",
    "literal-zero-wide": "a residual start, and wider cells (`channel_ratio=1`, `min_channels=32`)",
    "literal-zero-slow": "a residual start, and the default learning rate (`finetune_lr=1e-3`)",
    "literal-zero-sgd": "a residual start, and nnU-Net's SGD (`finetune_optimizer=sgd`)",
    "literal-zero-long": "a residual start, and twice the finetuning (495 batches in all)",
    "random-zero": "a residual start of a random cell (`genotype=random:SEED`)",
}
"""What was tried to reach the Dice of the continued backbone."""
LONGER = ("literal-zero-long",)
"""Methods with more batches than the others, which are in no table with them."""


def result(name: str) -> dict[str, Any] | None:
    """Return a result file, or None where it has not been measured."""
    path = HERE / f"{name}.json"
    return read_json(path) if path.is_file() else None


def runs_of(measured: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """Return a method's runs."""
    return [run for run in measured["runs"] if run["method"] == method]


def cells_of(measured: Mapping[str, Any], method: str) -> list[Genotype]:
    """Return the cells that a method found, one per seed."""
    return [Genotype.from_document(run["genotype"]) for run in runs_of(measured, method)]


def compared(measured: Mapping[str, Any], a: str, b: str) -> PairedComparison:
    """Return method B against A by patient, the mean over seeds."""
    sides = [scores(runs_of(measured, name), name) for name in (a, b)]
    pattern = measured["runs"][0]["patient_pattern"] or ".*"
    return compare_scores(*sides, patient_pattern=pattern, margin=MARGIN)


def scores(runs: Sequence[Mapping[str, Any]], label: str) -> CaseScores:
    """Return the scores of runs as comparisons take them, the mean over runs."""
    return pooled([run_scores(run, "dice") for run in runs], label)


def by_seed(measured: Mapping[str, Any], a: str, b: str) -> list[float]:
    """Return method B's mean Dice minus A's, for every seed."""
    dice = [[fmean(run["dice"].values()) for run in runs_of(measured, name)] for name in (a, b)]
    return [second - first for first, second in zip(*dice, strict=True)]


def searches(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per search: what it took, and how far its cells agree over seeds."""
    table = choice_table(measured)
    rows = []
    for name in SEARCHES:
        runs, cells = runs_of(measured, name), cells_of(measured, name)
        same = mean_agreement(cells)
        rows.append(
            {
                "name": name,
                "epochs": fmean(run["search_epochs"] for run in runs),
                "seconds": median(run["search_seconds"] for run in runs),
                "finetuned": fmean(run["epochs"] - run["search_epochs"] for run in runs),
                "agreement": same.mean,
                "chance": same.expected,
                "deviation": same.deviation,
                "free": fmean(parameter_free_share(cell) for cell in cells),
                "dice": table.row(name).dice,
                "against": table.row(name).against["random"],
            }
        )
    return rows


def beyond() -> dict[str, Any] | None:
    """Return a row for every search, score and start of the study of what goes beyond the paper.

    The p values of all their comparisons are adjusted together.
    """
    measured = result("beyond-hippocampus")
    if measured is None:
        return None
    table = method_tables(measured, margin=MARGIN)[0]
    full = table.row("iac").search_epochs
    controls = {row.epochs: row.method for row in table.rows if row.method.startswith("random")}
    rows = []
    for row in table.rows:
        same = mean_agreement(cells_of(measured, row.method))
        runs = runs_of(measured, row.method)
        control = controls[min(length for length in controls if length >= row.epochs)]
        own = row.method == control
        rows.append(
            {
                "name": row.method,
                "epochs": row.search_epochs,
                "faster": full / row.search_epochs if row.search_epochs else None,
                "minutes": median(run["search_seconds"] for run in runs) / 60,
                "all": row.epochs,
                "agreement": same.mean,
                "chance": same.expected,
                "deviation": same.deviation,
                "dice": row.dice,
                "spread": row.spread,
                "full": None if row.method == "iac" else compared(measured, "iac", row.method),
                "control": control,
                "random": None if own else compared(measured, control, row.method),
                "forced": forced(measured, row.method)["edges"],
                "edges": len(EDGES) * row.runs,
            }
        )
    against = [row[key] for row in rows for key in ("full", "random") if row[key] is not None]
    family = iter(adjusted(against))
    for row in rows:
        row |= {key: next(family) for key in ("full", "random") if row[key] is not None}
    by_name = {row["name"]: row for row in rows}
    return {"table": table, "rows": rows, "by_name": by_name, "measured": measured}


def forced(measured: Mapping[str, Any], method: str) -> dict[str, int]:
    """Return how many searches of a method ran into their limit, and how many edges it decided."""
    events = [[e.split() for e in run["events"]] for run in runs_of(measured, method)]
    edges = [{edge for _, edge, _, rule in run if rule == "forced"} for run in events]
    return {"runs": sum(map(bool, edges)), "edges": sum(map(len, edges))}


def interval(measured: Mapping[str, Any], method: str) -> float:
    """Return the mean epochs between two prunes of an edge, without those a limit forced."""
    found = []
    for run in runs_of(measured, method):
        epochs: dict[str, set[int]] = {}
        for epoch, edge, _, rule in map(str.split, run["events"]):
            if rule != "forced":
                epochs.setdefault(edge, {run["settings"]["warmup_epochs"]}).add(int(epoch))
        for pruned in map(sorted, epochs.values()):
            found += [later - earlier for earlier, later in pairwise(pruned)]
    return fmean(found)


def same_choices(measured: Mapping[str, Any], a: str, b: str) -> tuple[float, float]:
    """Return which share of their choices cells of two methods have in common.

    Returns:
        With the same seed, and with another.
    """
    first, second = cells_of(measured, a), cells_of(measured, b)
    seeds = range(len(first))
    same = [float(pairwise_agreement([first[i], second[i]])[0, 1]) for i in seeds]
    other = [
        float(pairwise_agreement([first[i], second[j]])[0, 1]) for i, j in permutations(seeds, 2)
    ]
    return fmean(same), fmean(other)


def chosen(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that the evidence asks for, with the comparisons that decide.

    A residual start, and SGD, where it is better, their p values adjusted together; of the presets
    the one with the fewest epochs that is not inferior to the best by `MARGIN`.
    """
    residual, optimiser = adjusted(
        [
            compared(measured, "literal", "literal-zero"),
            compared(measured, "literal-zero", "literal-zero-sgd"),
        ]
    )
    suffix = "-zero" if residual.verdict == "better" else ""
    dice = {name: method_dice(measured, name + suffix) for name in PRESETS}
    best = max(dice, key=dice.__getitem__)
    against = {
        name: compared(measured, best + suffix, name + suffix) for name in PRESETS if name != best
    }
    good = [best, *(n for n, c in against.items() if c.not_inferior)]
    epochs = {n: fmean(r["search_epochs"] for r in runs_of(measured, n + suffix)) for n in good}
    return {
        "residual": "zero" if suffix else "none",
        "residual_by": residual,
        "optimiser": "sgd" if optimiser.verdict == "better" else "adam",
        "optimiser_by": optimiser,
        "preset": min(epochs, key=epochs.__getitem__),
        "best": best,
        "preset_by": against,
    }


def method_dice(measured: Mapping[str, Any], method: str) -> float:
    """Return a method's mean Dice."""
    return compared(measured, method, method).mean_a


def tried(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was tried, each against the continued backbone and against `residual=none`."""
    names = {"literal": "in place of the skip, as printed (`residual=none`)", **TRIED}
    return [
        {
            "said": said,
            "dice": method_dice(measured, name),
            "continued": compared(measured, "continued", name),
            "plain": None if name == "literal" else compared(measured, "literal", name),
        }
        for name, said in names.items()
        if runs_of(measured, name)
    ]


def quality() -> list[dict[str, Any]]:
    """Return every data set and arm that was measured, with its table."""
    found = []
    for key, title in SETS.items():
        for arm, said in ARMS.items():
            measured = result(f"quality-{key}-{arm}")
            if measured is None:
                continue
            table = method_tables(measured, margin=MARGIN)[0]
            found.append(
                {
                    "title": f"{title}, {said}",
                    "table": table,
                    "measured": measured,
                    "lth": compared(measured, "iac", "iac-lth"),
                    "continued": table.row("iac-lth").against["continued"],
                    "faster": table.row("iac").search_epochs / table.row("iac-lth").search_epochs,
                    "whole": table.row("iac").epochs / table.row("iac-lth").epochs,
                    "mirrored": mirrored(measured),
                }
            )
    return found


def mirrored(measured: Mapping[str, Any]) -> float:
    """Return the mean Dice of the backbone's own validation, which mirrors."""
    (reference,) = runs_of(measured, "reference")
    own = scores([reference], "reference")
    pattern = measured["runs"][1]["patient_pattern"] or ".*"
    return compare_scores(own, own, patient_pattern=pattern).mean_a


def choice_table(measured: Mapping[str, Any]) -> MethodTable:
    """Return the table of all methods on the cases for choices: its p values are one family."""
    return method_tables(measured, ("continued", "random", "random-zero"), MARGIN)[0]


def part(whole: MethodTable, zero: bool) -> MethodTable:
    """Return the rows of the methods of one start, beside the random cell of that start."""
    methods = [row.method for row in whole.rows if row.method not in LONGER]
    shown = [m for m in methods if m == "continued" or ("-zero" in m) == zero]
    random = "random-zero" if zero else "random"
    rows = tuple(whole.row(method) for method in shown)
    return replace(whole, rows=rows, baselines=("reference", "continued", random))


def closest(measured: Mapping[str, Any]) -> str:
    """Return what came closest to the continued backbone, of equal length and of any."""
    known = [name for name in TRIED if runs_of(measured, name)]
    equal = _closest(measured, [name for name in known if name not in LONGER])
    longer = _closest(measured, known)
    said = f"The closest of equal length is {equal}."
    return said if longer == equal else f"{said} The closest of all is {longer}."


def _closest(measured: Mapping[str, Any], names: Sequence[str]) -> str:
    name = max(names, key=lambda name: method_dice(measured, name))
    added = method_tables(measured)[0].row(name)
    return (
        f"{TRIED[name]}: {difference_text(compared(measured, 'continued', name))}, with "
        f"{added.parameters:+.0%} parameters and {added.macs:+.0%} MACs"
    )


def seconds_figure(timed: Mapping[str, Any]) -> Figure:
    """Return seconds per epoch over the epochs of searches of full length.

    Args:
        timed: what `nnunet-iac benchmark search` wrote.
    """
    figure = Figure(figsize=(6.4, 3.0), dpi=160, facecolor=PAPER, layout="constrained")
    axes = figure.subplots()
    for name, key in BENCHMARKED.items():
        seconds = timed["searches"][key]["epoch_s"]
        axes.plot(range(1, len(seconds) + 1), seconds, color=COLOURS[name], lw=1.4, label=name)
    axes.set_ylim(0)
    axes.set_xlabel("epoch of the search", color=MUTED)
    axes.set_title("seconds per epoch of two batches", loc="left", color=MUTED, size=10)
    axes.tick_params(colors=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=MUTED, alpha=0.25, lw=0.6)
    axes.legend(frameon=False, labelcolor=INK, loc="lower right", ncols=len(BENCHMARKED))
    return figure


def timed() -> dict[str, Any]:
    """Return the searches of full length that were timed alone on their machine."""
    found: dict[str, Any] = read_json(HERE.parent / "performance" / "search.json")
    return found


def whole_runs() -> dict[str, float]:
    """Return by preset how many times as long a whole run with the full search takes."""
    measured = read_json(HERE.parent / "performance" / "run.json")
    found: dict[str, float] = measured["end_to_end_speedup"]
    return found


def seeds_text(differences: list[float]) -> str:
    """Return differences, one per seed, as text."""
    return ", ".join(f"{difference:+.4f}" for difference in differences)


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters.update(
        difference=difference_text, p=p_text, table=markdown, seeds=seeds_text
    )
    choice, further, sets = result("choice-hippocampus"), beyond(), quality()
    assert choice is not None
    whole = choice_table(choice)
    return environment.get_template("page.md.jinja").render(
        choice=choice,
        choice_table=whole,
        searches=searches(choice),
        timed=timed(),
        whole=whole_runs(),
        benchmarked=BENCHMARKED,
        forced=forced(choice, "adaptive"),
        by_seed=by_seed(choice, "random-zero", "literal-zero"),
        interval=interval(choice, "adaptive"),
        common=same_choices(choice, "adaptive", "paper"),
        adaptive=compared(choice, "paper", "adaptive"),
        adaptive_by_seed=by_seed(choice, "paper", "adaptive"),
        adaptive_zero=compared(choice, "paper-zero", "adaptive-zero"),
        adaptive_zero_by_seed=by_seed(choice, "paper-zero", "adaptive-zero"),
        printed=part(whole, zero=False),
        started=part(whole, zero=True),
        tried_closest=closest(choice),
        chosen=chosen(choice),
        tried=tried(choice),
        quality=sets,
        beyond=further,
        studies=[
            choice,
            *(set["measured"] for set in sets),
            *([further["measured"]] if further else []),
        ],
        margin=MARGIN,
        found=finding,
        better={
            control: sum(
                set["table"].row(search).against[control].verdict == "better"
                for set in sets
                for search in ("iac-lth", "iac")
            )
            for control in ("random", "continued")
        },
        default_finding=finding(
            whole.row("literal-zero").against["random-zero"], STUDY_BASELINES["random"]
        ),
        finding=lambda table, method, baseline="random": finding(
            table.row(method).against[baseline], STUDY_BASELINES[baseline]
        ),
    )


def main() -> None:
    """Write page and figure."""
    write_text(HERE.parent / "results.md", page())
    write_figure(seconds_figure(timed()), HERE / "seconds.png")


if __name__ == "__main__":
    main()
