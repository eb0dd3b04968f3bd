"""Numbers of comparisons as the texts that tables and remarks have."""

from nnunet_iac.analysis.scores.statistics import Interval

SMALLEST_P = 0.0001
"""Below it tables say so; the JSON has the number."""


def score_text(value: float | None) -> str:
    """Return a Dice, HD95 in mm or NSD, for example `0.7350`."""
    return "none" if value is None else f"{value:.4f}"


def signed_text(value: float | None) -> str:
    """Return a difference of scores, for example `+0.0350`."""
    return "none" if value is None else f"{value:+.4f}"


def interval_text(interval: Interval | None) -> str:
    """Return an interval of differences, for example `[+0.0200, +0.0500]`."""
    if interval is None:
        return "none"
    return f"[{signed_text(interval.low)}, {signed_text(interval.high)}]"


def p_text(value: float | None) -> str:
    """Return a p value, for example `0.0312` or `<0.0001`."""
    if value is None:
        return "none"
    return f"{value:.4f}" if value >= SMALLEST_P else f"<{SMALLEST_P}"


def counted(number: int, noun: str) -> str:
    """Return a number of things, for example `6 patients`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
