"""Comparisons of cells with the backbone, controls, and the full search."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.case_scores import pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.mirroring import mixed_mirroring
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.analysis.vocabulary import BACKBONE, BASELINES, RANDOM_CELL

Key = tuple[tuple[str, str, str, str], tuple[tuple[str, str], ...]]
ComparatorKind = Literal["reference", "control", "full search"]

MAY_VARY = ("seed", "activation_checkpointing", "compile_cells", "deterministic", "score_source")
"""Settings in which repetitions of one method may differ."""

FREE_IN_CONTROLS = ("genotype", "finetune_epochs", "backbone_plans", "skip")
"""Settings in which the runs of one control may differ: the method's name distinguishes them, each
length of a fold's run needs plans of its own, and all random cells are one control."""

METHOD_NAMES = {**BASELINES, "IAC-Discrete": "a given cell", "IAC": "the full search"}


@dataclass(frozen=True)
class Group:
    """The folds and seeds of one method: same place, backbone and settings but for the seed.

    `mark` is its difference from other groups of its method; empty where there are none.
    """

    mark: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Short, and different from the other groups'."""
        return f"{self.method}{self.mark}"

    @property
    def method(self) -> str:
        """The method that found its cells, or the control it is."""
        return self.runs[0].method

    @property
    def is_control(self) -> bool:
        """Whether it is there for cells to be compared with."""
        return self.runs[0].is_control

    @property
    def scored(self) -> tuple[Run, ...]:
        """The runs that were validated on cases held out."""
        return tuple(run for run in self.runs if run.scores is not None)


@dataclass(frozen=True)
class Comparator:
    """The other side of a comparison: the backbone (no group), a control, or the full search.

    `epochs` are means, after the backbone's training; `equal_budget` is whether it was trained
    for as many batches as the cells were searched and finetuned.
    """

    kind: ComparatorKind
    group: Group | None
    name: str
    epochs: float = 0.0
    equal_budget: bool = False


@dataclass(frozen=True)
class GroupComparison:
    """A group (B) against a comparator (A) on the same cases; `epochs` are the group's."""

    group: Group
    against: Comparator
    paired: PairedComparison
    epochs: float


def groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Return the runs by data set, configuration, backbone, method and settings."""
    by_key: dict[Key, list[Run]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    marks = _marks(list(by_key))
    return tuple(Group(mark, tuple(own)) for mark, own in zip(marks, by_key.values(), strict=True))


@dataclass(frozen=True)
class Evaluation:
    """All comparisons that runs allow, adjusted together, and why others could not be made."""

    groups: tuple[Group, ...]
    comparisons: tuple[GroupComparison, ...]
    control_comparisons: tuple[GroupComparison, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def retrofits(self) -> tuple[Group, ...]:
        """The groups whose cells are to be judged."""
        return tuple(group for group in self.groups if not group.is_control)


def evaluate(runs: Sequence[Run], margin: float = MARGIN, seed: int = 0) -> Evaluation:
    """Return every comparison that the validated runs allow.

    The cells against the backbone's own validation; searched cells against every control that
    started from the same backbone on the same fold (the continued backbone, cells that no search
    found, other skip modules); the accelerated search against the full one; and every control
    against the backbone. Cases that several runs validated (seeds, random cells) are
    averaged first, then a patient's cases.
    """
    compared = groups(runs)
    made: list[GroupComparison] = []
    left_out = []
    candidates = [(group, *to) for group in compared for to in _comparators(group, compared)]
    for group, kind, other in candidates:
        try:
            if pairs := _pairs(group, other, runs):
                made.append(_compared(group, kind, other, pairs, margin, seed))
        except ValueError as error:
            against = BACKBONE if other is None else other.name
            left_out.append(f"{group.name} is not compared with {against}: {error}.")
    family = adjusted([one.paired for one in made])
    made = [replace(one, paired=paired) for one, paired in zip(made, family, strict=True)]
    return Evaluation(
        compared,
        tuple(one for one in made if not one.group.is_control),
        tuple(one for one in made if one.group.is_control),
        tuple(left_out),
    )


def speed_up(run: Run, others: Sequence[Run], whole: bool = False) -> float | None:
    """Return how many times longer full searches of the same start and hardware took, or None.

    If `whole`, how many times longer finished runs with them took, finetuned for as many epochs.
    """
    if run.method != "IAC-LTH" or run.genotype is None or (whole and not run.validated):
        return None

    def how(searched: Run) -> tuple[Any, ...]:
        schedule = searched.settings.schedule
        alike = (schedule.iterations_per_epoch, searched.cost.hardware)
        finetuned = searched.epochs - searched.search_epochs
        return (*alike, finetuned, searched.validated) if whole else alike

    def seconds(searched: Run) -> float:
        return searched.seconds if whole else searched.search_seconds

    full = [
        seconds(other)
        for other in others
        if other.method == "IAC" and other.genotype is not None
        if _same_start(run, other) and how(other) == how(run)
    ]
    return sum(full) / len(full) / seconds(run) if full else None


def comparator_name(group: Group, runs: Iterable[Run]) -> str:
    """Return what pages call these runs of a group, and how many cells were drawn at random."""
    draws = len({run.settings.cell.genotype for run in runs})
    several = f" ({draws} draws)" if group.method == RANDOM_CELL and draws > 1 else ""
    return f"{METHOD_NAMES[group.method]}{group.mark}{several}"


def _comparators(
    group: Group, compared: Sequence[Group]
) -> Iterator[tuple[ComparatorKind, Group | None]]:
    """Return what a group is compared with; None is the backbone."""
    yield "reference", None
    for other in () if group.is_control else compared:
        if other.is_control or (other.method == "IAC-Discrete" != group.method):
            yield "control", other
        elif group.method == "IAC-LTH" and other.method == "IAC":
            yield "full search", other


def _pairs(group: Group, other: Group | None, runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the runs of both that may be compared; of a backbone the run that validated it.

    A control may have that from another of the runs. Where some of the other side have the same
    budget as a run, only those are taken.
    """
    if other is None:
        return [(run, keeper) for run in group.scored if (keeper := _keeper(run, runs))]
    pairs = []
    for run in group.scored:
        matching = [candidate for candidate in other.scored if _same_start(run, candidate)]
        equal = [candidate for candidate in matching if _batches(candidate) == _batches(run)]
        pairs += [(run, candidate) for candidate in equal or matching]
    return pairs


def _keeper(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run that validated the backbone: itself, or for a control one beside it."""
    beside = [other for other in runs if _same_start(run, other)] if run.is_control else []
    return next((other for other in (run, *beside) if other.reference is not None), None)


def _compared(
    group: Group,
    kind: ComparatorKind,
    other: Group | None,
    pairs: Sequence[tuple[Run, Run]],
    margin: float,
    seed: int,
) -> GroupComparison:
    name = BACKBONE if other is None else comparator_name(other, [run for _, run in pairs])
    theirs = [run.reference if other is None else run.scores for _, run in pairs]
    sides = (name, theirs), (group.name, [run.scores for run, _ in pairs])
    # By identity: a run may be in several pairs.
    a, b = (pooled(list({id(s): s for s in side if s}.values()), label) for label, side in sides)
    pattern = group.runs[0].settings.data.patient_pattern
    found = compare_scores(a, b, patient_pattern=pattern, margin=margin, seed=seed)
    paired = replace(found, remarks=(*mixed_mirroring(a, b), *found.remarks))
    epochs, later = (fmean(run.epochs for run in side) for side in zip(*pairs, strict=True))
    if other is None:  # The backbone is not trained any further.
        return GroupComparison(group, Comparator(kind, other, name), paired, epochs)
    equal = all(_batches(run) == _batches(control) for run, control in pairs)
    return GroupComparison(group, Comparator(kind, other, name, later, equal), paired, epochs)


def _batches(run: Run) -> int:
    """Return the batches of a run after its backbone's training."""
    return run.epochs * run.settings.schedule.iterations_per_epoch


def _same_start(a: Run, b: Run) -> bool:
    """Return whether two runs began with the same frozen tensors on the same fold."""
    places = {(run.dataset, run.configuration, run.fold, run.backbone.before) for run in (a, b)}
    return len(places) == 1


def _key(run: Run) -> Key:
    """Return what the runs of a group have in common: place, backbone, method and settings."""
    settings = run.settings.to_mapping()
    varying = {*MAY_VARY, "patient_pattern", *(FREE_IN_CONTROLS if run.is_control else ())}
    structural = {k: str(v) for k, v in settings.items() if k not in varying}
    backbone = Path(run.backbone.path).parent.parent.name
    return (run.dataset, run.configuration, run.method, backbone), tuple(structural.items())


def _marks(keys: Sequence[Key]) -> list[str]:
    """Return how groups of one method differ, in brackets; nothing where one is alone."""
    marks = []
    for place, settings in keys:
        similar = [key for key in keys if key[0][2] == place[2]]
        parts = [p for i, p in enumerate(place) if len({other[i] for other, _ in similar}) > 1]
        known: dict[str, set[str]] = {}
        for _, others in similar:
            for name, value in others:
                known.setdefault(name, set()).add(value)
        parts += [f"{name}={value}" for name, value in settings if len(known[name]) > 1]
        marks.append(f" ({', '.join(parts)})" if parts else "")
    return marks
