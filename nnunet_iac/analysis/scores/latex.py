"""Tables for LaTeX documents; they need the package booktabs."""

import re
from collections.abc import Iterable, Sequence


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 2) -> list[str]:
    """Return a LaTeX tabular whose first `labels` columns are flush left."""
    return [
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(head) - labels)}}}",
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
