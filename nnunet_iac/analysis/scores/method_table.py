"""Methods on one backbone side by side: cost, Dice and paired differences, over folds and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median, stdev
from typing import Any

from nnunet_iac.analysis.scores.case_scores import CaseScores, pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.forgetting import AFTER, BEFORE, forgetting, forward_transfer
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.analysis.scores.wording import (
    NONE,
    difference_text,
    errors_text,
    p_text,
    score_text,
)
from nnunet_iac.analysis.vocabulary import REFERENCE, shown_name
from nnunet_iac.runs.scores import mean_of_present, patient_means

SOURCE_HEAD = (
    "source Dice before",
    "source Dice",
    "forgetting [95 % CI]",
    "p of forgetting (Holm over {})",
)
"""The columns of methods that adapt a model."""

TRANSFER = "forward transfer over {} [95 %]", "p of transfer over {} (Holm over {})"
"""The columns for every backbone of the study that was trained on the target alone."""

WHERE = ("dataset", "configuration", "backbone", "augmentation")
"""Properties that the runs of one table share."""


@dataclass(frozen=True)
class Row:
    """One method of a study: means over its runs, minutes as medians.

    Epochs, batches and minutes are on top of the reference, search included; parameters and MACs
    are what it adds, as a share; `dice` is the mean over classes, a patient's cases, seeds, then
    patients, and `spread` its standard deviation over seeds; `against` has the method minus each
    baseline.
    `forgetting` is of the runs that were scored on the source of an adapted model, if any, and
    `transfers` has these minus every backbone that was trained on the target alone.
    """

    method: str
    runs: int
    epochs: float
    batches: float
    search_epochs: float
    minutes: float
    parameters: float
    macs: float
    dice: float
    spread: float | None
    against: Mapping[str, PairedComparison]
    forgetting: PairedComparison | None = None
    transfers: Mapping[str, PairedComparison] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodTable:
    """All methods on one backbone, in the study's order.

    `place` has `WHERE`, `scores` names the cases, `reference` is the backbone's mean Dice, and
    `baselines` are what methods are compared to: the reference, and controls.
    """

    place: Mapping[str, str]
    scores: str
    patients: int
    cases: int
    reference: float
    rows: tuple[Row, ...]
    baselines: tuple[str, ...]

    def row(self, method: str) -> Row:
        """Return the row of a method."""
        return next(row for row in self.rows if row.method == method)


def method_tables(
    document: Mapping[str, Any],
    baselines: Sequence[str] = ("continued", "random"),
    margin: float = MARGIN,
) -> list[MethodTable]:
    """Return a table per backbone and augmentation of a study's result file.

    Besides the reference, methods are compared to those `baselines` that the study has. There is no
    table where one of them has no Dice, because all its predictions and the truths are empty.
    """
    runs = [run for run in document["runs"] if run["method"] != REFERENCE]
    tables = []
    for place in dict.fromkeys(map(_place, runs)):
        own = [run for run in runs if _place(run) == place]
        named = dict(zip(WHERE, place, strict=True))
        methods = [m for m in document["methods"] if any(run["method"] == m for run in own)]
        references = [run for run in document["runs"] if run["method"] == REFERENCE]
        references = [run for run in references if tuple(run[k] for k in WHERE[:3]) == place[:3]]
        _require_one_backbone([*own, *(run for run in references if run.get("backbone_hash"))])
        # Without cells only its own validation is known, which mirrors as trainers do by default.
        mirrored = named["augmentation"] == "default"
        own_validation = [run_scores(run, "dice") for run in references] if mirrored else []
        tested = [run_scores(run, "test_dice") for run in references if "test_dice" in run]
        # Where cells were trained, the backbone was scored under their circumstances.
        frozen = [run_scores(run, "frozen_dice") for run in own if run["frozen_dice"] is not None]
        of = {
            "validation cases": ("dice", frozen or own_validation),
            "test cases, not mirrored": ("test_dice", tested),
        }
        known = [name for name in baselines if name in methods]
        for scores, (key, reference) in of.items():
            groups = {m: [run for run in own if run["method"] == m] for m in methods}
            if reference and all(key in run for run in own) and _have_dice(reference, groups, key):
                found = _table_values(groups, known, reference, key, margin)
                table = MethodTable(named, scores, **found)
                alike = mirrored or key == "test_dice"  # Predicted with the same mirroring.
                alone = _trained_alone(document, own[0], key) if alike else {}
                tables.append(_with_transfers(table, groups, alone, key, margin))
    return tables


def _place(run: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(run[key] for key in WHERE)


def run_scores(run: Mapping[str, Any], key: str) -> CaseScores:
    """Return the scores of a run in a result file; those of earlier releases lack its errors."""
    return CaseScores.of_dice(run[key], run["method"], run.get(f"{key.removesuffix('dice')}errors"))


def _have_dice(
    reference: Sequence[CaseScores], groups: Mapping[str, Sequence[Mapping[str, Any]]], key: str
) -> bool:
    """Return whether the backbone and every method have the Dice of a case."""
    of_methods = ([run[key] for run in runs] for runs in groups.values())
    sides = [[scores.dice for scores in reference], *of_methods]
    return all(any(d is not None for dice in side for d in dice.values()) for side in sides)


def _require_one_backbone(runs: Sequence[Mapping[str, Any]]) -> None:
    """Check that runs that are compared began with the same tensors, fold by fold."""
    first: dict[Any, Mapping[str, Any]] = {}
    for run in runs:
        known = first.setdefault(run["fold"], run)
        if known["backbone_hash"] != run["backbone_hash"]:
            raise ValueError(
                "runs must begin with the same network to be compared; "
                f"{known['run']} froze {known['backbone_hash'][:12]} and {run['run']} "
                f"{run['backbone_hash'][:12]}: train those of an older backbone again"
            )


def _table_values(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    baselines: Sequence[str],
    reference: Sequence[CaseScores],
    key: str,
    margin: float,
) -> dict[str, Any]:
    """Return what a table has beside its place, of the runs of every method.

    `reference` has the backbone's scores, once or more for every case.
    """
    pattern = next(run["patient_pattern"] for runs in groups.values() for run in runs) or ".*"

    def scores(runs: Sequence[Mapping[str, Any]], label: str) -> CaseScores:
        return pooled([run_scores(run, key) for run in runs], label)

    backbone = pooled(reference, REFERENCE)
    scored = {REFERENCE: backbone, **{name: scores(runs, name) for name, runs in groups.items()}}

    def against(baseline: str, own: CaseScores) -> PairedComparison:
        return compare_scores(scored[baseline], own, patient_pattern=pattern, margin=margin)

    forgotten = _forgettings(groups, margin)
    sides = (REFERENCE, *baselines)
    family = adjusted([against(a, scored[b]) for b in groups for a in sides if a != b])
    rows = []
    for name, runs in groups.items():
        compared = {c.labels[0]: c for c in family if c.labels[1] == name}
        seeds = dict.fromkeys(run["seed"] for run in runs)
        parts = [scores([run for run in runs if run["seed"] == seed], name) for seed in seeds]
        means = [mean_of_present(patient_means(part.dice, pattern)[0].values()) for part in parts]
        dice = [mean for mean in means if mean is not None]
        values: dict[str, float] = {
            **{key: fmean(run[key] for run in runs) for key in ("epochs", "search_epochs")},
            "batches": fmean(r["epochs"] * r["settings"]["iterations_per_epoch"] for r in runs),
            "minutes": median(run["seconds"] for run in runs) / 60,
        }
        for cost in ("parameters", "macs"):
            values[cost] = fmean(run[cost]["final"] / run[cost]["backbone"] for run in runs) - 1
        spread = stdev(dice) if len(dice) > 1 else None
        mean = compared[REFERENCE].mean_b
        rows.append(
            Row(
                name,
                len(runs),
                **values,
                dice=mean,
                spread=spread,
                against=compared,
                forgetting=forgotten.get(name),
                transfers={},
            )
        )
    found = {
        **{of: max(getattr(c, of) for c in family) for of in ("patients", "cases")},
        "reference": fmean(patient_means(backbone.dice, pattern)[0].values()),
    }
    return {**found, "rows": tuple(rows), "baselines": sides}


def _trained_alone(
    document: Mapping[str, Any], adapted: Mapping[str, Any], key: str
) -> dict[str, CaseScores]:
    """Return the study's other backbones of a target, by name; none if no model is adapted."""
    if adapted["backbone"] not in document.get("adapted", ()):
        return {}
    shared, others = WHERE[:2], {*document["adapted"], *document.get("halves", {})}
    found: dict[str, list[CaseScores]] = {}
    for run in document["runs"]:
        here = all(run[name] == adapted[name] for name in shared) and key in run
        alone = run["method"] == REFERENCE and run["backbone"] not in others
        if here and alone:
            found.setdefault(run["backbone"], []).append(run_scores(run, key))
    return {name: pooled(parts, name) for name, parts in found.items()}


def _with_transfers(
    table: MethodTable,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    alone: Mapping[str, CaseScores],
    key: str,
    margin: float,
) -> MethodTable:
    """Return a table with the forward transfer over networks of the same cases, if there are any.

    The p values are adjusted together, without those of the table.
    """
    family = []
    for name, runs in groups.items():
        own = pooled([run_scores(run, key) for run in runs], name)
        pattern = runs[0]["patient_pattern"] or ".*"
        others = [other for other in alone.values() if other.dice.keys() == own.dice.keys()]
        family += [forward_transfer(other, own, pattern, margin) for other in others]
    found = adjusted(family)
    transfers = {name: {c.labels[0]: c for c in found if c.labels[1] == name} for name in groups}
    rows = (replace(row, transfers=transfers[row.method]) for row in table.rows)
    return replace(table, rows=tuple(rows))


def _forgettings(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], margin: float
) -> dict[str, PairedComparison]:
    """Return the forgetting of the methods that were scored on a source, adjusted together."""
    found = {}
    for name, runs in groups.items():
        sources = [run["source"] for run in runs if "source" in run]
        if sources:
            sides = [(_on_source(each, BEFORE), _on_source(each, AFTER)) for each in sources]
            found[name] = forgetting(sides, name, runs[0]["patient_pattern"], margin)
    return dict(zip(found, adjusted(list(found.values())), strict=True))


def _on_source(known: Mapping[str, Any], side: str) -> CaseScores:
    return CaseScores.of_dice(known[side], side, known.get("errors", {}).get(side))


def cells(table: MethodTable) -> list[list[str]]:
    """Return head and rows of a table as text."""
    head = ["method", "runs", "epochs", "search epochs", "batches", "minutes"]
    head += ["parameters", "MACs"]
    head += ["Dice", "± seeds"]
    compared = [row.against[REFERENCE] for row in table.rows]
    wrong = any(map(_has_errors, compared))
    head += ["false positives, backbone / method", "misses, backbone / method"] if wrong else []
    for baseline in table.baselines:
        name = shown_name(baseline)
        head += [f"difference from {name} [95 % CI]"]
        head += [f"p against {name} (Holm over {compared[0].family})"]
    on_source = [row.forgetting for row in table.rows if row.forgetting is not None]
    head += [column.format(on_source[0].family) for column in SOURCE_HEAD] if on_source else []
    lost = any(map(_has_errors, on_source))
    head += ["source false positives, before / after", "source misses"] if lost else []
    alone = {name: c.family for row in table.rows for name, c in row.transfers.items()}
    head += [column.format(name, n) for name, n in alone.items() for column in TRANSFER]
    found = [head]
    for row in table.rows:
        line = [row.method, f"{row.runs}", f"{row.epochs:.0f}", f"{row.search_epochs:.0f}"]
        line += [
            f"{row.batches:.0f}",
            f"{row.minutes:.1f}",
            f"{row.parameters:+.1%}",
            f"{row.macs:+.1%}",
        ]
        line += [f"{row.dice:.4f}", NONE if row.spread is None else f"{row.spread:.4f}"]
        line += _error_cells(row.against[REFERENCE]) if wrong else []
        for baseline in table.baselines:
            against = row.against.get(baseline)
            line += [difference_text(against), NONE if against is None else p_text(against.p_holm)]
        if on_source:
            line += source_cells(row.forgetting)
            line += _error_cells(row.forgetting) if lost else []
        for name in alone:
            over = row.transfers.get(name)
            line += [difference_text(over), NONE if over is None else p_text(over.p_holm)]
        found.append(line)
    return found


def _has_errors(compared: PairedComparison) -> bool:
    return any((*compared.false_positives, *compared.misses))


def _error_cells(compared: PairedComparison | None) -> Sequence[str]:
    return (NONE, NONE) if compared is None else errors_text(compared)


def source_cells(found: PairedComparison | None) -> list[str]:
    """Return what the columns `SOURCE_HEAD` have of a method's forgetting."""
    if found is None:
        return [NONE] * len(SOURCE_HEAD)
    means = [score_text(mean) for mean in (found.mean_a, found.mean_b)]
    return [*means, difference_text(found), p_text(found.p_holm)]
