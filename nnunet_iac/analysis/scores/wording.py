"""Numbers and comparisons as text: one wording of a verdict, and tables for LaTeX."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from nnunet_iac.analysis.scores.comparison import PairedComparison, Verdict, detected
from nnunet_iac.analysis.scores.statistics import CONFIDENCE, Interval

SMALLEST_P = 0.0001
"""Below it tables state this bound; the JSON has the number."""
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of formulas in spreadsheets."""
NONE = "\N{EN DASH}"

CLAIMS: dict[Verdict, str] = {
    "no difference detected": "no difference detected from",
    "mixed": "a higher Dice but more false positives or misses than",
    "too few patients": "too few patients to compare with",
    "no verdict": "no verdict against",
}
"""First words of a finding that is neither better nor worse."""


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


def adjusted_text(p: float | None, family: int) -> str:
    """Return an adjusted p value with its family, for example `p = 0.0312 after Holm over 8`."""
    return f"p = {p_text(p)} after Holm over {counted(family, 'comparison')}"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; a cell that is None is empty.

    An apostrophe goes before text that a spreadsheet would take for a formula.
    """
    text = io.StringIO()
    cells = ([_no_formula(cell) for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def _no_formula(cell: object) -> object:
    is_formula = isinstance(cell, str) and cell.startswith(FORMULA_SIGNS)
    return f"'{cell}" if is_formula and not re.fullmatch(r"[-+.,\d\[\] %]*", str(cell)) else cell


def markdown_text(value: object) -> object:
    """Return text for Markdown in which nothing is HTML or the target of a link."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", value))
    return text.replace("](", "]\\(")


def counted(number: int, noun: str) -> str:
    """Return a number of things, for example `6 patients`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def enumerated(names: Sequence[str], last: str = "and") -> str:
    """Return names as a list in a sentence, for example `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def difference_text(comparison: PairedComparison | None) -> str:
    """Return difference and interval for a table; a dash where there is no comparison."""
    if comparison is None:
        return NONE
    return f"{signed_text(comparison.difference)} {interval_text(comparison.interval)}"


def count_text(value: float) -> str:
    """Return how many false positives or misses there are; a mean over runs has one decimal."""
    return f"{round(value, 1):g}"


def errors_text(comparison: PairedComparison) -> tuple[str, str]:
    """Return false positives and misses of A and B for tables, for example `0 / 8`."""
    kinds = comparison.false_positives, comparison.misses
    false_positives, misses = (" / ".join(map(count_text, counts)) for counts in kinds)
    return false_positives, misses


def finding(comparison: PairedComparison, a: str) -> str:
    """Return the verdict on B with its numbers: claim, difference, interval, n.

    For example `0.0012 lower than a random cell (95 % CI 0.0007 to 0.0017, n = 32)`, or
    `no difference detected from a random cell (+0.0001, 95 % CI -0.0013 to +0.0014, n = 14)`.
    Where the interval alone would decide, the adjusted p that does not agree is given, and where
    they differ the false positives and misses. `a` names A, with its article.
    """
    verdict, between = comparison.verdict, comparison.interval
    level = f"{100 * CONFIDENCE:.0f} % CI"
    tail = [f"n = {comparison.patients}", *_errors(comparison)]
    if verdict in ("better", "worse"):
        assert between is not None
        low, high = sorted((abs(between.low), abs(between.high)))
        relation = "higher" if verdict == "better" else "lower"
        size = f"{abs(comparison.difference):.4f} {relation} than {a}"
        return f"{size} ({', '.join([f'{level} {low:.4f} to {high:.4f}', *tail])})"
    numbers = [signed_text(comparison.difference)]
    if between is not None:
        numbers.append(f"{level} {signed_text(between.low)} to {signed_text(between.high)}")
        excludes_0 = not between.low <= 0 <= between.high
        if excludes_0 and comparison.p_holm is not None and not detected(comparison.p_holm):
            numbers.append(adjusted_text(comparison.p_holm, comparison.family))
    numbers += [*tail, *filter(None, (comparison.undecided.replace(" A ", f" {a} "),))]
    return f"{CLAIMS[verdict]} {a} ({', '.join(numbers)})"


def _errors(comparison: PairedComparison) -> list[str]:
    """Return B's false positives and misses where they differ from A's, and a p that decides."""
    counts = {"false positives": comparison.false_positives, "misses": comparison.misses}
    found = [
        f"{name} {count_text(b)} instead of {count_text(a)}"
        for name, (a, b) in counts.items()
        if count_text(a) != count_text(b)
    ]
    if detected(comparison.p_errors_holm):
        p = adjusted_text(comparison.p_errors_holm, comparison.errors_family)
        found.append(f"{p}, of false positives and misses")
    return found


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 2) -> list[str]:
    """Return a LaTeX tabular (booktabs) whose first `labels` columns are flush left."""
    return [
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(head) - labels)}}}",
        r"\toprule",
        " & ".join(map(escaped, head)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escaped, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def floating(caption: str, lines: Iterable[str]) -> str:
    """Return a LaTeX table of a caption and what stands below it."""
    head = [r"\begin{table}", rf"\caption{{{escaped(caption)}}}"]
    return "\n".join([*head, *lines, r"\end{table}", ""])


def escaped(text: str) -> str:
    """Return text for LaTeX; a minus before a digit and a less-than become mathematics."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"\N{MINUS SIGN}": "$-$", "<": "$<$", ">": "$>$", "[": "{[}", "]": "{]}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    text = "".join(special.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
