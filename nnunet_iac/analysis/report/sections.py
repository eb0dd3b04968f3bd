"""The sections of a report: scores, search, choices, cost, settings and provenance."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.analysis.report.case_figures import forest, paired_dots
from nnunet_iac.analysis.report.evaluation import (
    Evaluation,
    Group,
    GroupComparison,
    comparator_name,
    speed_up,
)
from nnunet_iac.analysis.report.page import Picture, Section, Table, commit_text, duration
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.report.source_and_target import Adaptation, source_and_target
from nnunet_iac.analysis.scores.wording import difference_text, errors_text, p_text, score_text
from nnunet_iac.analysis.trajectories import emergence, figures
from nnunet_iac.analysis.trajectories.similarity_figures import (
    agreement_figure,
    similarity_figure,
)
from nnunet_iac.drawing.cell_picture import operation_label
from nnunet_iac.search.settings import Settings

MANY_GROUPS = 6
"""Groups from which on the figures of searches are drawn by method."""


def sections(
    named: Sequence[tuple[str, Run]], evaluation: Evaluation, adapted: Sequence[Adaptation] = ()
) -> tuple[Section, ...]:
    """Return all sections of named retrofits and controls that have content."""
    retrofits = [(name, run) for name, run in named if not run.is_control]
    searched = [(name, run) for name, run in retrofits if run.trajectory.epoch.size]
    drawn = tuple(_search_pictures(searched, evaluation.retrofits))
    made = [
        Section("scores", "What the cells are worth", *_scores(evaluation)),
        source_and_target(adapted),
        Section("search", "What the search did", (), _emergence_tables(retrofits), drawn),
        Section("agreement", "What was chosen", pictures=tuple(_choice_pictures(retrofits))),
        Section("cost", "What it cost", tables=(_cost_table(named),)),
        Section("settings", "Settings", tables=_settings_tables(named)),
        Section("provenance", "Where this comes from", *_provenance(named)),
    ]
    return tuple(s for s in made if s.paragraphs or s.pictures or any(t.rows for t in s.tables))


def _scores(
    evaluation: Evaluation,
) -> tuple[tuple[str, ...], tuple[Table, ...], tuple[Picture, ...]]:
    compared, controls = evaluation.comparisons, evaluation.control_comparisons
    if not compared:
        return (), (), ()
    title = "Differences of Dice with intervals"
    pictures = [_picture("comparisons", title, partial(forest, compared))]
    for number, one in enumerate(c for c in compared if c.against.kind == "reference"):
        title = f"Dice of every case before and after: {one.group.name}"
        draw = partial(paired_dots, one.paired, "backbone")
        pictures.append(_picture("cases", title, draw, number, one.group.name))
    found: dict[str, list[str]] = {}
    for one in (*compared, *controls):
        for remark in one.paired.remarks:
            found.setdefault(remark, []).append(f"{one.group.name} against {one.against.name}")
    number = len(compared) + len(controls)
    # A remark that is not true of all comparisons names its own.
    remarks = [
        remark if len(whose) == number else f"{'; '.join(whose)}: {remark}"
        for remark, whose in found.items()
    ]
    tables = (_comparisons_table(compared), _controls_table(controls))
    return tuple(remarks), tables, tuple(pictures)


_Columns = dict[str, Callable[[GroupComparison], str]]
_CHANGES: _Columns = {
    "better / same / worse": lambda one: (
        f"{one.paired.better} / {one.paired.equal} / {one.paired.worse}"
    ),
    "false positives": lambda one: errors_text(one.paired)[0],
    "misses": lambda one: errors_text(one.paired)[1],
}


def _comparisons_table(compared: Sequence[GroupComparison]) -> Table:
    columns = {
        "cells": lambda one: one.group.name,
        "against": lambda one: one.against.name,
        "verdict": lambda one: one.paired.verdict,
        **_numbers("cells'"),
        "effect": lambda one: f"{one.paired.effect:+.2f}",
        **_CHANGES,
        "not inferior": lambda one: "shown" if one.paired.not_inferior else "not shown",
        "epochs": lambda one: f"{one.epochs:.0f} / {one.against.epochs:.0f}",
    }
    caption = CAPTIONS["scores"].format(margin=compared[0].paired.non_inferiority.margin)
    return _table("comparisons", caption, columns, compared)


def _controls_table(compared: Sequence[GroupComparison]) -> Table:
    """Return what every control gained over the backbone."""
    columns = {
        "control": lambda one: comparator_name(one.group, one.group.scored),
        **_numbers("control's"),
        **_CHANGES,
        "epochs": lambda one: f"{one.epochs:.0f}",
    }
    return _table("controls", CAPTIONS["controls"], columns, compared)


def _numbers(whose: str) -> _Columns:
    return {
        "difference (95 % interval)": lambda one: difference_text(one.paired),
        "patients": lambda one: str(one.paired.patients),
        "Dice": lambda one: score_text(one.paired.mean_a),
        f"{whose} Dice": lambda one: score_text(one.paired.mean_b),
        "p": lambda one: p_text(one.paired.p),
        "p, Holm": lambda one: p_text(one.paired.p_holm),
    }


def _table(
    name: str, caption: str, columns: _Columns, compared: Sequence[GroupComparison]
) -> Table:
    rows = tuple(tuple(text(one) for text in columns.values()) for one in compared)
    return Table(name, caption, tuple(columns), rows)


def _search_pictures(
    searched: Sequence[tuple[str, Run]], compared: Sequence[Group]
) -> Iterable[Picture]:
    """Return the figures of every group of searches, and the first search's importances.

    Above `MANY_GROUPS` those of a method are drawn together, or the page would grow too large.
    """
    names = {id(run): name for name, run in searched}
    found: dict[str, list[Run]] = {}
    many = len(compared) > MANY_GROUPS
    for group in compared:
        runs = [run for run in group.runs if id(run) in names]
        found.setdefault(group.method if many else group.name, []).extend(runs)
    found = {name: runs for name, runs in found.items() if runs}
    several: dict[str, tuple[str, Callable[[Sequence[Run]], Figure]]] = {
        "similarity": (
            "Similarity of the cell between epochs",
            similarity_figure,
        ),
        "convergence": ("Similarity to the final vector over time", figures.convergence_figure),
        "emergence": ("When final operations emerged", figures.emergence_figure),
        "emergence_lasting": (
            "When final operations came to stay",
            partial(figures.emergence_figure, moment="since"),
        ),
        "difficulty": ("When each edge's final operation came first", figures.difficulty_figure),
        "pruning": ("Operations left and edges decided", figures.pruning_figure),
        "entropy": ("Entropy of every edge", figures.entropy_figure),
    }
    for number, (whose, runs) in enumerate(found.items()):
        first = names[id(runs[0])]
        of = whose if len(found) > 1 else ""
        title = f"Importance of the operations on every edge: {first}"
        shown = first if len(searched) > 1 else ""
        yield _picture(
            "importance", title, partial(figures.importance_figure, runs[0]), number, shown
        )
        for name, (title, draw) in several.items():
            yield _picture(name, title, partial(draw, runs), number, of)


def _emergence_tables(retrofits: Sequence[tuple[str, Run]]) -> tuple[Table, ...]:
    """Return when the final operations and pairs of edges of ended searches emerged."""
    rows = []
    for name, run in retrofits:
        ended = run.genotype is not None and run.trajectory.epoch.size
        for found in emergence.edge_emergence(run) if ended else ():
            edge = f"v{found.edge.source} to v{found.edge.target}"
            moments = [_moments(found.top[k]) for k in emergence.TOPS]
            rows.append((name, edge, operation_label(found.operation), *moments))
        for node in emergence.node_emergence(run) if ended else ():
            edges = " and ".join(f"v{edge.source}" for edge in node.edges)
            rows.append((name, f"into v{node.node}", edges, "", "", _moments(node.pair)))
    head = ("run", "edge", "final operation, or edges", *(f"top {k}" for k in emergence.TOPS))
    return (Table("emergence", CAPTIONS["emergence_table"], head, tuple(rows), folded=True),)


def _moments(found: emergence.Emergence) -> str:
    """Return the epoch of the first appearance and that of the lasting one."""
    return f"{found.first or 'never'} / {found.since or 'never'}"


def _choice_pictures(retrofits: Sequence[tuple[str, Run]]) -> Iterable[Picture]:
    cells = {name: run.genotype for name, run in retrofits if run.genotype is not None}
    drawn = list(cells.values())
    if drawn:
        title = "How often each operation was chosen"
        yield _picture("operations", title, partial(figures.operations_figure, drawn))
    if len(drawn) > 1:
        title = "What every two cells have in common"
        yield _picture("agreement", title, partial(agreement_figure, drawn, list(cells)))


def _picture(
    name: str, title: str, draw: Callable[[], Figure], number: int = 0, of: str = ""
) -> Picture:
    """Return a figure with its caption; `of` is whose it is, where there are several."""
    caption = f"{of}. {CAPTIONS[name]}" if of else CAPTIONS[name]
    return Picture(name if number == 0 else f"{name}-{number + 1}", title, caption, draw)


def _cost_table(named: Sequence[tuple[str, Run]]) -> Table:
    rows = []
    for name, run in named:
        networks = run.cost.networks
        others = [other for _, other in named]
        factors = [speed_up(run, others, whole) for whole in (False, True)]
        search, whole = (f"{factor:.1f}" if factor else "" for factor in factors)
        final = networks.get("final") or networks.get("supernet") or networks.get("backbone")
        rows.append(
            {
                "run": name,
                "stage": run.stage,
                "search epochs": str(run.search_epochs) if run.search_epochs else "",
                "search": duration(run.search_seconds) if run.search_epochs else "",
                "speed-up": search,
                "training after the search": duration(run.seconds - run.search_seconds),
                "speed-up, whole run": whole,
                "memory": f"{run.cost.peak_memory_bytes / 1e6:.0f} MB",
                "parameters": f"{final.parameters / 1e6:.2f} M" if final else "",
                "MACs": f"{final.macs / 1e9:.2f} G" if final else "",
            }
        )
    return Table("cost", CAPTIONS["cost"], tuple(rows[0]), tuple(tuple(r.values()) for r in rows))


def _settings_tables(named: Sequence[tuple[str, Run]]) -> tuple[Table, ...]:
    """Return the settings that somebody chose, then all; differing ones name their runs."""
    resolved = {name: run.settings.to_mapping() for name, run in named}
    default = Settings().to_mapping()
    rows, chosen = [], []
    for key in default:
        by_value: dict[str, list[str]] = {}
        for name, settings in resolved.items():
            by_value.setdefault(_setting(settings[key]), []).append(name)
        text = next(iter(by_value))
        if len(by_value) > 1:
            text = "; ".join(f"{v} ({_runs(names, named)})" for v, names in by_value.items())
        rows.append((key, text))
        if text != _setting(default[key]):
            chosen.append((*rows[-1], _setting(default[key])))
    head = ("setting", "value", "default")
    return (
        Table("settings_chosen", CAPTIONS["settings_chosen"], head, tuple(chosen)),
        Table("settings", CAPTIONS["settings"], head[:2], tuple(rows), folded=True),
    )


def _runs(names: Sequence[str], named: Sequence[tuple[str, Run]]) -> str:
    """Return runs by their method where all of it are meant, else by name, one fold at a time."""
    by_method: dict[str, list[str]] = {}
    for name, run in named:
        by_method.setdefault(run.method, []).append(name)
    sentences: list[str] = []
    single: dict[str, list[str]] = {}
    for method, own in by_method.items():
        meant = [name for name in own if name in names]
        sentences += [method] if meant == own else []
        for whose, _, fold in [n.rpartition(", ") for n in meant] if meant != own else ():
            single.setdefault(fold, []).append(whose)
    for fold, several in single.items():
        one = len(several) == 1
        sentences.append(f"{several[0]}, {fold}" if one else f"{fold} of {', '.join(several)}")
    return ", ".join(sentences)


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else text


def _unchanged(run: Run) -> str:
    """Return what is known of the tensors that a run was to leave as they were."""
    proof = run.backbone
    if not run.trains_backbone and proof.trained is None:
        return "yes" if proof.unchanged else "not proven"
    kept_encoder = proof.encoder_before is not None and proof.encoder_before == proof.encoder_after
    return "encoder only" if kept_encoder else "trained"


def _provenance(named: Sequence[tuple[str, Run]]) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    rows = []
    for name, run in named:
        proof, commit = run.backbone, commit_text(run.cost.commit)
        rows.append((name, proof.trainer, proof.before[:16], _unchanged(run), commit))
    head = ("run", "backbone", "its SHA-256", "unchanged", "commit")
    health = [(name, str(event)) for name, run in named for event in run.health]
    tables = [Table("provenance", CAPTIONS["provenance"], head, tuple(rows))]
    if health:
        tables.append(Table("health", CAPTIONS["health"], ("run", "noticed"), tuple(health)))
    versions: dict[str, list[str]] = {}
    for name, run in named:
        versions.setdefault(", ".join(map(" ".join, run.cost.versions.items())), []).append(name)
    sentences = [
        f"Versions: {text}" if len(versions) == 1 else f"{_runs(names, named)}: {text}"
        for text, names in versions.items()
    ]
    searched = [run for _, run in named if run.trajectory.epoch.size]
    watched = searched and all(run.record.health_file.is_file() for run in searched)
    if watched and not health and not any(run.collapsed for run in searched):
        sentences.append(
            "No search had a dead edge, a collapse, a plateau, a divergence or a non-finite number."
        )
    return tuple(sentences), tuple(tables)
