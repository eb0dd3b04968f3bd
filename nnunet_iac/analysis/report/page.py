"""Pages: their templates, sections, tables and figures, and the files that these become."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_iac.analysis.scores.wording import csv_text, markdown_text, score_text, signed_text
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, svg_document, write_figure
from nnunet_iac.runs.atomic import write_text

HOW: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}


def environment() -> Environment:
    """Return the environment of the templates: everything escaped, nothing undefined."""
    loader = PackageLoader("nnunet_iac.analysis.report")
    templates = Environment(loader=loader, autoescape=True, **HOW)
    templates.filters.update(score=score_text, signed=signed_text)
    return templates


def markdown_environment(folder: Path | None = None) -> Environment:
    """Return the environment of Markdown templates, of a folder or our own: nothing undefined.

    Of what goes into them only HTML and links are escaped.
    """
    own = PackageLoader("nnunet_iac.analysis.report")
    loader = own if folder is None else FileSystemLoader(folder)
    keep = folder is not None
    made = Environment(loader=loader, keep_trailing_newline=keep, finalize=markdown_text, **HOW)
    made.filters.update(cell=_cell, commit=commit_text, score=score_text, signed=signed_text)
    return made


def _cell(text: str) -> str:
    """Return text for a cell of a table in Markdown."""
    return " ".join(text.replace("|", "\\|").splitlines())


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


def percent(share: float) -> str:
    """Return a share for people, for example `12 %`; the space does not break."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def inline_figure(figure: Figure, name: str, title: str) -> Markup:
    """Return a figure as an element of the page, where its name must be unique."""
    return inline_svg(svg_document(figure, title), name)


def inline_svg(document: str, name: str) -> Markup:
    """Return an SVG document as an element of the page, in the page's colours.

    Its identifiers get a prefix; images, which matplotlib names by their content, lose theirs.
    """
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", document[document.index("<svg") :], flags=re.S)
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in ((INK, "ink"), (MUTED, "muted"), (PAPER, "paper")):
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg.replace("<svg ", '<svg role="img" ', 1))


PAGE_DPI = 160


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when it is first needed, with its file name, title and caption."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]

    @cached_property
    def figure(self) -> Figure:
        """The figure."""
        return self.draw()

    @property
    def inline(self) -> Markup:
        """The figure as an element of a page."""
        return inline_figure(self.figure, self.name, self.title)


@dataclass(frozen=True)
class Table:
    """A table with its file name, what it holds, its rows as texts; a page may fold it away."""

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report: paragraphs, then tables, then pictures."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def write_csv(table: Table, folder: Path) -> Path:
    """Write a table as CSV, named after it, and return the path."""
    path = folder / f"{table.name}.csv"
    write_text(path, csv_text([table.head, *table.rows]))
    return path


def write_png(picture: Picture, folder: Path) -> Path:
    """Write a figure as PNG, named after it, and return the path."""
    path = folder / f"{picture.name}.png"
    write_figure(picture.figure, path, PAGE_DPI)
    picture.figure.set_layout_engine("none")  # It is laid out now; the page need not do it again.
    return path
