"""The first screen of a report, in sentences: worth, doubts, cells and cost."""

from collections.abc import Sequence
from typing import Any

from nnunet_iac.analysis.report.evaluation import Evaluation, Group
from nnunet_iac.analysis.report.page import duration, percent
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.report.verdict import random_standings, verdict
from nnunet_iac.analysis.trajectories.agreement import mean_agreement, operation_histogram
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.health import parameter_free_share

Searches = Sequence[Run]

GRAVE = ("collapse", "non-finite")
"""Kinds of health events that the first screen must name."""


def verdicts(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what each group's cells are worth, in a paragraph each.

    Where a random cell did as well as some, the first paragraph says so.
    """
    compared = evaluation.retrofits
    standings = random_standings(evaluation.questions, named=len(compared) > 1)
    sentences = [verdict(group, evaluation.questions) for group in compared]
    if len(compared) == 1:
        return (" ".join((*standings, *sentences)),)
    named = (f"{group.name}: {said}" for group, said in zip(compared, sentences, strict=True))
    return (*([" ".join(standings)] if standings else ()), *named)


def alarms(named: Sequence[tuple[str, Run]]) -> tuple[str, ...]:
    """Return what makes the numbers of a run doubtful, in a sentence each."""
    raised = []
    for name, run in named:
        if run.validated and not (run.trains_backbone or run.backbone.unchanged):
            raised.append(f"{name}: the backbone is not proven unchanged, so this is no retrofit.")
        if run.backbone.leakage:
            raised.append(f"{name}: {run.backbone.leakage}.")
        if run.genotype is not None and run.collapsed:
            share = percent(parameter_free_share(run.genotype))
            raised.append(
                f"{name}: the search has collapsed, {share} of the cell's operations have no "
                "parameters."
            )
        grave = [event for event in run.health if event.kind in GRAVE]
        if grave and not run.collapsed:
            raised.append(f"{name}: {grave[-1]}.")
        if not run.validated:
            raised.append(f"{name}: {run.stage}; it is left out of all scores.")
        elif run.scores is None:
            raised.append(
                f"{name}: it was validated on the cases it learned from, so it is left out of all "
                "scores."
            )
    return tuple(raised)


def found(runs: Searches) -> str:
    """Return what cells were found, and how much they agree."""
    cells = genotypes(runs)
    if not cells:
        return "No cell yet: no search has ended."
    histogram = operation_histogram(cells)
    families = {
        "sep": "separable",
        "dil": "dilated",
        "max": "max pooling",
        "avg": "average pooling",
    }
    counts: dict[str, int] = {}
    for operation, count in histogram.counts.items():
        family = families.get(operation[:3], "identity")
        counts[family] = counts.get(family, 0) + count
    parts = ", ".join(f"{count} {family}" for family, count in counts.items() if count)
    if len(cells) == 1:
        return f"One cell of eight operations: {parts}."
    agreement = mean_agreement(cells)
    shared, random = percent(agreement.mean), percent(agreement.expected)
    return (
        f"{len(cells)} cells of eight operations: {parts}. Two of them share {shared} of their "
        f"choices on average; cells drawn at random share {random}."
    )


def cost(searched: Sequence[Group], runs: Searches) -> str:
    """Return the time of an average search that ended, and what the cells add to the network."""
    parts = []
    for group in searched:
        ended = [run for run in group.runs if run.search_epochs and run.genotype is not None]
        if ended:
            epochs = _span([run.search_epochs for run in ended])
            seconds = sum(run.search_seconds for run in ended) / len(ended)
            parts.append(f"{group.name} searched {epochs} epochs in {duration(seconds)}")
    grown = [
        (final.parameters / backbone.parameters - 1, final.macs / backbone.macs - 1)
        for run in runs
        if (final := run.cost.networks.get("final"))
        and (backbone := run.cost.networks.get("backbone"))
    ]
    if grown:
        parameters, macs = (sum(values) / len(grown) for values in zip(*grown, strict=True))
        parts.append(
            f"the cells add {percent(parameters)} to the parameters and {percent(macs)} to the MACs"
        )
    return f"{'; '.join(parts) or 'No search has ended yet'}. On {_hardware(runs)}."


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _hardware(runs: Searches) -> str:
    def text(hardware: dict[str, Any]) -> str:
        if not hardware:
            return "unknown hardware"
        cores = hardware["cores"]
        processor = f"{hardware['processor']}, {cores} {'core' if cores == 1 else 'cores'}"
        return f"{hardware['gpu']} with {processor}" if hardware["gpu"] else processor

    return "; ".join(dict.fromkeys(text(run.cost.hardware) for run in runs))


def genotypes(runs: Searches) -> list[Genotype]:
    """Return the cells found so far."""
    return [run.genotype for run in runs if run.genotype is not None]
