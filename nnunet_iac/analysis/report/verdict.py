"""What the cells are worth and what to do about it, in one sentence."""

from collections.abc import Sequence

from nnunet_iac.analysis.report.evaluation import Group, Question
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.comparison import RANDOM_CELL, Comparison, so_far, standing
from nnunet_iac.analysis.scores.statistics import CONFIDENCE, Interval


def verdict(group: Group, questions: Sequence[Question]) -> str:
    """Return in one sentence whether the cells of a group helped, and what to do about it."""
    own = [question for question in questions if question.group is group]
    reference = next((q for q in own if q.opponent == "reference"), None)
    if reference is None:
        reasons = ", ".join(dict.fromkeys(map(_why_unscored, group.runs)))
        return f"Nothing can be said yet of what these cells are worth: {reasons}."
    size = _size(reference.comparison)
    patients = f"{reference.comparison.patients} patients"
    sentence = {
        "helped": f"The cells helped: {size} in mean Dice over the frozen U-Net, {patients}",
        "harmed": f"The cells harmed: {size} in mean Dice against the frozen U-Net, {patients}",
        "no difference": "The cells made no difference that could be shown: "
        f"{size} in mean Dice against the frozen U-Net, {patients}",
        "too few patients": f"Too few patients to tell ({patients}): "
        f"{size} in mean Dice against the frozen U-Net",
    }[reference.comparison.verdict]
    controls = [question for question in own if question.opponent == "control"]
    clauses = _clauses(controls, reference) or ["no control at equal budget was at hand"]
    return f"{sentence}; {'; '.join(clauses)}: {advice(reference, controls)}."


def advice(reference: Question, controls: Sequence[Question]) -> str:
    """Return what to do, from the comparisons with the frozen network and the controls.

    The cells are advised only where no network has seen the cases, and where the cells beat the
    frozen network and every control at equal budget, after correction for all comparisons.
    """
    against = [question.comparison.verdict for question in controls]
    if any(question.comparison.leakage for question in (reference, *controls)):
        return "keep your backbone, for a network has seen cases it was scored on"
    if reference.comparison.verdict == "too few patients":
        return "validate on more patients before you decide, and keep your backbone until then"
    if reference.comparison.verdict != "helped":
        return "keep your backbone"
    if "harmed" in against:
        return "keep your backbone, or use what is better than the cells"
    if "no difference" in against:
        return "keep your backbone, for the gain is not the search's"
    if not controls:
        return "this may be the gain of any further training, so train a control before you decide"
    if "too few patients" in against:
        return "keep your backbone until the controls have more patients"
    if not all(question.equal_budget for question in controls):
        return "promising, but train the controls for as long before you decide"
    if not all(_survives(question.comparison) for question in (reference, *controls)):
        return "keep your backbone, for this is not certain after correction for all comparisons"
    return "use the retrofit"


def random_standings(questions: Sequence[Question], named: bool) -> tuple[str, ...]:
    """Return which cells did no better than a random one, in a sentence each.

    A gain that a random cell also has is not the search's gain.

    Args:
        questions: of all groups.
        named: whether to say whose cells.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for question in questions:
        how = standing(question.comparison)
        if how and question.other is not None and question.other.method == RANDOM_CELL:
            key = question.name, how, so_far(question.comparison)
            found.setdefault(key, []).append(question.group.name)
    return tuple(
        f"{rival[0].upper()}{rival[1:]} did {how} "
        f"{f'the cells of {_enumerated(groups)}' if named else 'these cells'}{doubt}."
        for (rival, how, doubt), groups in found.items()
    )


def difference_text(difference: float, interval: Interval | None) -> str:
    """Return a difference of Dice with its interval, for example `+0.012 (0.008 to 0.016)`."""
    ends = "" if interval is None else f" ({_number(interval.low)} to {_number(interval.high)})"
    return f"{'+' if difference >= 0 else ''}{_number(difference)}{ends}"


def _why_unscored(run: Run) -> str:
    if not run.validated:
        return run.stage
    if run.scores is None:
        return "validated on the cases it learned from"
    return "the frozen network's own validation is missing, which --val writes"


def _clauses(controls: Sequence[Question], reference: Question) -> list[str]:
    """Return what the controls say of the cells, a clause for those with the same outcome."""
    words = {
        "helped": "the cells are better than",
        "too few patients": "undecided against",
        "no difference": "no difference could be shown to",
        "harmed": "the cells are worse than",
    }
    clauses = []
    but = "but " if reference.comparison.verdict == "helped" else ""
    for outcome, said in words.items():
        found = [q for q in controls if q.comparison.verdict == outcome]
        adverse = outcome in ("no difference", "harmed")
        if len(found) == 1:
            clauses.append(f"{but if adverse else ''}{said} {_alone(found[0], reference)}")
        elif found:
            clauses.append(f"{but if adverse else ''}{said} {_listed(found, reference)}")
        if adverse and found:
            but = ""
    return clauses


def _alone(question: Question, reference: Question) -> str:
    """Return one control, for how long it was trained, and the difference to it."""
    itself_trained = question.other is not None and question.other.runs[0].trains_backbone
    trained = "" if itself_trained else "trained "
    patients = _fewer_patients(question, reference)
    return f"{question.name} {trained}{_how_long(question)}, {_size(question.comparison)}{patients}"


def _listed(questions: Sequence[Question], reference: Question) -> str:
    """Return several controls with the differences to them; their intervals are in the table."""
    lengths = {_how_long(question) for question in questions}
    names = [
        _bracketed(
            question.name,
            difference_text(question.comparison.difference, None)
            + (f", {_how_long(question)}" if len(lengths) > 1 else "")
            + _fewer_patients(question, reference),
        )
        for question in questions
    ]
    together = f", all trained {lengths.pop()}" if len(lengths) == 1 else ""
    return f"{_enumerated(names)}{together}"


def _how_long(question: Question) -> str:
    """Return for how long a control was trained, beside the cells."""
    if question.equal_budget:
        return "for as long"
    return f"for {question.other_epochs:.0f} epochs instead of {question.own_epochs:.0f}"


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _bracketed(name: str, text: str) -> str:
    """Return a name and a text in brackets, in the name's own where it ends with some."""
    return f"{name.removesuffix(')')}; {text})" if name.endswith(")") else f"{name} ({text})"


def _fewer_patients(question: Question, reference: Question) -> str:
    fewer = question.comparison.patients < reference.comparison.patients
    return f", {question.comparison.patients} patients" if fewer else ""


def _survives(comparison: Comparison) -> bool:
    return comparison.p_holm is not None and comparison.p_holm <= 1 - CONFIDENCE


def _size(comparison: Comparison) -> str:
    text = difference_text(comparison.difference, comparison.interval)
    return text.replace(" (", " (95 % interval ", 1)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")
