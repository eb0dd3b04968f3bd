"""Hours of whole runs, from the seconds of their steps."""

from collections.abc import Mapping

from nnunet_iac.search.settings import PRESETS, Settings
from nnunet_iac.search.space import OPERATIONS
from nnunet_iac.training.method import CONTINUE, IAC_DISCRETE
from nnunet_iac.training.setting_checks import with_defaults_of

WITHOUT_SEARCH = {"discrete": IAC_DISCRETE, "continued": CONTINUE}

NO_VALIDATION = dict.fromkeys(("plain_validation", "search_validation", "finetune_validation"), 0.0)
"""Seconds for `run_hours` that leave the validation out."""


def run_hours(settings: Settings, run: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the hours of a run by what takes them, and those of the whole.

    `search` and `finetune` count training steps, `validation` nnU-Net's validation after every
    epoch. A search that may wait for stable edges, and a finetuning that may end early, are counted
    up to their limits, the most that they can take.

    Args:
        settings: have the lengths, but for what a preset fixes.
        run: `iac` for the full search, a preset for an accelerated one, `discrete` for a given
            cell, or `continued` training.
        seconds: of the steps `plain`, `finetune`, `search_first`, with all operations, and
            `search_last`, with one per edge; and of the passes `plain_validation`,
            `finetune_validation` and `search_validation`.
    """
    settings = settings.replace(preset=run) if run in PRESETS else settings
    if run in WITHOUT_SEARCH:
        settings = with_defaults_of(WITHOUT_SEARCH[run], settings)
    schedule, first, last = settings.schedule, seconds["search_first"], seconds["search_last"]
    searched = {"iac": schedule.search_epochs}.get(run, 0)
    if run in PRESETS:
        searched = settings.latest_end
    search = searched * first
    if run in PRESETS and not settings.can_wait:
        pruning = settings.stability.patience * pruning_seconds(first, last)
        search = schedule.warmup_epochs * first + pruning
    trained, epochs = "plain" if run == "continued" else "finetune", schedule.finetune_epochs
    passes = searched * seconds["search_validation"] + epochs * seconds[f"{trained}_validation"]
    found = {
        "search": search * schedule.iterations_per_epoch / 3600,
        "finetune": epochs * seconds[trained] * schedule.iterations_per_epoch / 3600,
        "validation": passes * schedule.val_iterations_per_epoch / 3600,
    }
    return {**found, "whole": sum(found.values())}


def pruning_seconds(first: float, last: float) -> float:
    """Return the seconds of one search step with each number of operations from seven to two.

    Interpolated between steps with all operations, `first`, and with one per edge, `last`.
    """
    slope = (first - last) / (len(OPERATIONS) - 1)
    return sum(last + slope * (count - 1) for count in range(len(OPERATIONS), 1, -1))
