"""The figures of docs that have a script of their own."""

from collections.abc import Callable
from types import ModuleType

from nnunet_iac.drawing.figure_files import svg_document


def test_the_picture_of_skip_connections_names_its_parts_and_is_the_same_every_time(
    script: Callable[[str], ModuleType],
) -> None:
    drawn = script("figures/skip_connection")
    document = svg_document(drawn.skip_connection_figure(), "cells")
    assert document == svg_document(drawn.skip_connection_figure(), "cells")
    parts = "encoder", "decoder", "cell", "new skip", "\N{MULTIPLICATION SIGN} gate"
    for part in (*parts, "frozen: the backbone"):
        assert f">{part}<" in document
