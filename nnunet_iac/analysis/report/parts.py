"""What reports are made of: figures, tables and sections, and the files they become."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_iac.analysis.report.page import inline_figure
from nnunet_iac.runs.atomic import replacing, write_text

DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when it is first needed.

    Args:
        name: of its file.
        title: what it shows, for screen readers too.
        caption: how to read it.
        draw: makes it.
    """

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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows(table.rows)
    path = folder / f"{table.name}.csv"
    write_text(path, text.getvalue())
    return path


def write_png(picture: Picture, folder: Path) -> Path:
    """Write a figure as PNG, named after it, and return the path."""
    path = folder / f"{picture.name}.png"
    with replacing(path) as temporary:
        FigureCanvasAgg(picture.figure).print_figure(
            temporary, dpi=DOTS_PER_INCH, metadata={"Software": None}
        )
    picture.figure.set_layout_engine("none")  # It is laid out now; the page need not do it again.
    return path
