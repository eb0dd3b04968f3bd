from itertools import combinations, product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from nnunet_iac.drawing.cell_picture import (
    OPERATION_COLOURS,
    cell_figure,
    cell_svg,
    draw_cell,
    operation_label,
)
from nnunet_iac.search.genotype import Choice, Genotype
from nnunet_iac.search.space import INTERMEDIATE_NODES, OPERATIONS, Edge

TOPOLOGIES = list(product(*(list(combinations(range(n), 2)) for n in INTERMEDIATE_NODES)))


def genotype_of(topology, first_operation=0):
    edges = [Edge(s, n) for n, pair in zip(INTERMEDIATE_NODES, topology, strict=True) for s in pair]
    return Genotype(
        tuple(
            Choice(edge, OPERATIONS[(first_operation + i) % len(OPERATIONS)])
            for i, edge in enumerate(edges)
        )
    )


ONLY_INPUTS = genotype_of([(0, 1)] * 4)
CHAIN = genotype_of([(0, 1), (1, 2), (2, 3), (3, 4)], first_operation=3)


def test_every_operation_has_a_label_and_a_colour_of_its_own():
    assert list(OPERATION_COLOURS) == list(OPERATIONS)
    assert len({to_rgb(colour) for colour in OPERATION_COLOURS.values()}) == len(OPERATIONS)
    assert operation_label("sep_conv_5x5") == "sep conv 5\N{MULTIPLICATION SIGN}5"
    assert operation_label("max_pool_3x3") == "max pool 3\N{MULTIPLICATION SIGN}3"


@pytest.mark.parametrize("genotype", [ONLY_INPUTS, CHAIN])
def test_svg_carries_every_edge_with_its_operation_as_text_and_in_its_colour(genotype):
    svg = cell_svg(genotype)
    for choice in genotype.choices:
        start = svg.index(f'id="edge-{choice.edge.name}-{choice.operation}"')
        assert OPERATION_COLOURS[choice.operation] in svg[start : svg.index("</g>", start)]
        for word in operation_label(choice.operation).rsplit(" ", maxsplit=1):
            assert f">{word}<" in svg
    assert svg.count('id="edge-') == len(genotype.choices)


def test_svg_is_the_same_every_time_and_has_no_date(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_cell(CHAIN, tmp_path / name)
    document = (tmp_path / "one.svg").read_bytes()
    assert document == (tmp_path / "two.svg").read_bytes()
    assert b"dc:date" not in document


def test_png_is_the_same_every_time_and_at_least_twice_as_wide_as_a_page_column(tmp_path):
    for name in ("one.png", "two.png"):
        draw_cell(CHAIN, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert imread(tmp_path / "one.png").shape[1] >= 1600


def test_another_suffix_is_an_error_that_names_the_file_and_leaves_none(tmp_path):
    with pytest.raises(ValueError, match=r"\.svg or \.png; got 'cell\.pdf'"):
        draw_cell(CHAIN, tmp_path / "cell.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output_nodes", [1, 2, 3, 4])
def test_the_rows_of_the_last_nodes_alone_reach_the_concatenation(output_nodes):
    lines = cell_figure(ONLY_INPUTS, output_nodes).axes[0].lines
    rows = [line for line in lines if len(set(line.get_ydata())) == 1 < len(line.get_ydata())]
    lowest = max(rows, key=lambda line: line.get_ydata()[0])
    reaching = [line for line in rows if line.get_xdata()[-1] == lowest.get_xdata()[-1]]
    assert len(reaching) == output_nodes


def _written(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [t for t in figure.axes[0].findobj(Text) if t.get_text()]
    return {t: t.get_window_extent(renderer) for t in texts}


@pytest.mark.parametrize("topology", TOPOLOGIES[::7] + TOPOLOGIES[-1:])
def test_no_text_overlaps_another_or_meets_a_wire(topology):
    figure = cell_figure(genotype_of(topology, 1), 4)
    boxes = _written(figure)
    for one, other in combinations(boxes.values(), 2):
        assert not one.overlaps(other)
    for line in figure.axes[0].lines:
        (x0, y0), (x1, y1) = line.get_transform().transform(line.get_xydata()[[0, -1]])
        points = np.linspace([x0, y0], [x1, y1], 200)
        for text, box in boxes.items():
            inside = ((points > box.min) & (points < box.max)).all(axis=1)
            assert not inside.any(), text.get_text()


@pytest.mark.parametrize("output_nodes", [1, 4])
def test_all_text_lies_within_the_picture(output_nodes):
    figure = cell_figure(CHAIN, output_nodes)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in _written(figure).items():
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= width, text.get_text()
        assert box.y1 <= height, text.get_text()
