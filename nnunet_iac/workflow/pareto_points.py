"""What methods at several widths cost and score, as JSON and as text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import fmean

from nnunet_iac.analysis.scores.case_scores import patient_means
from nnunet_iac.analysis.scores.statistics import bootstrap_interval
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.search.budget import Cost
from nnunet_iac.training.cost import provenance
from nnunet_iac.workflow.pareto import REFERENCE, Pareto, Run


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


def points(study: Pareto) -> list[Point]:
    """Return what the methods whose folds are all finished cost and score, by cap and method."""
    found = []
    for cap in study.caps:
        width = study.source.cost(cap)
        for method in study.methods:
            runs = [r for r in study.runs() if (r.cap, r.method) == (cap, method)]
            if runs and all(map(study.finished, runs)):
                found.append(_point(study, runs, width))
    return [point for point in found if point is not None]


def _point(study: Pareto, runs: Sequence[Run], width: Cost) -> Point | None:
    """Return the point of a method's folds; None where no case has a Dice."""
    ending = study.source.dataset["file_ending"]
    dice: dict[str, float | None] = {}
    for run in runs:
        dice |= foreground_dice(study.summary(run), ending)["per_case"]
    means, left_out = patient_means(dice, study.common_settings.get("patient_pattern"))
    if not means:
        return None
    records = [_added(study, run) for run in runs]
    interval = bootstrap_interval(list(means.values())) if len(means) > 1 else None
    return Point(
        runs[0].cap,
        runs[0].method,
        fmean((width + cells).parameters for cells, _ in records),
        fmean((width + cells).macs for cells, _ in records),
        fmean(means.values()),
        None if interval is None else interval.low,
        None if interval is None else interval.high,
        len(means),
        len(dice) - len(left_out),
        fmean(epochs for _, epochs in records),
    )


def _added(study: Pareto, run: Run) -> tuple[Cost, int]:
    """Return what a training added to its reference, and in how many epochs."""
    if run.method == REFERENCE:
        return Cost(0, 0), 0
    cost = RunFolder.of_fold(study.folder(run)).read_cost()
    final, backbone = cost.networks["final"], cost.networks["backbone"]
    added = Cost(final.parameters - backbone.parameters, final.macs - backbone.macs)
    return added, sum(phase.epochs for phase in cost.phases.values())


def write_points(study: Pareto, found: Sequence[Point], device: str, path: Path) -> None:
    """Write the points as JSON, with what they were measured on."""
    measured = provenance()
    document = {
        "dataset": study.source.folder.name,
        "configuration": study.source.configuration,
        "plans": study.source.plans["plans_name"],
        "trainer": study.source.trainer.__name__,
        "folds": list(study.folds),
        "settings": study.common_settings,
        "device": device,
        "date": date.today().isoformat(),
        "commit": measured.commit,
        "hardware": measured.hardware,
        "versions": measured.versions,
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
