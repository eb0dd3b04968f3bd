"""The first screen of a report, in sentences: worth, doubts, cells and cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nnunet_iac.analysis.report.evaluation import Evaluation, Group, GroupComparison
from nnunet_iac.analysis.report.page import duration, percent
from nnunet_iac.analysis.report.run import Run
from nnunet_iac.analysis.scores.wording import counted, enumerated, finding, score_text
from nnunet_iac.analysis.trajectories.similarity import chance, mean_agreement, operation_histogram
from nnunet_iac.analysis.vocabulary import RANDOM_CELL, SEARCHING_METHODS
from nnunet_iac.search.health import parameter_free_share

FAMILIES = {"sep": "separable", "dil": "dilated", "max": "max pooling", "avg": "average pooling"}
CHOICE = (
    "In this project's study of a small 2-D network (Hippocampus, eight random cells that were "
    "finetuned for 1,200 batches), it did not matter which cell was chosen."
)
"""The finding of docs/evidence/search.md on the data that a backbone was trained on."""
GRAVE = ("collapse", "non-finite")
"""Kinds of health events that the first screen must name."""


def verdicts(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what each group's cells are worth; those that do not beat a random cell come first."""
    open_to = [one for one in evaluation.comparisons if one.paired.verdict != "better"]
    first = [c for c in open_to if c.against.group and c.against.group.method == RANDOM_CELL]
    random = " ".join(f"{one.group.name}: {finding(one.paired, _trained(one))}." for one in first)
    paragraphs = [
        _paragraph(group, [one for one in evaluation.comparisons if one.group is group], first)
        for group in evaluation.retrofits
    ]
    stated = tuple(filter(None, (random, *paragraphs)))
    return (" ".join(stated),) if len(paragraphs) == 1 else stated


def advice(backbone: GroupComparison, controls: Sequence[GroupComparison]) -> str:
    """Return what to do, from the comparisons with the backbone and the controls."""
    against = [one.paired.verdict for one in controls]
    if any(one.paired.leakage for one in (backbone, *controls)):
        return "Keep your backbone: a network has seen cases on which it was scored."
    if backbone.paired.verdict == "too few patients":
        return "Validate on more patients before you decide, and keep your backbone until then."
    if backbone.paired.verdict != "better":
        return "Keep your backbone."
    if "worse" in against:
        return "Keep your backbone, or use the control that is better than the cells."
    if {"no difference detected", "mixed", "no verdict"} & {*against}:
        return "Keep your backbone: the cells are not shown to be better than every control."
    if not controls:
        return "Longer training alone may explain this gain: train a control before you decide."
    if "too few patients" in against:
        return "Keep your backbone until the controls are validated on more patients."
    if not all(one.against.equal_budget for one in controls):
        return "Train the controls for as many batches as the cells before you decide."
    return "Use the retrofit."


def _paragraph(
    group: Group, own: Sequence[GroupComparison], stated: Sequence[GroupComparison]
) -> str:
    """Return what a group's cells are worth beside backbone and controls, except `stated`."""
    backbone = next((one for one in own if one.against.kind == "reference"), None)
    if backbone is None:
        reasons = ", ".join(dict.fromkeys(map(_why_unscored, group.runs)))
        against = " with the backbone" if own else ""
        return f"{group.name}: no score of these cells can be compared{against} yet: {reasons}."
    controls = [one for one in own if one.against.kind == "control"]
    found = [finding(one.paired, _trained(one)) for one in controls if one not in stated]
    long = " trained for as long" if all(one.against.equal_budget for one in controls) else ""
    sentences = [
        f"{group.name}: Dice {score_text(backbone.paired.mean_b)}, "
        f"{finding(backbone.paired, backbone.against.name)}.",
        f"Compared with controls{long}: {enumerated(found)}." if found else "",
        "" if controls else "There is no control that was trained for as long.",
        advice(backbone, controls),
    ]
    return " ".join(filter(None, sentences))


def _trained(one: GroupComparison) -> str:
    """Return a control's name, and for how long it was trained where the budgets differ."""
    if one.against.equal_budget:
        return one.against.name
    epochs = f"{one.against.epochs:.0f} epochs instead of {one.epochs:.0f}"
    return f"{one.against.name} trained for {epochs}"


def _why_unscored(run: Run) -> str:
    if run.validated and run.scores is None:
        return "validated on cases of its own training"
    missing = "the backbone's own validation is missing, which --val writes"
    return missing if run.validated else run.stage


def alarms(named: Sequence[tuple[str, Run]]) -> tuple[str, ...]:
    """Return what makes the numbers of a run doubtful, in a sentence each."""
    raised = []
    for name, run in named:
        asked = run.trains_backbone or run.backbone.trained is not None
        if run.validated and not (asked or run.backbone.unchanged):
            raised.append(f"{name}: the backbone is not proven unchanged, so this is no retrofit.")
        if run.backbone.leakage:
            raised.append(f"{name}: {run.backbone.leakage}.")
        if run.genotype is not None and run.collapsed:
            share = percent(parameter_free_share(run.genotype))
            lost = f"{share} of the cell's operations have no parameters"
            raised.append(f"{name}: the search has collapsed, {lost}.")
        grave = [event for event in run.health if event.kind in GRAVE]
        if grave and not run.collapsed:
            raised.append(f"{name}: {grave[-1]}.")
        if not run.validated:
            raised.append(f"{name}: {run.stage}; it is left out of all scores.")
        elif run.scores is None:
            seen = "it was validated on cases of its own training"
            raised.append(f"{name}: {seen} and is left out of all scores.")
    return tuple(raised)


def found(runs: Sequence[Run]) -> str:
    """Return what cells were found, and how much they agree."""
    cells = [run.genotype for run in runs if run.genotype is not None]
    if not cells:
        searching = any(run.method in SEARCHING_METHODS for run in runs)
        return "No cell yet: no search has ended." if searching else "No cells, and no search."
    counts = Counter[str]()
    for operation, count in operation_histogram(cells).items():
        counts[FAMILIES.get(operation[:3], "identity")] += count
    parts = ", ".join(f"{count} {family}" for family, count in counts.items() if count)
    adapts = any(run.settings.data.backbone_checkpoint for run in runs)
    choice = "" if adapts else f" {CHOICE}"
    if len(cells) == 1:
        return f"One cell of eight operations: {parts}.{choice}"
    shared, random = percent(mean_agreement(cells)), percent(float(chance()))
    return (
        f"{len(cells)} cells of eight operations: {parts}. Two of them share {shared} of their "
        f"choices on average; cells drawn at random share {random}.{choice}"
    )


def cost(searched: Sequence[Group], runs: Sequence[Run]) -> str:
    """Return the time of an average search that ended, and what the cells add to the network."""
    parts = []
    for group in searched:
        ended = [run for run in group.runs if run.search_epochs and run.genotype is not None]
        if ended:
            epochs = sorted({run.search_epochs for run in ended})
            span = " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
            seconds = fmean(run.search_seconds for run in ended)
            parts.append(f"{group.name} searched {span} epochs in {duration(seconds)}")
    grown = [
        (final.parameters / backbone.parameters - 1, final.macs / backbone.macs - 1)
        for run in runs
        if (final := run.cost.networks.get("final"))
        and (backbone := run.cost.networks.get("backbone"))
    ]
    if grown:
        parameters, macs = (percent(fmean(values)) for values in zip(*grown, strict=True))
        what = "cells add" if any(run.genotype is not None for run in runs) else "retrofits add"
        start = "the" if parts else "The"
        parts.append(f"{start} {what} {parameters} to the parameters and {macs} to the MACs")
    searching = any(run.method in SEARCHING_METHODS for run in runs)
    nothing = "No search has ended yet" if searching else "There was no search"
    hardware = "; ".join(dict.fromkeys(hardware_text(run.cost.hardware) for run in runs))
    return f"{'; '.join(parts) or nothing}. On {hardware}."


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """Return the processor of a cost record, with the GPU if there was one."""
    if not {"processor", "cores", "gpu"} <= hardware.keys():
        return "unknown hardware"
    processor = f"{hardware['processor']}, {counted(hardware['cores'], 'core')}"
    return f"{hardware['gpu']} with {processor}" if hardware["gpu"] else processor
