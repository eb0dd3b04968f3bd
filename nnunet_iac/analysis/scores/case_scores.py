"""The scores of an nnU-Net folder per case, and the run they belong to."""

import os
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nnunet_iac.analysis.scores.surface import read_surface_scores, require_monai, require_tolerance
from nnunet_iac.runs.atomic import content_of, read_json
from nnunet_iac.runs.checkpoint import FINAL, mirroring_of
from nnunet_iac.runs.fold import fold_folders
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder
from nnunet_iac.runs.records import BackboneRecord, SourceRecord
from nnunet_iac.runs.scores import (
    MEASURED_ON,
    SUMMARY,
    VALIDATION_SUMMARY,
    CaseErrors,
    ScoredCase,
    case_id,
    labels_of,
    mean_of_present,
    patient_means,
    read_summary,
)
from nnunet_iac.search.patients import named, patient_of
from nnunet_iac.search.setting_parts import DataConfig

FOLD_ALL = "fold_all"

PerClass = dict[str, dict[str, float | None]]
"""Per case, then per class."""

PerCase = Mapping[str, float | None]


@dataclass(frozen=True)
class ScoredSummary:
    """One summary.json, and what lies beside it about the run it belongs to.

    `fold` is nnU-Net's folder `fold_X`, where it is a validation; `frozen` is whether the scores
    are those of the frozen backbone by itself; `record` is the fold's `iac/backbone.json`, and
    `adapted` its `iac/source.json`, if the network is a model that was adapted. `mirroring` are the
    axes that were mirrored to predict, None if unknown.
    """

    summary: Path
    cases: tuple[str, ...]
    fold: Path | None = None
    frozen: bool = False
    record: BackboneRecord | None = None
    method: str | None = None
    data: DataConfig | None = None
    adapted: SourceRecord | None = None
    mirroring: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CaseScores:
    """The scores of one method, by case, and by case and class.

    Dice is the mean over foreground classes; a class absent from prediction and truth is None and
    left out, None where nothing is left. `truth_voxels` are a class's size in the truth, where
    known, and `errors` the false positives and misses of every case. HD95 (in mm) and NSD (in
    [0, 1]) are there where they were asked for, without classes absent from both; where one side
    lacks a class, HD95 is None and NSD 0.
    """

    folder: Path
    label: str
    dice: dict[str, float | None]
    per_class: PerClass
    truth_voxels: dict[str, dict[str, int]] | None = None
    errors: Mapping[str, CaseErrors] | None = None
    hd95: PerClass | None = None
    nsd: PerClass | None = None
    sources: tuple[ScoredSummary, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of_dice(
        cls, dice: PerCase, label: str, errors: Mapping[str, Sequence[float]] | None = None
    ) -> "CaseScores":
        """Return the scores of which only the Dice per case is known, in no folder.

        `errors` are false positives and misses of the cases that have any; None if unknown.
        """
        known = None if errors is None else {c: CaseErrors(*errors.get(c, (0, 0))) for c in dice}
        classes = {case: {"mean": d} for case, d in dice.items()}
        return cls(Path(label), label, {**dice}, classes, errors=known)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes scored, by their labels."""
        names = {name for scores in self.per_class.values() for name in scores}
        return tuple(sorted(names, key=labels_of))


def read_case_scores(folder: Path, *, tolerance: float | None = None) -> CaseScores:
    """Return the scores of an nnU-Net folder; with a tolerance in mm, HD95 and NSD as well.

    It is one with a summary.json; a fold's folder; a model's folder `TRAINER__PLANS__CONFIG`, whose
    numbered folds are pooled; or a run's `iac/reference`.

    Raises:
        FileNotFoundError: no summary.json, or with a tolerance, an image that is gone.
        ValueError: a damaged summary, cases missing from it or foreign to its split, a case in two
            folds, or a validation of training cases.
        RuntimeError: a tolerance was given and MONAI is not installed.
    """
    if tolerance is not None:
        require_tolerance(tolerance)
        require_monai()
    summaries, remarks = _summaries(folder)
    scored: dict[str, ScoredCase] = {}
    sources, found_in = [], dict[str, Path]()
    for summary in summaries:
        cases = read_summary(summary)
        sources.append(_source(summary, cases))
        _require_whole(sources[-1], cases)
        for case in cases:
            if case in found_in:
                raise ValueError(
                    f"a case must be in one fold's validation only; {case} is in {found_in[case]} "
                    f"and {summary}: train the folds on one splits_final.json"
                )
            found_in[case] = summary
        scored.update(cases)
    hd95, nsd = (None, None) if tolerance is None else _surfaces(scored, found_in, tolerance)
    return CaseScores(
        folder=folder,
        label=_label(folder, sources),
        dice={case: mean_of_present(row.dice.values()) for case, row in scored.items()},
        per_class={case: row.dice for case, row in scored.items()},
        truth_voxels={case: row.truth_voxels for case, row in scored.items()},
        errors={case: row.errors for case, row in scored.items()},
        hd95=hd95,
        nsd=nsd,
        sources=tuple(sources),
        remarks=remarks,
    )


def pooled(parts: Sequence[CaseScores], label: str) -> CaseScores:
    """Return the scores of several runs as one; a case that several have is their mean.

    Where only some of them have a Dice of a case, the others count with the mean of all theirs: to
    leave them out would give one false positive the weight of all runs.
    """
    if not parts:
        raise ValueError("scores to be pooled must be at least one; got none: finish a run first")

    def mean(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
        """Return the mean of every key over the rows that have it."""
        keys = dict.fromkeys(key for row in rows for key in row)
        return {key: mean_of_present(row[key] for row in rows if key in row) for key in keys}

    dice = mean([part.dice for part in parts])
    scored = {case for case, value in dice.items() if value is not None}
    dice |= mean([filled(part.dice, sorted(scored & part.dice.keys())) for part in parts])
    classes = {case: [p.per_class[case] for p in parts if case in p.dice] for case in dice}
    return CaseScores(
        folder=Path(label),
        label=label,
        dice=dice,
        per_class={case: mean(rows) for case, rows in classes.items()},
        errors=_pooled_errors([part.errors for part in parts]),
        sources=tuple(source for part in parts for source in part.sources),
    )


def filled(dice: PerCase, cases: Collection[str], pattern: str | None = None) -> dict[str, float]:
    """Return the Dice of cases; one that has none gets its patient's mean, or that of patients.

    So the mean stays nnU-Net's, who counts a false positive as 0, and not a class that prediction
    and truth lack. Nothing is returned where no case has a Dice.
    """
    of_patients, _ = patient_means({case: dice[case] for case in cases}, pattern)
    if not of_patients:
        return {}
    usual = fmean(of_patients.values())
    return {
        case: of_patients.get(patient_of(case, pattern), usual) if (d := dice[case]) is None else d
        for case in cases
    }


def _pooled_errors(
    parts: Sequence[Mapping[str, CaseErrors] | None],
) -> dict[str, CaseErrors] | None:
    """Return the mean errors of every case; None if they are unknown of a part."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    found = {c: [part[c] for part in known if c in part] for part in known for c in part}
    return {c: CaseErrors(*map(fmean, zip(*rows, strict=True))) for c, rows in found.items()}


def _summaries(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the summaries that a folder stands for, and what of it was left out."""
    for summary in (folder / SUMMARY, folder / VALIDATION_SUMMARY):
        if summary.is_file():
            return [summary], ()
    folds = [path for path in fold_folders(folder) if path.is_dir()]
    held_out = [fold for fold in folds if not scores_training_cases(fold)]
    if not held_out:
        raise FileNotFoundError(
            f"{folder} must have {SUMMARY}, {VALIDATION_SUMMARY} or folds that hold cases "
            "out with that; it has none: name a model, fold or prediction folder, validate with "
            "--val, or run nnUNetv2_evaluate_folder on predictions"
        )
    summaries = [fold / VALIDATION_SUMMARY for fold in held_out]
    for summary in summaries:
        if not summary.is_file():
            raise FileNotFoundError(
                f"every fold of a model must be validated; {summary} does not exist: finish that "
                "fold, or name single folds"
            )
    return summaries, tuple(
        f"{fold.name} of {folder.name} is left out: it was validated on its training cases"
        for fold in folds
        if fold not in held_out
    )


def scores_training_cases(fold: Path) -> bool:
    """Return whether a fold's validation cases are training cases: of `all`, or of one case."""
    record = RunFolder.of_fold(fold)
    if fold.name == FOLD_ALL or not record.split_file.is_file():
        return fold.name == FOLD_ALL
    scored = _held_out(record.split_file)
    return bool(scored) and scored <= {*record.read_split().get("training", ())}


def _source(summary: Path, cases: Mapping[str, ScoredCase]) -> ScoredSummary:
    # Not resolved: what a link leads to has another name.
    folder = Path(os.path.abspath(summary)).parent
    if folder.name != VALIDATION_SUMMARY.parent.name:
        return ScoredSummary(summary, tuple(cases))
    frozen = folder.parent.name == "reference" and folder.parent.parent.name == FOLDER_NAME
    fold = folder.parent.parent.parent if frozen else folder.parent
    if scores_training_cases(fold):
        raise ValueError(
            f"a validation must be of cases held out; {summary} is {fold.name}'s, whose cases it "
            "learned from: name a fold with others"
        )
    run = RunFolder.of_fold(fold)
    return ScoredSummary(
        summary,
        tuple(cases),
        fold,
        frozen,
        record=run.read_backbone() if run.backbone_file.is_file() else None,
        method=run.read_cost().run.get("method") if run.cost_file.is_file() else None,
        data=run.read_settings().data if run.settings_file.is_file() else None,
        adapted=None if frozen else run.read_source(),
        mirroring=_mirroring_of_backbone(folder.parent) if frozen else mirroring_of(fold / FINAL),
    )


def _mirroring_of_backbone(reference: Path) -> tuple[int, ...] | None:
    """Return the axes mirrored in a run's validation of its backbone; None if unknown."""
    path = reference / MEASURED_ON
    with content_of(path):
        return tuple(read_json(path).get("mirrored") or ()) if path.is_file() else None


def _require_whole(source: ScoredSummary, cases: Mapping[str, ScoredCase]) -> None:
    """Check that the summary has the cases of its split and of the predictions beside it."""
    scored = set(cases)
    split_file = None if source.fold is None else RunFolder.of_fold(source.fold).split_file
    if split_file is not None and split_file.is_file():
        held_out = _held_out(split_file)
        if missing := held_out - scored:
            raise ValueError(
                f"{source.summary} must have all validation cases of {split_file}; it lacks "
                f"{named(missing)}: validate again with --val"
            )
        if foreign := scored - held_out:
            raise ValueError(
                f"{source.summary} must have the validation cases of {split_file} only; it has "
                f"{named(foreign)}: remove their predictions and validate again with --val"
            )
    endings = {row.prediction.name.removeprefix(case) for case, row in cases.items()}
    files = [path.name for path in source.summary.parent.iterdir()]
    predicted = {case_id(name) for name in files if name.removeprefix(case_id(name)) in endings}
    if unscored := predicted - scored:
        raise ValueError(
            f"{source.summary} must have every case predicted beside it; it lacks "
            f"{named(unscored)}: validate again with --val, or run nnUNetv2_evaluate_folder"
        )


def _held_out(split_file: Path) -> set[str]:
    split = read_json(split_file)
    cases = split.get("validation") if isinstance(split, dict) else None
    if not isinstance(cases, list):
        raise ValueError(
            f"{split_file} must list the cases under 'validation'; got {reprlib.repr(cases)}: "
            "restore it"
        )
    return set(map(str, cases))


def _surfaces(
    cases: Mapping[str, ScoredCase], found_in: Mapping[str, Path], tolerance: float
) -> tuple[PerClass, PerClass]:
    """Return HD95 and NSD per case and class."""
    for summary in set(found_in.values()):
        _require_no_ignore_label(summary)
    hd95, nsd = PerClass(), PerClass()
    for case, row in cases.items():
        prediction = found_in[case].parent / row.prediction.name
        scores = read_surface_scores(prediction, row.truth, row.dice, tolerance)
        hd95[case] = {name: score.hd95 for name, score in scores.items()}
        nsd[case] = {name: score.nsd for name, score in scores.items()}
    return hd95, nsd


def _require_no_ignore_label(summary: Path) -> None:
    files = (folder / "dataset.json" for folder in summary.parents[:5])
    for path in files:
        content = read_json(path) if path.is_file() else None
        if isinstance(content, dict) and "ignore" in dict(content.get("labels") or {}):
            raise ValueError(
                f"surfaces must be known everywhere; {path} has an ignore label, behind which "
                "they are not: leave --surface out"
            )


def _label(folder: Path, sources: Sequence[ScoredSummary]) -> str:
    own, fold = Path(os.path.abspath(folder)), sources[0].fold
    if fold is None or own == fold.parent:
        return own.name
    reference = f"/{FOLDER_NAME}/reference" if sources[0].frozen else ""
    return f"{fold.parent.name}/{fold.name}{reference}"
