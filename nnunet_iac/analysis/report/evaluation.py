"""What cells are compared with: the frozen network, controls, and the full search."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_iac.analysis.report.run import RIVALS, Run
from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.analysis.scores.comparison import (
    RANDOM_CELL,
    Comparison,
    compare_scores,
    with_doubt,
)
from nnunet_iac.analysis.scores.statistics import MARGIN, holm
from nnunet_iac.runs.scores import mean_of_present

Key = tuple[tuple[str, str, str, str], tuple[tuple[str, str], ...]]
Opponent = Literal["reference", "control", "full search"]

NOT_STRUCTURAL = ("seed", "recompute_cells", "deterministic")
"""Settings in which repetitions of one method may differ."""

FREE_IN_CONTROLS = ("genotype", "finetune_epochs", "backbone_plans", "skip", "trained_on")
"""Settings in which the runs of one control may differ: the method says which it is, each length of
a fold's run needs plans of its own, and all random cells are one control."""

OPPONENTS = {**RIVALS, "IAC-Discrete": "a given cell", "IAC": "the full search"}
"""What pages call the methods that cells are compared with."""


@dataclass(frozen=True)
class Group:
    """The folds and seeds of one method on one data set.

    Args:
        mark: what tells it from other groups of its method; empty where there are none.
        runs: of the same method, place, backbone and settings but for the seed.
    """

    mark: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Short, and different from the other groups'."""
        return f"{self.method}{self.mark}"

    @property
    def method(self) -> str:
        """How its cells were found, or which control it is."""
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
class Question:
    """A group compared with one opponent on the same cases.

    Args:
        group: B of the comparison.
        opponent: what A is.
        other: A; None for the frozen network.
        name: of A for people.
        comparison: B minus A.
        own_epochs, other_epochs: mean epochs that either was trained for after the backbone.
        equal_budget: whether every A was trained for as many batches as its cells were searched
            and finetuned.
    """

    group: Group
    opponent: Opponent
    other: Group | None
    name: str
    comparison: Comparison
    own_epochs: float
    other_epochs: float
    equal_budget: bool


def groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Return the runs by data set, configuration, backbone, method and settings."""
    by_key: dict[Key, list[Run]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    marks = _marks(list(by_key))
    return tuple(Group(mark, tuple(own)) for mark, own in zip(marks, by_key.values(), strict=True))


@dataclass(frozen=True)
class Evaluation:
    """All comparisons that runs allow.

    Args:
        groups: of all runs, controls included.
        questions: of cells.
        control_questions: of controls, each against the frozen network; all p values are adjusted
            together.
        left_out: why a comparison could not be made, in a sentence each.
    """

    groups: tuple[Group, ...]
    questions: tuple[Question, ...]
    control_questions: tuple[Question, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def retrofits(self) -> tuple[Group, ...]:
        """The groups whose cells are to be judged."""
        return tuple(group for group in self.groups if not group.is_control)


def evaluate(runs: Sequence[Run], margin: float = MARGIN, seed: int = 0) -> Evaluation:
    """Return every comparison that the validated runs allow.

    The cells against the frozen network's own validation; searched cells against every control
    that started from the same frozen tensors on the same fold (the network trained on, cells that
    no search found, other skip modules); the accelerated search against the full one; and every
    control against the frozen network. Cases that several runs validated (seeds, random cells) are
    averaged first, then a patient's cases.

    Args:
        runs: retrofits and controls.
        margin: of non-inferiority, in Dice.
        seed: of the bootstrap.
    """
    compared = groups(runs)
    questions, left_out = [], []
    for group in compared:
        for opponent, other in _opponents(group, compared):
            pairs = _pairs(group, other, runs)
            if not pairs:
                continue
            try:
                questions.append(_question(group, opponent, other, pairs, margin, seed))
            except ValueError as error:
                against = "the frozen U-Net" if other is None else other.name
                left_out.append(f"{group.name} is not compared with {against}: {error}.")
    known = [i for i, question in enumerate(questions) if question.comparison.p is not None]
    adjusted = dict(zip(known, holm([_p(questions[i]) for i in known]), strict=True))
    questions = [
        replace(q, comparison=with_doubt(replace(q.comparison, p_holm=adjusted.get(i))))
        for i, q in enumerate(questions)
    ]
    return Evaluation(
        compared,
        tuple(q for q in questions if not q.group.is_control),
        tuple(q for q in questions if q.group.is_control),
        tuple(left_out),
    )


def speed_up(run: Run, others: Sequence[Run]) -> float | None:
    """Return how many times longer the full search took than an accelerated one.

    The mean over full searches of the same frozen tensors, fold, batches per epoch and hardware;
    None where there is none, or where `run` is no accelerated search that ended.
    """
    if run.method != "IAC-LTH" or run.genotype is None:
        return None
    full = [
        other.search_seconds
        for other in others
        if other.method == "IAC" and other.genotype is not None
        if _same_start(run, other)
        and other.settings.iterations_per_epoch == run.settings.iterations_per_epoch
        and other.cost.hardware == run.cost.hardware
    ]
    return sum(full) / len(full) / run.search_seconds if full else None


def pooled(scores: Iterable[CaseScores], label: str) -> CaseScores:
    """Return the scores of several runs as one; a case that several have is their mean.

    Its folder is no folder but the label, for there are several.

    Raises:
        ValueError: no scores.
    """
    parts = list(scores)
    if not parts:
        raise ValueError("scores to be pooled must be at least one; got none: finish a run first")
    dice: dict[str, list[float | None]] = {}
    per_class: dict[str, dict[str, list[float | None]]] = {}
    for part in parts:
        for case, value in part.dice.items():
            dice.setdefault(case, []).append(value)
            for name, score in part.per_class[case].items():
                per_class.setdefault(case, {}).setdefault(name, []).append(score)
    return CaseScores(
        folder=Path(label),
        label=label,
        dice={case: mean_of_present(values) for case, values in dice.items()},
        per_class={
            case: {name: mean_of_present(values) for name, values in classes.items()}
            for case, classes in per_class.items()
        },
        sources=tuple(source for part in parts for source in part.sources),
    )


def opponent_name(group: Group, runs: Iterable[Run]) -> str:
    """Return what pages call these runs of a group, and how many cells were drawn at random."""
    draws = len({run.settings.genotype for run in runs})
    several = f" ({draws} draws)" if group.method == RANDOM_CELL and draws > 1 else ""
    return f"{OPPONENTS[group.method]}{group.mark}{several}"


def _opponents(group: Group, compared: Sequence[Group]) -> Iterator[tuple[Opponent, Group | None]]:
    """Return what a group is compared with; None is the frozen network."""
    yield "reference", None
    for other in () if group.is_control else compared:
        if other.is_control or (other.method == "IAC-Discrete" != group.method):
            yield "control", other
        elif group.method == "IAC-LTH" and other.method == "IAC":
            yield "full search", other


def _pairs(group: Group, other: Group | None, runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return the runs of both that may be compared; of a frozen network the run that validated it.

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
    """Return the run that validated the frozen network: itself, or for a control one beside it."""
    beside = [other for other in runs if _same_start(run, other)] if run.is_control else []
    return next((other for other in (run, *beside) if other.reference is not None), None)


def _question(
    group: Group,
    opponent: Opponent,
    other: Group | None,
    pairs: Sequence[tuple[Run, Run]],
    margin: float,
    seed: int,
) -> Question:
    name = "the frozen U-Net" if other is None else opponent_name(other, [run for _, run in pairs])
    # By identity: a run may stand in several pairs.
    own = {id(run): run.scores for run, _ in pairs if run.scores is not None}
    found = [run.reference if other is None else run.scores for _, run in pairs]
    theirs = {id(scores): scores for scores in found if scores is not None}
    comparison = compare_scores(
        pooled(theirs.values(), name),
        pooled(own.values(), group.name),
        patient_pattern=group.runs[0].settings.patient_pattern,
        margin=margin,
        seed=seed,
    )
    own_epochs, other_epochs = (
        sum(run.epochs for run in side) / len(pairs) for side in zip(*pairs, strict=True)
    )
    if other is None:  # The frozen network is not trained any further.
        return Question(group, opponent, other, name, comparison, own_epochs, 0.0, False)
    equal = all(_batches(a) == _batches(b) for a, b in pairs)
    return Question(group, opponent, other, name, comparison, own_epochs, other_epochs, equal)


def _batches(run: Run) -> int:
    """Return the batches a run has learned from since its backbone was frozen."""
    return run.epochs * run.settings.iterations_per_epoch


def _p(question: Question) -> float:
    assert question.comparison.p is not None
    return question.comparison.p


def _same_start(a: Run, b: Run) -> bool:
    """Return whether two runs began with the same frozen tensors on the same fold."""
    places = {(run.dataset, run.configuration, run.fold, run.backbone.before) for run in (a, b)}
    return len(places) == 1


def _key(run: Run) -> Key:
    """Return what the runs of a group have in common: place, backbone, method and settings."""
    settings = run.settings.resolved().to_mapping()
    varying = {*NOT_STRUCTURAL, "patient_pattern"}
    if run.is_control:
        varying |= {*FREE_IN_CONTROLS}
    structural = {k: str(v) for k, v in settings.items() if k not in varying}
    backbone = Path(run.backbone.path).parent.parent.name
    return (run.dataset, run.configuration, run.method, backbone), tuple(structural.items())


def _marks(keys: Sequence[Key]) -> list[str]:
    """Return what tells groups of one method apart, in brackets; nothing where it is alone."""
    marks = []
    for (dataset, configuration, method, backbone), settings in keys:
        rivals = [key for key in keys if key[0][2] == method]
        places = {place for place, _ in rivals}
        parts = [
            part
            for i, part in enumerate((dataset, configuration, method, backbone))
            if i != 2 and len({place[i] for place in places}) > 1
        ]
        known: dict[str, set[str]] = {}
        for _, others in rivals:
            for name, value in others:
                known.setdefault(name, set()).add(value)
        parts += [f"{name}={value}" for name, value in settings if len(known[name]) > 1]
        marks.append(f" ({', '.join(parts)})" if parts else "")
    return marks
