"""Tables for LaTeX documents; they need the package booktabs."""

import re
from collections.abc import Iterable, Sequence


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a LaTeX tabular whose first two columns are labels."""
    return [
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        r"\toprule",
        " & ".join(map(escaped, head)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escaped, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def escaped(text: str) -> str:
    """Return text for LaTeX; a minus before a digit and a less-than become mathematics."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"\N{MINUS SIGN}": "$-$", "<": "$<$", ">": "$>$", "[": "{[}", "]": "{]}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    text = "".join(special.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
