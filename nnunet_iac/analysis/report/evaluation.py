"""What the cells are worth: against the frozen network, against controls, and in one sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.analysis.scores.comparison import Comparison, compare_scores
from nnunet_iac.analysis.scores.statistics import MARGIN, Interval, holm
from nnunet_iac.runs.scores import mean_of_present

Opponent = Literal["reference", "control", "full search"]

NOT_STRUCTURAL = ("seed", "genotype", "recompute_cells", "deterministic")
"""Settings in which repetitions of one method may differ."""

CONTROL_NAMES = {"continued": "the U-Net trained on"}
"""What pages call the controls."""


@dataclass(frozen=True)
class Group:
    """The folds and seeds of one method on one data set.

    Args:
        name: short, and different from the other groups'.
        runs: of the same method, configuration and settings but for the seed.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """How its cells were found."""
        return self.runs[0].method

    @property
    def scored(self) -> tuple[Run, ...]:
        """The runs that were validated on cases held out."""
        return tuple(run for run in self.runs if run.scores is not None)


@dataclass(frozen=True)
class Question:
    """A group compared with one opponent on the same cases.

    Args:
        group: whose cells are B of the comparison.
        opponent: what A is.
        name: of A for people.
        comparison: B minus A.
        own_epochs, other_epochs: mean epochs that either was trained for after the backbone.
        equal_budget: whether every A was trained for as many batches as its cells were searched
            and finetuned.
    """

    group: Group
    opponent: Opponent
    name: str
    comparison: Comparison
    own_epochs: float
    other_epochs: float
    equal_budget: bool


def groups(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Return the runs by data set, configuration, backbone's trainer, method and settings."""
    by_key: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    names = _names(list(by_key))
    return tuple(Group(name, tuple(own)) for name, own in zip(names, by_key.values(), strict=True))


def evaluate(runs: Sequence[Run], margin: float = MARGIN, seed: int = 0) -> tuple[Question, ...]:
    """Return every comparison that the finished runs allow, their p values adjusted together.

    The cells against the frozen network's own validation, against every control that started from
    the same frozen tensors on the same fold, and the accelerated search against the full one.
    Cases validated by several runs (seeds) are averaged first, then the patients' cases.

    Args:
        runs: retrofits and controls.
        margin: of non-inferiority, in Dice.
        seed: of the bootstrap.
    """
    retrofits = [run for run in runs if not run.is_control]
    others = [group for group in groups(runs) if group.method != "IAC-LTH"]
    questions = []
    for group in groups(retrofits):
        own = [run for run in group.scored if run.reference is not None]
        references = [run.reference for run in own if run.reference is not None]
        if own:
            name = "the frozen U-Net"
            questions.append(
                _question(group, "reference", name, own, references, own, margin, seed)
            )
        for other in others:
            if other.runs[0].is_control or (group.method == "IAC-LTH" and other.method == "IAC"):
                questions += _against(group, other, margin, seed)
    known = [i for i, question in enumerate(questions) if question.comparison.p is not None]
    adjusted = dict(zip(known, holm([_p(questions[i]) for i in known]), strict=True))
    return tuple(
        replace(q, comparison=replace(q.comparison, p_holm=adjusted.get(i)))
        for i, q in enumerate(questions)
    )


def pooled(scores: Iterable[CaseScores], label: str) -> CaseScores:
    """Return the scores of several runs as one; a case that several have is their mean.

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
        folder=parts[0].folder,
        label=label,
        dice={case: mean_of_present(values) for case, values in dice.items()},
        per_class={
            case: {name: mean_of_present(values) for name, values in classes.items()}
            for case, classes in per_class.items()
        },
        sources=tuple(source for part in parts for source in part.sources),
    )


def verdict(group: Group, questions: Sequence[Question]) -> str:
    """Return in one sentence whether the cells of a group helped, and what to do about it."""
    own = [question for question in questions if question.group == group]
    reference = next((q for q in own if q.opponent == "reference"), None)
    if reference is None:
        stages = ", ".join(dict.fromkeys(run.stage for run in group.runs))
        return f"Nothing can be said yet of what these cells are worth: {stages}."
    found, size = reference.comparison.verdict, _size(reference.comparison)
    patients = f"{reference.comparison.patients} patients"
    sentence = {
        "helped": f"The cells helped: {size} in mean Dice over the frozen U-Net, {patients}",
        "harmed": f"The cells harmed: {size} in mean Dice against the frozen U-Net, {patients}",
        "no difference": "The cells made no difference that could be shown: "
        f"{size} in mean Dice against the frozen U-Net, {patients}",
        "too few patients": f"Too few patients to tell ({patients}): "
        f"{size} in mean Dice against the frozen U-Net",
    }[found]
    controls = [question for question in own if question.opponent == "control"]
    clauses = [_clause(question) for question in controls]
    clauses = clauses or ["no control at equal budget was at hand"]
    return f"{sentence}; {'; '.join(clauses)}: {advice(reference, controls)}."


def advice(reference: Question, controls: Sequence[Question]) -> str:
    """Return what to do, from the comparisons with the frozen network and the controls.

    The cells are advised only where they helped and beat every control at equal budget.
    """
    against = [question.comparison.verdict for question in controls]
    if reference.comparison.verdict == "too few patients":
        return "validate on more patients before you decide, and keep your backbone until then"
    if "harmed" in against:
        return "keep your backbone, and train it on if it is to improve"
    if reference.comparison.verdict != "helped" or "no difference" in against:
        return "keep your backbone"
    if not controls:
        return "this may be the gain of any further training, so train a control before you decide"
    if not all(question.equal_budget for question in controls):
        return "promising, but train the controls for as long before you decide"
    return "use the retrofit"


def difference_text(difference: float, interval: Interval | None) -> str:
    """Return a difference of Dice with its interval, for example `+0.012 (0.008 to 0.016)`."""
    ends = "" if interval is None else f" ({_number(interval.low)} to {_number(interval.high)})"
    return f"{'+' if difference >= 0 else ''}{_number(difference)}{ends}"


def _clause(question: Question) -> str:
    """Return what one control says of the cells."""
    comparison = question.comparison
    for_as_long = (
        "for as long"
        if question.equal_budget
        else (f"for {question.other_epochs:.0f} epochs instead of {question.own_epochs:.0f}")
    )
    words = {
        "helped": "the cells are better than",
        "harmed": "but the cells are worse than",
        "no difference": "but no difference could be shown to",
        "too few patients": "undecided against",
    }[comparison.verdict]
    return f"{words} {question.name} {for_as_long}, {_size(comparison)}"


def _size(comparison: Comparison) -> str:
    text = difference_text(comparison.difference, comparison.interval)
    return text.replace(" (", " (95 % interval ", 1)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _against(group: Group, other: Group, margin: float, seed: int) -> list[Question]:
    """Return the comparison with another group, over the folds both have, if there are any."""
    own, theirs, scores = [], [], []
    for run in group.scored:
        matching = [
            candidate
            for candidate in other.scored
            if _place(candidate) == _place(run) and candidate.backbone.before == run.backbone.before
        ]
        equal = [candidate for candidate in matching if _batches(candidate) == _batches(run)]
        for match in equal or matching:
            assert match.scores is not None
            own.append(run)
            theirs.append(match)
            scores.append(match.scores)
    if not own:
        return []
    opponent: Opponent = "control" if other.runs[0].is_control else "full search"
    name = CONTROL_NAMES.get(other.method, "the full search")
    return [_question(group, opponent, name, own, scores, theirs, margin, seed)]


def _question(
    group: Group,
    opponent: Opponent,
    name: str,
    own: Sequence[Run],
    other_scores: Sequence[CaseScores],
    others: Sequence[Run],
    margin: float,
    seed: int,
) -> Question:
    own_scores = {id(run): run.scores for run in own if run.scores is not None}
    theirs = {id(score): score for score in other_scores}
    comparison = compare_scores(
        pooled(theirs.values(), name),
        pooled(own_scores.values(), group.name),
        patient_pattern=own[0].settings.patient_pattern,
        margin=margin,
        seed=seed,
    )
    epochs = [sum(run.epochs for run in side) / len(side) for side in (own, others)]
    equal = all(_batches(a) == _batches(b) for a, b in zip(own, others, strict=True))
    return Question(group, opponent, name, comparison, epochs[0], epochs[1], equal)


def _batches(run: Run) -> int:
    """Return the batches a run has learned from since its backbone was frozen."""
    return run.epochs * run.settings.iterations_per_epoch


def _p(question: Question) -> float:
    assert question.comparison.p is not None
    return question.comparison.p


def _place(run: Run) -> tuple[str, str, str]:
    return run.dataset, run.configuration, run.fold


def _key(run: Run) -> tuple[str, ...]:
    settings = run.settings.resolved().to_mapping()
    structural = {k: v for k, v in settings.items() if k not in NOT_STRUCTURAL}
    if run.is_control:  # One length per fold is one control: it is as long as the fold's run was.
        structural = {k: v for k, v in structural.items() if k != "finetune_epochs"}
    trainer = run.backbone.trainer
    return run.dataset, run.configuration, run.method, trainer, str(sorted(structural.items()))


def _names(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a name for each key: the method, and what else of it differs between the keys."""
    varying = [i for i in (0, 1, 3) if len({key[i] for key in keys}) > 1]
    names = [", ".join([key[2], *(key[i] for i in varying)]) for key in keys]
    return [
        name if names.count(name) == 1 else f"{name}, settings {names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]
