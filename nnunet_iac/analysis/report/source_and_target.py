"""The section of adapted models: Dice on target and source, forgetting and forward transfer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.analysis.report.evaluation import Evaluation, Group, comparator_name
from nnunet_iac.analysis.report.page import Picture, Section, Table
from nnunet_iac.analysis.report.plane import PlanePoint, plane
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.case_scores import pooled
from nnunet_iac.analysis.scores.comparison import PairedComparison, adjusted
from nnunet_iac.analysis.scores.forgetting import (
    forgetting,
    forward_transfer,
    scores_of,
    trained_alone,
)
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.analysis.scores.wording import (
    NONE,
    difference_text,
    errors_text,
    p_text,
    score_text,
)

SOURCE_AND_TARGET_HEAD = (
    *("method", "runs", "target Dice", "minus the backbone (95 % interval)"),
    *("source Dice before", "source Dice", "forgetting (95 % interval)", "p, Holm"),
    *("forward transfer (95 % interval)", "false positives, target; source"),
    "misses, target; source",
)


@dataclass(frozen=True)
class Adaptation:
    """The runs of a method that adapt a model and were scored on its source.

    Args:
        place: target, configuration, source and model.
        name: of the method.
        runs: how many.
        target: against the backbone, on the target; None without held-out cases there, or
            without the backbone's scores.
        forgetting: the same on the source.
        transfers: against every network that was trained on the target alone, by its trainer.
    """

    place: tuple[str, str, str, str]
    name: str
    runs: int
    target: PairedComparison | None
    forgetting: PairedComparison
    transfers: dict[str, PairedComparison]


def adaptations(
    evaluation: Evaluation, margin: float = MARGIN, seed: int = 0
) -> tuple[Adaptation, ...]:
    """Return the adaptations among the groups, the p of their forgetting adjusted together."""
    compared = (*evaluation.comparisons, *evaluation.control_comparisons)
    against = {id(one.group): one.paired for one in compared if one.against.kind == "reference"}
    made = [
        _adaptation(group, against.get(id(group)), margin, seed)
        for group in evaluation.groups
        if _on_source(group)
    ]
    family = adjusted([one.forgetting for one in made])
    return tuple(replace(one, forgetting=new) for one, new in zip(made, family, strict=True))


def source_and_target(found: Sequence[Adaptation]) -> Section:
    """Return the section of adapted models: a table, and a plane for every model and target."""
    places = dict.fromkeys(one.place for one in found)
    pictures = []
    for number, place in enumerate(places):
        target, configuration, source, _ = place
        own = [one for one in found if one.place == place]
        points = [PlanePoint(one.name, one.target, one.forgetting) for one in own if one.target]
        if not points:
            continue
        title = f"Gain on {target} and forgetting on {source}, {configuration}"
        name = "plane" if number == 0 else f"plane-{number + 1}"
        pictures.append(Picture(name, title, CAPTIONS["plane"], partial(plane, points)))
    table = Table(
        "source_and_target",
        CAPTIONS["source_and_target"],
        SOURCE_AND_TARGET_HEAD,
        tuple(map(_row, found)),
    )
    sources = (f"Adapted to {p[0]}: the model {p[3]} of {p[2]}, the source" for p in places)
    remarks = {remark: None for one in found for remark in one.forgetting.remarks}
    mixed = dict.fromkeys(r for one in found for c in one.transfers.values() for r in c.remarks)
    alone = (f"Forward transfer: {remark}" for remark in mixed)
    paragraphs = (*sources, *(f"On the source, {remark}" for remark in remarks), *alone)
    return Section("source_and_target", "Source and target", paragraphs, (table,), tuple(pictures))


def numbers_of(one: Adaptation) -> dict[str, Any]:
    """Return the numbers of an adaptation for other programs."""
    lost = one.forgetting
    return {
        "method": one.name,
        **dict(zip(("target", "configuration", "source", "model"), one.place, strict=True)),
        "runs": one.runs,
        "target_dice": one.target and one.target.mean_b,
        "target_difference": one.target and one.target.difference,
        "source_dice_before": lost.mean_a,
        "source_dice": lost.mean_b,
        "source_patients": lost.patients,
        "forgetting": lost.difference,
        "interval": lost.interval and [lost.interval.low, lost.interval.high],
        "p_holm": lost.p_holm,
        "family": lost.family,
        "false_positives": lost.false_positives,
        "misses": lost.misses,
        "verdict": lost.verdict,
        "forward_transfer": {name: c.difference for name, c in one.transfers.items()},
    }


def _on_source(group: Group) -> list[Run]:
    """Return the runs of a group that were scored on a source."""
    return [r for r in group.runs if r.source is not None and r.source.forgetting is not None]


def _adaptation(
    group: Group, target: PairedComparison | None, margin: float, seed: int
) -> Adaptation:
    runs = _on_source(group)
    records = [run.source for run in runs if run.source is not None]
    first, pattern = runs[0], runs[0].settings.data.patient_pattern
    name = comparator_name(group, runs) if group.is_control else group.name
    model = Path(first.backbone.path).parent.parent.name
    how = pattern, margin, seed
    scored = [run.scores for run in runs if run.scores is not None]
    cases = {case for scores in scored for case in scores.dice}
    alone = trained_alone([run.fold_folder for run in runs], cases) if scored else {}
    return Adaptation(
        place=(first.dataset, first.configuration, records[0].dataset, model),
        name=name,
        runs=len(runs),
        target=target,
        forgetting=forgetting([scores_of(record) for record in records], name, *how),
        transfers={
            trainer: forward_transfer(theirs, pooled(scored, name), *how)
            for trainer, theirs in alone.items()
        },
    )


def _row(one: Adaptation) -> tuple[str, ...]:
    transfers = (f"{difference_text(c)} over {name}" for name, c in one.transfers.items())
    dice = NONE if one.target is None else score_text(one.target.mean_b)
    errors = (NONE, NONE) if one.target is None else errors_text(one.target)
    return (
        *(one.name, str(one.runs), dice, difference_text(one.target)),
        *(score_text(one.forgetting.mean_a), score_text(one.forgetting.mean_b)),
        *(difference_text(one.forgetting), p_text(one.forgetting.p_holm)),
        "; ".join(transfers) or "not available",
        *map("; ".join, zip(errors, errors_text(one.forgetting), strict=True)),
    )
