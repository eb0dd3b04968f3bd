"""Several nnU-Nets against references and controls, their p values adjusted together."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_iac.analysis.scores import comparison
from nnunet_iac.analysis.scores.case_scores import CaseScores, read_case_scores
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted, compare_scores
from nnunet_iac.analysis.scores.forgetting import (
    forgetting,
    forward_transfer,
    scores_of,
    trained_alone,
)
from nnunet_iac.analysis.scores.frozen_backbone import require_frozen
from nnunet_iac.analysis.scores.mirroring import mixed_mirroring
from nnunet_iac.analysis.scores.statistics import MARGIN, fisher_combination, require_margin
from nnunet_iac.analysis.scores.wording import finding
from nnunet_iac.analysis.vocabulary import RANDOM_CELL


@dataclass(frozen=True)
class Comparisons:
    """Comparisons made together, in the order asked for, their p values adjusted for each other.

    `fisher` is the combined p of comparisons of different patients; `controls` are labels of what
    each B of the others must beat, `names` short ones of all labels where there are controls;
    `headline` must be read before any number. `forgetting` compares every method that adapts a
    model with that model, on its source, by its label; these are adjusted for each other alone.
    `transfers` compares them on the target with networks that were trained there alone.
    """

    comparisons: tuple[PairedComparison, ...]
    margin: float
    seed: int
    tolerance: float | None = None
    fisher: float | None = None
    remarks: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    headline: str = ""
    forgetting: tuple[PairedComparison, ...] = ()
    transfers: tuple[PairedComparison, ...] = ()


def compare_folders(
    references: Sequence[Path],
    others: Sequence[Path],
    controls: Sequence[Path] = (),
    *,
    patient_pattern: str | None = None,
    margin: float = MARGIN,
    seed: int = 0,
    tolerance: float | None = None,
    unrelated: bool = False,
) -> Comparisons:
    """Return every B against its A and against every control, and the controls against A.

    There is one A (`references`) for all B (`others`), or one for each. The pattern of patients is
    in place of the runs' own; without a tolerance HD95 and NSD are left out. Unless `unrelated`, A
    must be the backbone of B.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: see `read_case_scores`, `require_frozen` and
            `compare_scores`.
    """
    require_margin(margin)
    if patient_pattern is not None:
        comparison.require_pattern(patient_pattern)
    if len(references) not in (1, len(others)):
        raise ValueError(
            f"-a must be given once, or once for each -b; got {len(references)} -a and "
            f"{len(others)} -b: leave some out"
        )
    _require_apart(references, others, controls)
    paths = dict.fromkeys([*references, *others, *controls])
    scores = {path: read_case_scores(path, tolerance=tolerance) for path in paths}
    labels = [score.label for score in scores.values()]
    if len(set(labels)) < len(labels):
        scores = {p: dataclasses.replace(score, label=str(p)) for p, score in scores.items()}
    shared = len(references) == 1
    pairs = [
        (baseline, other)
        for number, other in enumerate(others)
        for baseline in (references[0 if shared else number], *controls)
    ]
    compared, mixed = [], list[str]()
    for baseline, other in (*pairs, *((references[0], control) for control in controls)):
        a, b = scores[baseline], scores[other]
        comparison.require_paired(a, b)
        origin = ("A need not be the backbone of B (--unrelated)",)
        remarks = origin if unrelated else require_frozen(a, b)
        one = compare_scores(a, b, patient_pattern=patient_pattern, margin=margin, seed=seed)
        compared.append(dataclasses.replace(one, remarks=(*remarks, *one.remarks)))
        mixed += mixed_mirroring(a, b)
    made = _together(compared, margin, seed, tolerance)
    how = patient_pattern, margin, seed
    lost = {path: _forgetting(score, *how) for path, score in scores.items()}
    adapted = [scores[path] for path in (*others, *controls) if lost[path] is not None]
    made = dataclasses.replace(
        made,
        forgetting=adjusted([one for one in lost.values() if one is not None]),
        transfers=adjusted([one for score in adapted for one in _transfers(score, *how)]),
        headline=" ".join(mixed),
    )
    if not controls:
        return made
    names = _names([scores[path] for path in paths if path not in references])
    names[scores[references[0]].label] = "backbone"
    random = {scores[c].label for c in controls if _method(scores[c]) == RANDOM_CELL}
    said = [
        f"{names[c.labels[1]]}: {finding(c, f'a {names[c.labels[0]]}')}."
        for c in made.comparisons
        if c.labels[0] in random and c.verdict != "better"
    ]
    headline = " ".join([*mixed, *said])
    beaten = tuple(scores[control].label for control in controls)
    return dataclasses.replace(made, controls=beaten, names=names, headline=headline)


def _forgetting(
    scores: CaseScores, pattern: str | None, margin: float, seed: int
) -> PairedComparison | None:
    """Return what a side has forgotten; None unless all of it was scored on one source."""
    known = (source.adapted for source in scores.sources)
    adapted = [record for record in known if record is not None and record.forgetting is not None]
    if len(adapted) < len(scores.sources) or len({record.dataset for record in adapted}) != 1:
        return None
    data = scores.sources[0].data
    own = data.patient_pattern if pattern is None and data is not None else pattern
    return forgetting(list(map(scores_of, adapted)), scores.label, own, margin, seed)


def _transfers(
    scores: CaseScores, pattern: str | None, margin: float, seed: int
) -> list[PairedComparison]:
    """Return an adapted side against networks beside it that were trained on the target alone."""
    folds = [source.fold for source in scores.sources if source.fold is not None]
    alone = trained_alone(folds, scores.dice).values()
    return [forward_transfer(other, scores, pattern, margin, seed) for other in alone]


def _require_apart(
    references: Sequence[Path], others: Sequence[Path], controls: Sequence[Path]
) -> None:
    if controls and len(references) > 1:
        raise ValueError(
            f"--control needs one -a, which all are measured by; got {len(references)} -a: leave "
            "--control out, or compare one -a at a time"
        )
    given = [path.resolve() for path in (*references, *others)]
    for control in controls:
        if control.resolve() in given:
            raise ValueError(
                f"a --control must be something else than -a, -b and other controls; {control} is "
                "given twice: name it once"
            )
        given.append(control.resolve())


def _method(scores: CaseScores) -> str | None:
    """Return the method that all records of a side name; None for a backbone."""
    methods = {None if source.frozen else source.method for source in scores.sources}
    return methods.pop() if len(methods) == 1 else None


def _names(sides: Sequence[CaseScores]) -> dict[str, str]:
    """Return what tables call each side: its method, with its label where others have that, too."""
    methods = [_method(side) for side in sides]
    names = {}
    for side, method in zip(sides, methods, strict=True):
        alone = methods.count(method) == 1
        known = method if method is None or alone else f"{method} ({side.label})"
        names[side.label] = known or side.label
    return names


def _together(
    compared: Sequence[PairedComparison], margin: float, seed: int, tolerance: float | None
) -> Comparisons:
    """Return comparisons with their p values adjusted, and combined where that is allowed."""
    known = [c.p for c in compared if c.p is not None]
    fisher, remarks = None, tuple[str, ...]()
    if len(compared) > 1:
        patients = [{row.patient for row in c.rows} for c in compared]
        left_out = "Fisher's combination is left out: "
        if len(set().union(*patients)) < sum(map(len, patients)):
            remarks = (f"{left_out}the comparisons share patients, so they are not independent.",)
        elif len(known) < len(compared):
            remarks = (f"{left_out}a comparison has no p.",)
        else:
            fisher = fisher_combination(known)
    return Comparisons(adjusted(compared), margin, seed, tolerance, fisher, remarks)
