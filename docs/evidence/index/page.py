"""Write docs/evidence/index.md and the numbers in README.md from the result files of evidence.

python docs/evidence/index/page.py
"""

import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_iac.analysis.report.page import commit_text, markdown_environment
from nnunet_iac.analysis.scores.convergence import CONVERGED
from nnunet_iac.analysis.scores.wording import counted, enumerated, finding
from nnunet_iac.analysis.vocabulary import REFERENCE, STUDY_BASELINES
from nnunet_iac.host.planning import CONTINUE_TRAINER
from nnunet_iac.runs.atomic import read_json, write_text
from nnunet_iac.search.setting_parts import BACKBONE_PARTS
from nnunet_iac.search.settings import Settings

HERE = Path(__file__).parent
EVIDENCE = HERE.parent
README = HERE.parents[2] / "README.md"
BEGIN = "<!-- Numbers: written by `python docs/evidence/index/page.py` -->"
END = "<!-- End of numbers -->"
WORTH = (
    ("random", "random cells", {REFERENCE: "the backbone"}),
    ("iac-lth", "searched cells", {REFERENCE: "the backbone", **STUDY_BASELINES}),
    *(
        (f"random-{part}", what, {"random": "the mean random cell"})
        for part, what in {
            "decoder": "random cells and the decoder",
            "all": "random cells and the whole network",
            "wide": "wide random cells",
            "alone": "random cells in place of the skip",
            "ema": "random cells with averaged weights (EMA)",
        }.items()
    ),
)
"""Methods, what they are called, and what each is compared with."""
TIMED = {"iac-lth": "searched cells (IAC-LTH)", "iac": "searched cells (IAC)"}
"""Searches that are compared at equal wall time, and what they are called."""
CONTROLS = {"random": "random cells", "continued": "the continued backbone"}
CHOICE = {True: "can matter", False: "did not matter", None: "may or may not matter"}
"""By `Measured.matters` of the page on searches."""


@dataclass(frozen=True)
class Claim:
    """A claim with its number and where it was measured.

    Args:
        claim: a sentence without the number.
        number: what was measured, with its unit, interval and n where it has them.
        page: the page with details, without `.md`.
        measured: documents with `date` and `commit`, of which the number was made.
        headline: the claim in the README's table of numbers; None where it is not there.
    """

    claim: str
    number: str
    page: str
    measured: Sequence[Mapping[str, Any]]
    headline: str | None = None

    @property
    def date(self) -> str:
        """The last date of measuring; none where it is not known."""
        return max((each["date"] for each in self.measured if each.get("date")), default="–")

    @property
    def commits(self) -> str:
        """The commits of the code that was measured."""
        found = dict.fromkeys(each.get("commit") for each in self.measured)
        return ", ".join(f"`{commit_text(commit)}`" for commit in found if commit) or "–"


def result(name: str) -> Any:
    """Return a result file, by its path without suffix."""
    return read_json(EVIDENCE / f"{name}.json")


def studies(pattern: str) -> list[Any]:
    """Return the result files of studies, in the order of their names."""
    found = (read_json(path) for path in sorted(EVIDENCE.glob(pattern)))
    return [each for each in found if "runs" in each]


@cache
def search_page() -> Mapping[str, Any]:
    """Return what the script of the page on searches defines."""
    return runpy.run_path(str(EVIDENCE / "search" / "page.py"))


@cache
def measured_searches() -> list[Any]:
    """Return what the page on searches shows of every data set."""
    found: list[Any] = search_page()["measured"]()
    return found


def trained(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the runs of a study but the backbones, which have no record."""
    return [run for run in study["runs"] if "commit" in run]


def all_runs() -> list[Mapping[str, Any]]:
    """Return the runs of all studies but the backbones."""
    return [run for study in studies("*/*.json") for run in trained(study)]


def is_frozen(run: Mapping[str, Any]) -> bool:
    """Return whether a run is a retrofit that trains nothing of its backbone."""
    part = run["settings"].get("trainable_part") or "cells"
    return not run["trainer"].startswith(CONTINUE_TRAINER) and BACKBONE_PARTS[part] == "none"


def claims() -> Iterator[Claim]:
    """Yield all claims, those on what the method is worth first."""
    yield from search_claims()
    yield from adaptation_claims()
    yield from adapter_claims()
    yield from export_claims()
    yield from cost_claims()
    yield from reliability_claims()
    yield from width_claims()


def search_claims() -> Iterator[Claim]:
    """Yield what cells and searches are worth on networks that have converged."""
    for one in measured_searches():
        network = "a converged network" if one.has_converged else "a network"
        where = f"on {network} ({one.title})"
        methods = () if one.table is None else [row.method for row in one.table.rows]
        for method, what, baselines in WORTH:
            if method not in methods:
                continue
            row, claim = one.table.row(method), f"Dice of {what} {where}"
            for control, name in baselines.items():
                if (against := row.against.get(control)) is not None:
                    runs = [run for m in (method, control) for run in one.runs_at_equal_batches(m)]
                    number = f"{row.dice:.4f}, {finding(against, name)}"
                    headline = claim if (method, control) == ("random", REFERENCE) else None
                    yield Claim(claim, number, "search", runs, headline)
        for each in one.at_equal_time:
            if each.method in TIMED:
                kind = each.control.partition("-")[0]
                control = f"{CONTROLS[kind]} of {each.control_minutes:.1f} minutes"
                claim = f"Dice of {TIMED[each.method]} at equal wall time, {where}"
                number = f"{each.minutes:.1f} minutes: {finding(each.against, control)}"
                tried = one.runs_at_equal_batches(each.method)
                yield Claim(claim, number, "search", tried)
        if (found := one.ceiling) is not None:
            claim = f"standard deviation of the Dice between cells, {where}"
            yield Claim(claim, spread_text(found), "search", one.runs_of("genotypes"))
        if (enough := one.enough) is not None:
            claim = f"shortest finetuning of a random cell not inferior to the longest, {where}"
            longest = one.lengths[-1].batches
            number = f"{enough.batches} batches: {finding(enough.against, f'{longest} batches')}"
            runs = [*one.runs_of("time"), *one.runs_of("methods")]
            yield Claim(claim, number, "search", runs)
        elif one.lengths:
            longest = one.lengths[-1]
            claim = f"Dice of random cells after the longest finetuning that was tried, {where}"
            against = finding(longest.row.against[REFERENCE], "the backbone")
            number = f"{longest.row.dice:.4f} after {longest.batches:,} batches, {against}"
            tried = [*one.runs_of("methods"), *one.runs_of("time")]
            runs = [run for run in tried if run["method"] == longest.row.method]
            yield Claim(claim, number, "search", runs)
        if (cheapest := one.cheapest) is not None:
            margin, name = search_page()["MARGIN"], search_page()["NAMES"][cheapest.row.method]
            claim = (
                f"retrofit of the fewest MACs shown not inferior to the best by {margin}, {where}"
            )
            number = f"{name}, {100 * cheapest.row.macs:+.1f} % MACs"
            yield Claim(claim, number, "search", one.runs_at_equal_batches(cheapest.row.method))
        if tried := one.runs_of("halving"):
            row = one.table.row("halving")
            number = f"{row.dice:.4f}, {finding(row.against['random'], 'the mean random cell')}"
            yield Claim(f"Dice of direct evaluation of 16 cells {where}", number, "search", tried)
        for row in () if one.papers is None else one.papers.rows:
            claim = (
                f"Dice of {search_page()['NAMES'][row.method]}, the paper's protocol ({one.title})"
            )
            number = f"{row.dice:.4f}, {finding(row.against[REFERENCE], 'the backbone')}"
            tried = [run for run in one.runs_of("paper") if run["method"] == row.method]
            yield Claim(claim, number, "search", tried)
        for each in one.converged:
            claim = f"Dice of a backbone after twice the training ({one.title})"
            number = f"{each.longer.mean_b:.4f}, {finding(each.longer, 'half of it')}"
            yield Claim(claim, number, "search", one.studies["converged"]["runs"])


TARGETS = {"heart": "of another site", "hippocampus": "of a simulated other scanner"}
"""Pairs of the study of adaptation and what their targets are, the real one first."""


def adaptation_claims() -> Iterator[Claim]:
    """Yield what adapting a model to few cases is worth, of each pair that was measured."""
    page = runpy.run_path(str(EVIDENCE / "adaptation" / "page.py"))
    numbers = [(pair, k) for pair in TARGETS for k in page["CASES"][pair]]
    tables = {at: page["adapted"](EVIDENCE / "adaptation", *at) for at in numbers}
    for (pair, k), found in tables.items():
        if found is None:
            continue
        study, table = result(f"adaptation/{pair}-k{k}"), found.table
        cases, is_real = counted(k, "case"), pair == next(iter(TARGETS))
        cells, continued = found.default, table.row("continued")
        which = "random cells" if found.is_proposed else f"random cells at a rate of {found.rate:g}"
        against, kept, lost = cells.against["continued"], cells.forgetting, continued.forgetting
        assert against is not None
        assert kept is not None
        assert lost is not None
        yield Claim(
            f"Dice after adapting a model to {cases} {TARGETS[pair]} ({pair}, {which})",
            f"{cells.dice:.4f}, {finding(cells.against[REFERENCE], 'the model before')}; "
            f"{finding(against, 'the continued backbone')}",
            "adaptation",
            trained(study),
            f"Dice after adapting a model to {cases} {TARGETS[pair]} (random cells)"
            if is_real
            else None,
        )
        yield Claim(
            f"Dice on its own data of the model adapted to {cases} ({pair}, {which})",
            f"{kept.mean_b:.4f}, {kept.mean_a:.4f} with the cells off; the continued backbone "
            f"{lost.mean_b:.4f} (n = {kept.patients})",
            "adaptation",
            trained(study),
            f"Dice on its own data of the model adapted to {cases} (random cells)"
            if is_real
            else None,
        )


def adapter_claims() -> Iterator[Claim]:
    """Yield what a user of an adapter meets, of each pair that was measured."""
    for pair in TARGETS:
        path = EVIDENCE / "adaptation" / f"{pair}-product.json"
        if not path.is_file():
            continue
        product = read_json(path)
        size, model = product["bytes"]["adapter"], product["bytes"]["model"]
        right = [name == site for site, found in product["auto"].items() for name in found.values()]
        same, count = product["off"]["equal"], product["off"]["predictions"]
        numbers = {
            "an adapter as a file, and its share of the model's bytes": (
                f"{size / 1000:.0f} kB, {100 * size / model:.1f} %"
            ),
            "`--adapter auto` takes the adapter of an image's site": (
                f"{sum(right)} of {len(right)} held-out cases of both sites"
            ),
            "`--adapter none` predicts the files that nnU-Net's own command predicts": (
                f"{count if same else 'not all'} of {count}, byte for byte"
            ),
            f"minutes to adapt to {product['cases']} cases, validations included, on two cores": (
                f"{sum(product['seconds'].values()) / 60:.1f}"
            ),
        }
        for claim, number in numbers.items():
            yield Claim(f"{claim} ({pair}, {product['trainer']})", number, "adaptation", [product])


def export_claims() -> Iterator[Claim]:
    """Yield whether exported models are right."""
    exports = result("export/exports")
    cases = [case for model in exports["models"] for case in model["cases"]]
    yield Claim(
        "an ONNX file gives the logits of its network",
        f"largest difference {max(case['difference'] for case in cases):.1e}, n = {len(cases)} "
        "cases",
        "export",
        [exports],
    )


def cost_claims() -> Iterator[Claim]:
    """Yield what runs and cells cost."""
    run, spinning = result("performance/run"), result("performance/run_active_2")
    speedup, whole = run["search_speedup"]["literal"], run["end_to_end_speedup"]["literal"]
    yield Claim(
        "time of the full search over that of the accelerated one (preset `literal`)",
        f"{speedup:.1f}; of whole runs {whole:.1f}",
        "performance",
        [run],
    )
    yield Claim(
        "hours of a retrofit on two CPU cores (Hippocampus, 2-D)",
        f"{run['hours']['discrete']['whole']:.1f} h with a random cell, "
        f"{run['hours']['literal']['whole']:.1f} h with a search (preset `literal`)",
        "performance",
        [run],
    )
    yield Claim(
        "time of a finetuning step over that of a training step of the plain U-Net",
        f"{spinning['finetune_over_plain']:.2f} (median of {run['cells']} cells; "
        f"{run['finetune_over_plain']:.2f} where threads sleep)",
        "performance",
        [spinning, run],
    )
    yield Claim(
        "time of a prediction with cells over that of the backbone alone",
        f"{spinning['inference_over_backbone']:.2f} (median of {run['cells']} cells; "
        f"{run['inference_over_backbone']:.2f} where threads sleep)",
        "performance",
        [spinning, run],
    )
    networks = result("comparison/networks")
    cell, plain = networks["retrofits"]["random cell"], networks["plain"]
    yield Claim(
        "a random cell adds to a 2-D network of full size",
        f"{100 * cell['parameters'] / plain['parameters']:.1f} % parameters, "
        f"{100 * cell['macs'] / plain['macs']:.1f} % MACs (mean of {networks['random_cells']})",
        "comparison",
        [networks],
    )
    memory = result("performance/memory")
    enough = sum(step["estimated_mb"] >= step["peak_mb"] for step in memory["steps"])
    yield Claim(
        "steps that took no more memory than was estimated",
        f"{enough} of {len(memory['steps'])}",
        "performance",
        [memory],
    )


def reliability_claims() -> Iterator[Claim]:
    """Yield what survives, what is refused, and what stays as it was."""
    frozen = [run for run in all_runs() if is_frozen(run)]
    same = sum(bool(run["backbone_unchanged"]) for run in frozen)
    yield Claim(
        "a retrofit leaves its backbone bit-identical",
        f"{same} of {len(frozen)} runs; a study refuses the results of one that does not",
        "index",
        frozen,
        "retrofits that left their backbone bit-identical",
    )
    kills = [read_json(path) for path in sorted(EVIDENCE.glob("reliability/kills_*.json"))]
    rows = [row for each in kills for row in [*each["kills"], *each["outside"]]]
    identical = sum(not row["differs"] for row in rows)
    tests = result("reliability/tests")
    yield Claim(
        "a killed run that is resumed ends as an unbroken one, to the bit",
        f"{identical} of {len(rows)} kills",
        "reliability",
        kills,
    )
    inputs = [
        outcome
        for name, outcome in tests["outcomes"].items()
        if "/test_bad_input.py::" in name and ": " in name
    ]
    yield Claim(
        "a wrong input is refused with a message, without a change on disk",
        f"{inputs.count('passed')} of {len(inputs)} inputs",
        "reliability",
        [tests],
    )


def width_claims() -> Iterator[Claim]:
    """Yield what a width that is picked before training costs."""
    own = runpy.run_path(str(EVIDENCE / "width" / "page.py"))
    benchmark = result("width/benchmark")
    for scores in own["results"]("scores_*.json"):
        default = own["stability"](scores)[-2]
        yield Claim(
            f"repetitions in which the default rule picks the same width ({scores['dataset']})",
            f"{100 * default['share']:.0f} % of {default['total']}",
            "width",
            [scores],
        )
    for each in own["measured"]():
        smallest, best = each.smallest, each.best
        against = "the best itself"
        if smallest.against is not None:
            against = finding(smallest.against, f"a cap of {best.cap}")
        yield Claim(
            f"smallest width not lower than the best by {own['CLOSE']} ({each.dataset})",
            f"a cap of {smallest.cap}, Dice {smallest.dice:.4f}: {against}",
            "width",
            each.references,
        )
        for row in each.beside:
            yield Claim(
                f"Dice of {own['NAMES'][row.method]} on a cap of {row.cap} ({each.dataset})",
                f"{row.dice:.4f}, {finding(row.against, f'a plain cap of {row.wider.cap}')}",
                "width",
                each.cells["runs"],
            )
        for pick in each.picks:
            if pick.against is not None:
                yield Claim(
                    f"Dice of the width picked most often by {pick.names} ({each.dataset})",
                    f"{pick.point.dice:.4f} at a cap of {pick.point.cap}, "
                    f"{finding(pick.against, f'a cap of {each.best.cap}')}",
                    "width",
                    each.references,
                )
    yield Claim(
        f"seconds to score {len(benchmark['caps'])} widths on two CPU cores",
        f"{benchmark['seconds']:.0f} s",
        "width",
        [benchmark],
    )


def box(found: Sequence[Claim]) -> str:
    """Return the numbers of the README, as a table between its marks."""
    rows = [
        f"| {claim.headline} | {claim.number} | [{claim.page}](docs/evidence/{claim.page}.md) |"
        for claim in found
        if claim.headline is not None
    ]
    table = ["| what | number | page |", "|---|---|---|", *rows]
    sentences = " ".join([*on_the_choice_of_cells(), not_measured()])
    return "\n".join([BEGIN, "", *table, "", sentences, "", END])


def on_the_choice_of_cells() -> list[str]:
    """Return a sentence per data set on whether it matters which cell is chosen."""
    known = [one for one in measured_searches() if one.ceiling is not None]
    return [
        f"Which cell is chosen {CHOICE[one.matters]} on the backbone's own data ({one.title}; "
        f"{budget(one)}): "
        f"between cells the Dice has a standard deviation of {spread_text(one.ceiling)}."
        for one in known
    ]


def budget(one: Any) -> str:
    """Return how long random cells were finetuned, beside the default."""
    runs, schedule = one.runs_of("genotypes"), Settings().schedule
    batches = fmean(run["epochs"] * run["settings"]["iterations_per_epoch"] for run in runs)
    default = schedule.finetune_epochs * schedule.iterations_per_epoch
    return f"{batches:,.0f} batches of finetuning, {default:,} by default"


def not_measured() -> str:
    """Return the sentence on where no Dice has been measured."""
    in_volumes = [one for one in measured_searches() if one.title.endswith("3-D") and one.table]
    absent = {
        "in 3-D": not in_volumes,
        "at a real other site": not (EVIDENCE / "adaptation" / "heart-k3.json").is_file(),
        "on a GPU": not any(run["hardware"]["gpu"] for run in all_runs()),
    }
    parts = ["for networks of full size", *(part for part, is_so in absent.items() if is_so)]
    return f"These networks are small; no Dice has been measured {enumerated(parts, 'or')}."


def spread_text(found: Any) -> str:
    """Return the standard deviation between cells with its interval."""
    return (
        f"{found.spread:.4f} (95 % CI {found.interval.low:.4f} to {found.interval.high:.4f}, "
        f"n = {found.genotypes} cells x {found.seeds} seeds)"
    )


def page(found: Sequence[Claim] | None = None) -> str:
    """Return the page."""
    template = markdown_environment(HERE).get_template("page.md.jinja")
    other = [path.stem for path in sorted(EVIDENCE.glob("*.md"))]
    converged = [one.title for one in measured_searches() if one.has_converged]
    known = {"pages": other, "converged": converged, "limit": CONVERGED, "runs": all_runs()}
    return template.render(claims=found or list(claims()), **known)


def with_box(readme: str, made: str) -> str:
    """Return the README's text with new numbers between the marks."""
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{made}{rest.partition(END)[2]}"


def main() -> None:
    """Write the page and the README's numbers."""
    found = list(claims())
    write_text(EVIDENCE / "index.md", page(found))
    write_text(README, with_box(README.read_text(encoding="utf-8"), box(found)))


if __name__ == "__main__":
    main()
