"""Forgetting of adapted models on their source, and forward transfer to the target.

Forgetting is the Dice on the source after adapting minus that before: negative where something is
forgotten. With two data sets it is the backward transfer of Lopez-Paz and Ranzato (Gradient
episodic memory, NeurIPS 2017) and of Lifelong nnU-Net (Gonzalez et al., Scientific Reports 2023).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.scores.case_scores import (
    CaseScores,
    pooled,
    read_case_scores,
    scores_training_cases,
)
from nnunet_iac.analysis.scores.comparison import PairedComparison, compare_scores
from nnunet_iac.analysis.scores.mirroring import mixed_mirroring
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.runs.atomic import content_of, read_json
from nnunet_iac.runs.fold import EXPORTED_FROM
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import SourceRecord
from nnunet_iac.runs.scores import VALIDATION_SUMMARY
from nnunet_iac.search.patients import fitting_pattern

BEFORE, AFTER = "before", "after"
"""The labels of a backbone and of a network on the source."""

SourceScores = tuple[CaseScores, CaseScores]
"""Scores of a run on its source, before and after."""


def forgetting(
    scores: Sequence[SourceScores],
    label: str,
    pattern: str | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> PairedComparison:
    """Return a method's networks on the source (B) against their backbones (A).

    Args:
        scores: of every run, on the source's validation cases; cases that several runs have are
            averaged first.
        label: of the method.
        pattern: of patients; where it does not match all cases of the source, a case is a patient.
        margin: as of `compare_scores`.
        seed: likewise.

    Raises:
        ValueError: no run, or no case with a Dice.
    """
    if not scores:
        raise ValueError(f"forgetting needs at least one run on a source; got none of {label}")
    a, b = (
        pooled(sides, name)
        for name, sides in zip((BEFORE, label), zip(*scores, strict=True), strict=True)
    )
    own = fitting_pattern(a.dice, pattern)
    found = compare_scores(a, b, patient_pattern=own, margin=margin, seed=seed)
    if own == pattern:
        return found
    why = f"every case counts as a patient: {pattern!r} does not match all of them"
    return replace(found, remarks=(why, *found.remarks[1:]))


def scores_of(record: SourceRecord) -> SourceScores:
    """Return what a run's record has of its source."""

    def side(found: Mapping[str, Any], label: str) -> CaseScores:
        return CaseScores.of_dice(found["per_case"], label, found.get("errors"))

    return side(record.before, BEFORE), side(record.after, AFTER)


def forward_transfer(
    scratch: CaseScores,
    adapted: CaseScores,
    pattern: str | None = None,
    margin: float = MARGIN,
    seed: int = 0,
) -> PairedComparison:
    """Return an adapted model on the target (B) against a network trained there alone (A).

    So Lifelong nnU-Net has it. Lopez-Paz and Ranzato take the model before it is adapted against
    one with random weights, whose Dice is about 0: that would be the target's Dice once more.
    """
    found = compare_scores(scratch, adapted, patient_pattern=pattern, margin=margin, seed=seed)
    return replace(found, remarks=(*mixed_mirroring(scratch, adapted), *found.remarks))


def trained_alone(folds: Sequence[Path], cases: Collection[str]) -> dict[str, CaseScores]:
    """Return the stock networks that were trained on the target, without the source, by trainer.

    They lie beside adapted runs, under the same plans or their source. Such a network began with
    random weights, unless it was trained with -pretrained_weights. Exported models are none, and
    what cannot be read is left out, as are folds that hold no cases out.

    Args:
        folds: fold folders of the adapted runs.
        cases: that a network must have been scored on.
    """
    found: dict[str, list[CaseScores]] = {}
    for fold in folds:
        for trainer, scores in _stock_beside(fold).items():
            found.setdefault(trainer, []).append(scores)
    return {
        trainer: pooled(parts, trainer)
        for trainer, parts in found.items()
        if {case for part in parts for case in part.dice} == {*cases}
    }


def _stock_beside(fold: Path) -> dict[str, CaseScores]:
    """Return what trainers without cells scored on a run's fold, by trainer."""
    model, file = fold.parent, fold.parent / "plans.json"
    parts = model.name.split("__")
    if len(parts) != 3 or scores_training_cases(fold):
        return {}
    _, plans, configuration = parts
    with content_of(file):
        source = read_json(file).get("source_plans") if file.is_file() else None
    found = {}
    for name in filter(None, (source, plans)):
        place = f"nnUNetTrainer*__{name}__{configuration}/{fold.name}"
        for other in sorted(model.parent.glob(place)):
            with suppress(ValueError, OSError):
                if (other / VALIDATION_SUMMARY).is_file() and _is_stock(other):
                    found[other.parent.name.partition("__")[0]] = read_case_scores(other)
    return found


def _is_stock(fold: Path) -> bool:
    """Return whether a model was trained by nnU-Net alone, and is no export of a run of ours."""
    path = fold.parent / "plans.json"
    exported = path.is_file() and EXPORTED_FROM in read_json(path)
    return not (exported or RunFolder.of_fold(fold).settings_file.is_file())
