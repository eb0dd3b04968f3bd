"""Figures as SVG and PNG files, the same bytes every time, in colours that a page may replace."""

from io import BytesIO, StringIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nnunet_iac.runs.atomic import replacing

INK, MUTED, PAPER = "#1f2328", "#6e7781", "#ffffff"
"""Text and nodes, wires and remarks, background; a page may replace them by its own."""


def plain_axes(axes: Axes, text_size: float) -> None:
    """Leave of the axes the line below and faint lines across, with labels of a size in points."""
    axes.set_facecolor("none")
    axes.tick_params(colors=MUTED, labelsize=text_size, which="both")
    axes.spines["bottom"].set_color(MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=MUTED, alpha=0.25, lw=0.6)


def svg_document(figure: Figure, title: str) -> str:
    """Return a figure as SVG, with its text as text and no date."""
    buffer = StringIO()
    absent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nnunet-iac"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Title": title, **absent})
    return buffer.getvalue()


def png_bytes(figure: Figure, dpi: float | None = None, title: str | None = None) -> bytes:
    """Return a figure as PNG, by default in its own resolution, without matplotlib's version."""
    metadata = {"Title": title, "Software": None} if title else {"Software": None}
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=dpi or figure.dpi, metadata=metadata)
    return buffer.getvalue()


def write_figure(
    figure: Figure, path: Path, dpi: float | None = None, title: str | None = None
) -> None:
    """Write a figure as SVG or PNG, by the suffix of its path, atomically.

    A PNG has the figure's own `dpi` by default, and an SVG its name as `title`.
    """
    if path.suffix == ".svg":
        content = svg_document(figure, title or path.stem).encode()
    elif path.suffix == ".png":
        content = png_bytes(figure, dpi, title)
    else:
        raise ValueError(f"a picture's file name must end in .svg or .png; got {path.name!r}")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
