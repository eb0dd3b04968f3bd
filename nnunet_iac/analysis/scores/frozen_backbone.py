"""Check that a network that methods are compared with is the one that a retrofit froze."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nnunet_iac.analysis.scores.case_scores import CaseScores, ScoredSummary
from nnunet_iac.analysis.vocabulary import TRAINS_BACKBONE
from nnunet_iac.runs.checkpoint import BEST, FINAL, read_checkpoint, tensors_hash
from nnunet_iac.runs.records import BackboneRecord

NO_RECORD = "neither A nor B has the record of a run, so it is not known whether B froze A"
SAME_DICE = 1e-3
"""How far a case's Dice may differ between two validations of one network."""


class Side(NamedTuple):
    """One fold of a side: `A` or `B`, its scores, and where they come from."""

    name: str
    scores: CaseScores
    source: ScoredSummary


def require_frozen(a: CaseScores, b: CaseScores) -> tuple[str, ...]:
    """Check that A and B have one backbone, and return how that is known.

    Of two runs with a record the backbones must have the same hash. Where one side has a
    record and the other none, the other must be the backbone: a checkpoint of its fold has
    the recorded hash, or where its checkpoints are gone, every case has the Dice that the backbone
    had by itself. Folders without any record are not checked, which is returned, too.

    Raises:
        ValueError: it is another network, or its scores are another's; it cannot be known; the
            folds differ; or a run's backbone did not stay as it was.
    """
    remarks = dict[str, None]()
    for sides in _pairs(a, b):
        for side in sides:
            _require_unchanged(side)
        remarks |= dict.fromkeys(_origin(*sides))
    return tuple(remarks)


def _pairs(a: CaseScores, b: CaseScores) -> Iterable[tuple[Side, Side]]:
    """Return the sources that belong together: by fold, or all with the only one of a side."""
    if min(len(a.sources), len(b.sources)) <= 1:
        return [(Side("A", a, x), Side("B", b, y)) for x in a.sources for y in b.sources]
    of_a, of_b = ({_place(source): source for source in side.sources} for side in (a, b))
    if of_a.keys() != of_b.keys():
        raise ValueError(
            f"both sides must have the same folds; {a.label} has {', '.join(sorted(of_a))} and "
            f"{b.label} {', '.join(sorted(of_b))}: compare single folds"
        )
    return [(Side("A", a, of_a[fold]), Side("B", b, of_b[fold])) for fold in sorted(of_a)]


def _require_unchanged(side: Side) -> None:
    record = side.source.record
    if record is None or side.source.method in TRAINS_BACKBONE or record.after is None:
        return
    if record.trained is None and not record.unchanged:
        raise ValueError(
            f"a run's backbone must stay as it was; that of {side.scores.label}, "
            f"{_place(side.source)}, has the hash {record.before[:12]} before and "
            f"{record.after[:12]} after: run it again"
        )


def _origin(a: Side, b: Side) -> tuple[str, ...]:
    """Return how it is known that both have one backbone."""
    continued = tuple(filter(None, map(_continued, (a, b))))
    of_a, of_b = a.source.record, b.source.record
    if of_b is None:
        return (*continued, *_stock_origin(b, a, of_a)) if of_a is not None else (NO_RECORD,)
    if of_a is None:
        return (*continued, *_stock_origin(a, b, of_b))
    if of_a.before != of_b.before:
        found = " and ".join(
            f"{side.scores.label} froze {record.path} ({record.before[:12]})"
            for side, record in ((a, of_a), (b, of_b))
        )
        raise ValueError(
            f"both sides must have the same backbone; {found}: compare runs of one "
            "backbone, or pass --unrelated"
        )
    return (*continued, "A and B have one backbone: their records have the same hash")


def _continued(side: Side) -> str | None:
    """Return what a side trained of its backbone, or None."""
    method, record = side.source.method, side.source.record
    if side.source.frozen:
        return None
    if method in TRAINS_BACKBONE:
        return f"{side.name} is a control: {TRAINS_BACKBONE[method]}"
    part = None if record is None else record.trained
    return part and f"{side.name} trained its backbone with the cells (trainable part: {part})"


def _stock_origin(stock: Side, run: Side, record: BackboneRecord) -> tuple[str, ...]:
    """Return how it is known that a network without a record is the one a run froze."""
    claim = f"{stock.name} is the network that {run.name} froze"
    known = (record.reference or {}).get("per_case", {})
    worst, difference = _worst(stock.scores.dice, known)
    agrees = difference is not None and difference <= SAME_DICE
    differs = f"the Dice of {worst} differs by {difference or 0:.4f} from the backbone's own"
    instead = f"take {run.source.fold}/iac/reference, or pass --unrelated"
    folder = stock.source.fold
    files = [] if folder is None else [folder / name for name in (FINAL, BEST)]
    found = {file.name: file for file in files if file.is_file()}
    for name, file in found.items():
        if tensors_hash(read_checkpoint(file)["network_weights"]) != record.before:
            continue
        proof = f"{claim}: its {name} has the recorded hash"
        if difference is None or agrees:
            return (proof,)
        if name == next(iter(found)):
            return (proof, f"{stock.name} was validated under other circumstances: {differs}")
        raise ValueError(
            f"the backbone's scores must be those of the network that was frozen; {folder} holds "
            f"it as {name}, but {differs}: validate that checkpoint (--val --val_best), {instead}"
        )
    if not found and agrees:
        return (
            f"{claim}, to judge by the Dice: it is the backbone's own within {SAME_DICE:g} "
            "for every case; the checkpoints are not there to compare",
        )
    if found:
        why = f"none of its {' and '.join(found)} has the recorded hash {record.before[:12]}"
    elif difference is None:
        why = "it has no checkpoints, and the record lacks the backbone's own Dice"
    else:
        why = f"it has no checkpoints, and {differs}"
    raise ValueError(
        f"{stock.scores.label} must be the network that {run.scores.label} froze, {record.path}; "
        f"{why}: name that one, {instead}"
    )


def _worst(
    found: Mapping[str, float | None], known: Mapping[str, float | None]
) -> tuple[str, float | None]:
    """Return the case whose Dice differs most from the known one, and by how much.

    Where only one of both has a Dice, that counts as 1; None where nothing is known.
    """

    def off(dice: float | None, expected: float | None) -> float:
        if dice is None or expected is None:
            return 0.0 if dice is expected else 1.0
        return abs(dice - expected)

    differences = {case: off(found.get(case), expected) for case, expected in known.items()}
    worst = max(differences, key=differences.__getitem__, default="")
    return worst, differences.get(worst)


def _place(source: ScoredSummary) -> str:
    return source.summary.parent.name if source.fold is None else source.fold.name
