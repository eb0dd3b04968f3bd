"""Comparisons as text, CSV, JSON and LaTeX."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.scores import wording
from nnunet_iac.analysis.scores.comparison import PairedComparison
from nnunet_iac.analysis.scores.comparisons import Comparisons
from nnunet_iac.analysis.scores.mirroring import NOT_ALIKE
from nnunet_iac.analysis.scores.statistics import ALPHA, CONFIDENCE, FEWEST_PATIENTS, RESAMPLES
from nnunet_iac.analysis.scores.surface_comparison import SurfaceComparison
from nnunet_iac.analysis.scores.wording import interval_text, p_text, score_text, signed_text
from nnunet_iac.runs.atomic import write_json, write_text

HEAD = (
    *("Dice A", "Dice B", "B - A", "95% interval", "p", "Holm"),
    *("false positives A/B", "misses A/B", "effect r", "better/equal/worse", "not inferior"),
)
SURFACE_HEAD = ("metric", "mean A", "mean B", "B - A", "95% interval", "lacking in A, B")
SOURCE_TABLE_HEAD = ("patients", "cases", "Dice before", "Dice after", "forgetting", *HEAD[3:8])
TRANSFER_HEAD = ("patients", "cases", "Dice alone", "Dice adapted", "forward transfer", *HEAD[3:8])
"""Heads of the columns of all tables."""


def table(made: Comparisons) -> str:
    """Return comparisons as text for a terminal."""
    numbered = list(enumerate(made.comparisons, start=1))
    head = ["", "patients", "cases", *HEAD, "verdict"]
    lines = _aligned([head, *([f"{n}", *_cells(c), c.verdict] for n, c in numbered)])
    surfaces = [[f"{n}", *_surface_cells(s)] for n, c in numbered for s in c.surface]
    lines += ["", *_aligned([["", *SURFACE_HEAD], *surfaces])] if surfaces else []
    lines += ["", *_aligned(_on_source(made), labels=1)] if made.forgetting else []
    lines += ["", *_aligned(_over_scratch(made), labels=2)] if made.transfers else []
    lines += ["", *_mixed(made)]
    for number, c in numbered:
        lines += [f"{number}  A = {c.labels[0]}", f"   B = {c.labels[1]}"]
        lines += [f"   B: {wording.finding(c, 'A')}", *(f"   {note}" for note in _notes(c))]
    lines += ["", *made.remarks, *_protocol(made).values()]
    if made.controls:
        lines += ["", *_aligned(_overview(made), labels=1)]
    return "\n".join([*([made.headline, ""] if made.headline else ()), *lines])


def _mixed(made: Comparisons) -> list[str]:
    """Return the remarks on forward transfers whose sides were predicted with other mirroring."""
    remarks = (remark for c in made.transfers for remark in c.remarks)
    return [*dict.fromkeys(remark for remark in remarks if remark.startswith(NOT_ALIKE))]


def write_comparisons(folder: Path, made: Comparisons) -> tuple[Path, Path, Path]:
    """Write comparison.csv (a line per case), comparison.json and comparison.tex (booktabs)."""
    paths = (folder / "comparison.csv", folder / "comparison.json", folder / "comparison.tex")
    write_text(paths[0], _csv(made))
    write_json(paths[1], document(made))
    write_text(paths[2], latex(made))
    return paths


def document(made: Comparisons) -> dict[str, Any]:
    """Return comparisons as plain values for JSON, with what was done in words."""
    content = {**dataclasses.asdict(made), "protocol": _protocol(made)}
    for name in ("comparisons", "forgetting", "transfers"):
        family = getattr(made, name)
        content[name] = [
            {**dataclasses.asdict(c), "not_inferior": c.not_inferior, "verdict": c.verdict}
            for c in family
        ]
    absent = [name for name in ("forgetting", "transfers") if not content[name]]
    return {name: value for name, value in content.items() if name not in absent}


def latex(made: Comparisons) -> str:
    """Return comparisons as a LaTeX table; its caption states what was measured and how."""
    pairs = [((c.patients, "patient"), (c.cases, "case")) for c in made.comparisons]
    sizes = ("{} ({})".format(*(wording.counted(*of) for of in pair)) for pair in pairs)
    sentences = [f"B against A; n = {'; '.join(sizes)}.", *_protocol(made).values()]
    caption = " ".join([made.headline, *sentences] if made.headline else sentences)
    rows = [[*c.labels, *_cells(c)] for c in made.comparisons]
    surfaces = [[*c.labels, *_surface_cells(s)] for c in made.comparisons for s in c.surface]
    overview, source, alone = _overview(made), _on_source(made), _over_scratch(made)
    notes = [*(note for c in made.comparisons for note in _notes(c)), *_mixed(made), *made.remarks]
    lines = [
        *wording.tabular(["A", "B", "patients", "cases", *HEAD], rows),
        *(wording.tabular(["A", "B", *SURFACE_HEAD], surfaces) if surfaces else ()),
        *(wording.tabular(source[0], source[1:], labels=1) if made.forgetting else ()),
        *(wording.tabular(alone[0], alone[1:]) if made.transfers else ()),
        *(wording.tabular(overview[0], overview[1:], labels=1) if made.controls else ()),
        *(rf"\par {wording.escaped(note)}" for note in dict.fromkeys(notes)),
    ]
    return wording.floating(caption, lines)


def _notes(c: PairedComparison) -> list[str]:
    return [*(f"LEAKAGE: {text}" for text in c.leakage), *c.remarks]


def _overview(made: Comparisons) -> list[list[str]]:
    """Return a head, and a row per method with its differences from the backbone and controls."""
    names = {label: made.names.get(label, label) for c in made.comparisons for label in c.labels}
    columns, rows = (dict.fromkeys(c.labels[side] for c in made.comparisons) for side in (0, 1))
    found = {c.labels: wording.difference_text(c) for c in made.comparisons}
    return [
        ["difference of Dice from", *(names[a] for a in columns)],
        *([names[b], *(found.get((a, b), "") for a in columns)] for b in rows),
    ]


def _on_source(made: Comparisons) -> list[list[str]]:
    """Return a head, and a row per method that adapts a model with what it has forgotten."""
    shown = len(SOURCE_TABLE_HEAD)
    labels = [made.names.get(c.labels[1], c.labels[1]) for c in made.forgetting]
    rows = [[label, *_cells(c)[:shown]] for label, c in zip(labels, made.forgetting, strict=True)]
    return [["on the source", *SOURCE_TABLE_HEAD], *rows]


def _over_scratch(made: Comparisons) -> list[list[str]]:
    """Return a head, and a row per adapted method and network trained on the target alone."""
    names = [[made.names.get(label, label) for label in reversed(c.labels)] for c in made.transfers]
    shown = len(TRANSFER_HEAD)
    rows = [[*pair, *_cells(c)[:shown]] for pair, c in zip(names, made.transfers, strict=True)]
    return [["adapted", "alone", *TRANSFER_HEAD], *rows]


def _protocol(made: Comparisons) -> dict[str, str]:
    """Return what was done, in a sentence each."""
    number = next((c.family for c in made.comparisons), 0)
    combined = f" Fisher's combination (some difference, either way): p = {p_text(made.fisher)}."
    fisher = "" if made.fisher is None else combined
    sentences = {
        "unit": "Dice is the mean over foreground classes, then over a patient's cases, then over "
        "patients; B - A is paired by patient.",
        "empty": "As in nnU-Net a class that prediction and truth lack has no Dice, and one that "
        "either lacks has 0; a case without a Dice on one side counts with that side's mean. False "
        "positive: a class predicted in a case whose truth lacks it. Miss: a class of which "
        "nothing is found.",
        "interval": f"Interval: {CONFIDENCE:.0%} bootstrap of the mean over patients (BCa, "
        f"{RESAMPLES} resamples, seed {made.seed}).",
        "test": "p: two-sided Wilcoxon signed-rank test over patients, zeros after Pratt.",
        "adjustment": f"Holm: adjusted for {wording.counted(number, 'comparison')}.{fisher}",
        "verdict": "Better or worse: the interval excludes 0 and the adjusted p of Dice, or of an "
        f"exact sign test of false positives and misses over patients, is at most {ALPHA:g}, of at "
        f"least {FEWEST_PATIENTS} patients; otherwise no difference is detected. Mixed: B would be "
        "better, but has more false positives or more misses. No verdict: every Dice of A is 0.",
        "effect": "Effect r: matched-pairs rank-biserial correlation, positive where B is better.",
        "non_inferiority": f"Not inferior: the interval's lower end lies above -{made.margin:g} "
        f"Dice, of at least {FEWEST_PATIENTS} patients, without more false positives or misses.",
    }
    if made.forgetting:
        number = made.forgetting[0].family
        sentences["forgetting"] = (
            "Forgetting: Dice after adapting minus before, on the validation cases of the model's "
            f"own data set; Holm there: adjusted for {wording.counted(number, 'method')}."
        )
    if made.transfers:
        number = made.transfers[0].family
        sentences["transfer"] = (
            "Forward transfer: Dice on the target minus that of a network trained there alone; "
            f"Holm there: adjusted for {wording.counted(number, 'comparison')}."
        )
    if made.tolerance is not None:
        sentences["surface"] = (
            "HD95: the larger of the two directed 95th percentiles, in mm, of the classes both "
            f"sides have; NSD: at {made.tolerance:g} mm, 0 where a side lacks the class. Neither "
            "is tested."
        )
    return sentences


def _csv(made: Comparisons) -> str:
    rows: list[dict[str, Any]] = [
        {
            **dict(zip("ab", c.labels, strict=True)),
            **_roles(c, made),
            "case": row.case,
            "patient": row.patient,
            "dice_a": row.a,
            "dice_b": row.b,
            "dice_difference": row.difference,
            **row.classes,
            "leakage": "; ".join(c.leakage),
        }
        for c in made.comparisons
        for row in c.rows
    ]
    columns = dict.fromkeys(name for row in rows for name in row if name != "leakage")
    head = [*columns, "leakage"]
    return wording.csv_text([head, *([row.get(name, "") for name in head] for row in rows)])


def _roles(c: PairedComparison, made: Comparisons) -> dict[str, str]:
    """Return of both sides whether they are controls, where there are any."""
    if not made.controls:
        return {}
    a, b = ("control" if label in made.controls else "" for label in c.labels)
    return {"a_is": a or "backbone", "b_is": b or "method"}


def _cells(c: PairedComparison) -> list[str]:
    """Return a comparison's numbers, from patients to non-inferiority, as both tables have them."""
    cells = [str(c.patients), str(c.cases), score_text(c.mean_a), score_text(c.mean_b)]
    cells += [signed_text(c.difference), interval_text(c.interval), p_text(c.p), p_text(c.p_holm)]
    cells += [*wording.errors_text(c), f"{c.effect:+.2f}", f"{c.better}/{c.equal}/{c.worse}"]
    return [*cells, "shown" if c.not_inferior else "not shown"]


def _surface_cells(s: SurfaceComparison) -> list[str]:
    cells = [s.metric, score_text(s.mean_a), score_text(s.mean_b), signed_text(s.difference)]
    return [*cells, interval_text(s.interval), f"{s.undefined_a}, {s.undefined_b}"]


def _aligned(rows: Sequence[Sequence[str]], labels: int = 0) -> list[str]:
    """Return rows as lines; the first `labels` columns are flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<" * labels + ">" * (len(widths) - labels)
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [line.format(*row).rstrip() for row in rows]
