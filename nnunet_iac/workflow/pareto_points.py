"""What methods at several widths cost and score, as JSON and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nnunet_iac.analysis.scores.case_scores import patient_means
from nnunet_iac.analysis.scores.statistics import bootstrap_interval
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.cost import Cost
from nnunet_iac.training.cost import circumstances
from nnunet_iac.workflow.pareto import Pareto, backbone
from nnunet_iac.workflow.study import REFERENCE


@dataclass(frozen=True)
class Point:
    """What a method at a width costs and scores.

    Args:
        cap: on the channels per stage.
        method: one of `METHODS`.
        parameters: of the network with its cells; over folds with different cells, their mean.
        macs: multiply-accumulates of one patch without deep supervision; likewise.
        dice: mean foreground Dice over a patient's validation cases, then over patients.
        low: lower end of its 95 % bootstrap interval over patients; None for a single one.
        high: upper end.
        patients: in all folds.
        cases: theirs.
        epochs: on top of the reference, search included; over folds, their mean.
    """

    cap: int
    method: str
    parameters: float
    macs: float
    dice: float
    low: float | None
    high: float | None
    patients: int
    cases: int
    epochs: float


def points(pareto: Pareto, runs: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return what the methods whose folds are all there cost and score, by cap and method.

    Args:
        pareto: the grid.
        runs: as a study's result file holds them.
    """
    found = []
    for cap in pareto.caps:
        width = pareto.source.cost(cap)
        for method in (REFERENCE, *(m for m in pareto.methods if m != REFERENCE)):
            own = [r for r in runs if (r["backbone"], r["method"]) == (backbone(cap), method)]
            if method in pareto.methods and {r["fold"] for r in own} == set(pareto.folds):
                found.append(_point(cap, method, own, width))
    return [point for point in found if point is not None]


def _point(cap: int, method: str, runs: Sequence[Mapping[str, Any]], width: Cost) -> Point | None:
    """Return the point of a method's folds; None where no case has a Dice."""
    dice: dict[str, float | None] = {}
    for run in runs:
        dice |= run["dice"]
    means, left_out = patient_means(dice, runs[0]["patient_pattern"])
    if not means:
        return None
    interval = bootstrap_interval(list(means.values())) if len(means) > 1 else None
    return Point(
        cap,
        method,
        fmean(width.parameters + _added(run, "parameters") for run in runs),
        fmean(width.macs + _added(run, "macs") for run in runs),
        fmean(means.values()),
        None if interval is None else interval.low,
        None if interval is None else interval.high,
        len(means),
        len(dice) - len(left_out),
        fmean(run.get("epochs", 0) for run in runs),
    )


def _added(run: Mapping[str, Any], cost: str) -> int:
    """Return what a training added to its reference."""
    return int(run[cost]["final"] - run[cost]["backbone"]) if cost in run else 0


def write_points(pareto: Pareto, found: Sequence[Point], path: Path) -> None:
    """Write the points as JSON, with what they were measured on."""
    document = {
        "dataset": pareto.source.folder.name,
        "configuration": pareto.source.configuration,
        "plans": pareto.source.plans["plans_name"],
        "trainer": pareto.source.trainer.__name__,
        "folds": list(pareto.folds),
        "settings": pareto.document()["settings"],
        "device": pareto.device,
        **circumstances(),
        "points": [asdict(point) for point in found],
    }
    write_json(path, document)


def table(found: Sequence[Point]) -> str:
    """Return the points as text."""
    lines = [
        f"{'cap':>6}  {'method':<10}{'parameters':>14}{'MACs':>18}{'epochs':>8}{'Dice':>8}  "
        f"{'95 %':<16}{'patients':>8}"
    ]
    for point in found:
        interval = "-" if point.low is None else f"{point.low:.3f} to {point.high:.3f}"
        lines.append(
            f"{point.cap:>6}  {point.method:<10}{point.parameters:>14,.0f}{point.macs:>18,.0f}"
            f"{point.epochs:>8.0f}{point.dice:>8.3f}  {interval:<16}{point.patients:>8}"
        )
    return "\n".join(lines)
