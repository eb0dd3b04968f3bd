"""What every page of ours shares: its templates, and figures in the page's own colours."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_iac.runs.cell_picture import INK, MUTED, PAPER, svg_document


def environment() -> Environment:
    """Return the environment of the templates: everything escaped, nothing undefined."""
    templates = Environment(
        loader=PackageLoader("nnunet_iac.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(duration=duration, signed=signed)
    return templates


def markdown_environment(folder: Path) -> Environment:
    """Return the environment of Markdown templates in a folder: nothing escaped or undefined."""
    made = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["commit"] = commit_text
    return made


def commit_text(commit: str | None) -> str:
    """Return the start of a commit, and whether code differed from it."""
    if commit is None:
        return "none"
    number, _, changed = commit.partition("-")
    return f"{number[:10]}, {changed}" if changed else number[:10]


def duration(seconds: float) -> str:
    """Return seconds for people, for example `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s"]
    return " ".join([part for part in parts if part][:2])


def signed(number: float) -> str:
    """Return a difference of Dice with its sign, for example `+0.012`."""
    return f"{number:+.3f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """Return a share for people, for example `12 %`; the space does not break."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def inline_figure(figure: Figure, name: str, title: str) -> Markup:
    """Return a figure as an element of the page.

    Args:
        figure: drawn in `INK`, `MUTED` and `PAPER`, which become the page's own.
        name: unique on the page.
        title: what a screen reader says.
    """
    return inline_svg(svg_document(figure, title), name)


def inline_svg(document: str, name: str) -> Markup:
    """Return an SVG document as an element of the page, in the page's colours.

    Its identifiers get a prefix, for the page holds many such elements; images, which matplotlib
    names by their content, lose theirs.
    """
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", document[document.index("<svg") :], flags=re.S)
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in ((INK, "ink"), (MUTED, "muted"), (PAPER, "paper")):
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg.replace("<svg ", '<svg role="img" ', 1))
