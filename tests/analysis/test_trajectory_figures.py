import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

from nnunet_iac.analysis.trajectories import figures, similarity_figures
from nnunet_iac.analysis.trajectories.emergence import (
    edge_difficulty,
    edge_emergence,
    final_genotype,
)
from nnunet_iac.analysis.trajectories.figures import (
    convergence_figure,
    difficulty_figure,
    emergence_figure,
    entropy_figure,
    importance_figure,
    operations_figure,
    pruning_figure,
)
from nnunet_iac.analysis.trajectories.similarity import continuous_vectors, cosine_similarity
from nnunet_iac.analysis.trajectories.similarity_figures import (
    MANY,
    ON_DARK,
    ON_LIGHT,
    agreement_figure,
    similarity_figure,
)
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, operation_label
from nnunet_iac.drawing.figure_files import INK, MUTED, PAPER, svg_document
from nnunet_iac.runs.records import Trajectory, TrajectoryRow
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.pruning import Observation, PruningEvent, begin, close_epoch, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES

LITERAL = Settings(preset="literal", warmup_epochs=2, search_epochs=12)
FIGURES = (
    similarity_figure,
    convergence_figure,
    emergence_figure,
    difficulty_figure,
    pruning_figure,
    entropy_figure,
)


@dataclass(frozen=True)
class Search:
    """A search as a run records it."""

    trajectory: Trajectory
    settings: Settings
    events: tuple[PruningEvent, ...] = ()
    genotype: Genotype | None = None


def search(seed=0, settings=LITERAL, epochs=None, prunes=True):
    """Return the record of a search along a random path that drifts, as a run leaves it."""
    generator = torch.Generator().manual_seed(seed)
    drift, edge_drift = (
        torch.randn(14, 7, generator=generator),
        torch.randn(14, generator=generator),
    )
    alpha, beta = torch.zeros(14, 7), torch.zeros(14)
    state = begin(Observation(0, alpha, beta), settings.stability, settings.cell)
    rows, events, genotype = [], [], None
    for epoch in range(1, (epochs or settings.schedule.search_epochs) + 1):
        searching = epoch > settings.schedule.warmup_epochs
        if searching:
            alpha = alpha + 0.02 * drift + 0.05 * torch.randn(14, 7, generator=generator)
            beta = beta + 0.02 * edge_drift + 0.05 * torch.randn(14, generator=generator)
        seen = Observation(epoch, alpha, beta)
        decision = idle(seen, settings.cell)
        if searching and prunes:
            state, decision = close_epoch(
                state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
            )
        values = (seen.alpha, seen.beta, decision.importance, decision.divergence)
        values += (decision.threshold, decision.active)
        rows.append(TrajectoryRow(epoch, *(value.numpy() for value in values)))
        events += decision.events
        if state.finished or epoch == settings.schedule.search_epochs:
            genotype = discretise(seen.alpha, seen.beta, state.active, settings.cell)
            break
    return Search(Trajectory.of_rows(rows), settings, tuple(events), genotype)


def all_figures(searches):
    """Return every figure of some searches by name."""
    cells = [final_genotype(each) for each in searches]
    names = [f"fold {number}" for number in range(len(cells))]
    drawn = {function.__name__: function(searches) for function in FIGURES}
    drawn["importance_figure"] = importance_figure(searches[0])
    drawn["operations_figure"] = operations_figure(cells)
    drawn["agreement_figure"] = agreement_figure(cells, names)
    return drawn


def texts(figure):
    """Return all visible text of a figure."""
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


CASES = {
    "one accelerated search": lambda: [search()],
    "five searches of two lengths": lambda: [
        *(search(seed) for seed in range(4)),
        search(4, Settings(preset="literal", warmup_epochs=4)),
    ],
    "forty searches": lambda: [search(seed) for seed in range(40)],
    "a full search": lambda: [search(0, Settings(), prunes=False)],
    "the first epoch": lambda: [search(0, Settings(), epochs=1)],
    "a search under way beside a warm-up": lambda: [search(epochs=5), search(epochs=2)],
    "raw importance without warm-up": lambda: [
        search(0, Settings(preset="literal", importance="raw", warmup_epochs=0))
    ],
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def drawn(request):
    """Return every figure of a case with its SVG, drawn without a warning."""
    return {
        name: (figure, svg_document(figure, name))
        for name, figure in all_figures(request.param()).items()
    }


def test_figures_are_small_and_narrow(drawn):
    for figure, svg in drawn.values():
        assert len(svg) < 400_000
        assert figure.get_figwidth() <= 9


def test_figures_have_text_only_in_the_colours_a_page_knows(drawn):
    for figure, _ in drawn.values():
        assert to_hex(figure.get_facecolor()) == PAPER
        assert {to_hex(t.get_color()) for t in texts(figure)} <= {INK, MUTED, ON_DARK, ON_LIGHT}
        assert {t.get_fontsize() for t in texts(figure)} <= {8, 9}
    assert not {ON_DARK, ON_LIGHT} & {INK, MUTED, PAPER}


def test_figures_draw_nothing_outside_of_themselves(drawn):
    for name, (figure, _) in drawn.items():
        drawn_on, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert 0 <= drawn_on.x0 <= drawn_on.x1 <= width, name
        assert 0 <= drawn_on.y0 <= drawn_on.y1 <= height, name


def test_dense_figures_stay_small():
    searches = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        alpha = (0.05 * random.normal(size=(200, 14, 7))).cumsum(axis=0)
        theta = np.exp(alpha) / np.exp(alpha).sum(axis=2, keepdims=True) / 2
        nothing, beta = np.full((200, 14), np.nan), np.zeros((200, 14))
        active = random.random((200, 14, 7)) < 0.9
        active[:, :, 0] = True
        values = (alpha, beta, np.where(active, theta, 0), nothing, nothing, active)
        trajectory = Trajectory(np.arange(1, 201), *values, np.ones(200))
        searches.append(Search(trajectory, Settings()))
    for function in (convergence_figure, pruning_figure, entropy_figure, difficulty_figure):
        assert len(svg_document(function(searches), "")) < 400_000


@pytest.mark.parametrize("function", [convergence_figure, emergence_figure])
def test_a_figure_is_the_same_every_time(function):
    searches = [search(seed) for seed in range(3)]
    assert svg_document(function(searches), "") == svg_document(function(searches), "")


@pytest.mark.parametrize("function", FIGURES)
def test_a_figure_of_searches_refuses_none_and_one_without_epochs(function):
    with pytest.raises(ValueError, match=r"needs at least one.*got none"):
        function([])
    empty = Search(Trajectory.of_rows([]), LITERAL)
    with pytest.raises(ValueError, match=r"number 2 of 3 has none: leave out"):
        function([search(), empty, empty])


def test_importance_of_a_search_without_epochs_is_refused():
    with pytest.raises(ValueError, match="number 1 of 1 has none"):
        importance_figure(Search(Trajectory.of_rows([]), LITERAL))


# --- what they show --------------------------------------------------------------------------


def test_similarity_writes_its_numbers_into_the_cells():
    found = search(0, Settings(), prunes=False)
    axes = similarity_figure([found]).axes[0]
    reported = [15, 16, 20, 40, 80, 100, 150, 200]
    assert [int(label.get_text()) for label in axes.get_xticklabels()] == reported
    vectors = continuous_vectors(found.trajectory)[np.array(reported) - 1]
    expected = cosine_similarity(vectors)
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(numbers) == 8 * 9 / 2
    for (column, row), text in numbers.items():
        assert row >= column
        assert float(text) == pytest.approx(expected[row, column], abs=0.00501)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "1"), (0.996, "1"), (0.994, ".99"), (0.5, ".50"), (0.0, ".00"),
        (-0.25, "\N{MINUS SIGN}.25"), (math.nan, "\N{EN DASH}"),
    ],
)  # fmt: skip
def test_numbers_in_cells_are_short(share, text):
    assert similarity_figures._short(share) == text


def test_similarity_of_several_searches_is_their_mean_at_the_epochs_all_have():
    short, long = search(), search(1, prunes=False)
    axes = similarity_figure([short, long]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "3", "end"]
    values = [
        cosine_similarity(continuous_vectors(each.trajectory)[[1, 2, -1]]) for each in (short, long)
    ]
    image = axes.images[0].get_array()
    np.testing.assert_allclose(image[2, :], np.mean(values, axis=0)[2])


def test_similarity_of_raw_importance_shows_a_dash_for_the_warm_up():
    found = search(0, Settings(importance="raw", preset="literal", warmup_epochs=2))
    first = similarity_figure([found]).axes[0].texts[0]
    assert first.get_text() == "\N{EN DASH}"
    assert to_hex(first.get_color()) == MUTED


def test_the_median_of_convergence_holds_a_search_that_has_ended_at_one():
    short, long = search(), search(1, Settings(preset="literal", warmup_epochs=6))
    axes = convergence_figure([short, long]).axes[0]
    first, second = axes.collections[0].get_segments()
    np.testing.assert_array_equal(first[:, 0], range(1, 9))
    np.testing.assert_array_equal(second[:, 0], range(1, 13))
    held = np.concatenate([first[:, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), (held + second[:, 1]) / 2)


def test_a_search_under_way_is_no_part_of_the_median_after_its_last_epoch():
    under_way, ended = search(epochs=5), search(1)
    axes = pruning_figure([under_way, ended]).axes[0]
    # Literal: after epoch 5 both have 56 operations left; then only one continues.
    np.testing.assert_array_equal(axes.lines[0].get_ydata()[::2], [98, 98, 84, 70, 56, 42, 28, 14])
    assert axes.collections[0].get_segments()[0][-1].tolist() == [5, 56]
    entropies = entropy_figure([under_way, ended]).axes[0].lines[0].get_ydata()
    alone = entropy_figure([ended]).axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(entropies[5:], alone[5:])


def test_importance_has_a_panel_per_edge_and_a_cross_per_prune():
    found = search()
    *panels, _ = importance_figure(found).axes
    assert len(panels) == len(EDGES)
    assert len(found.events) == 14 * 6
    crosses = {
        (line.get_xdata()[0], round(line.get_ydata()[0], 9), index)
        for index, axes in enumerate(panels)
        for line in axes.lines
    }
    assert len(crosses) == 14 * 6
    assert all(0 < height < 1 for _, height, _ in crosses)
    events = sorted(
        (event.epoch, EDGES.index((event.source, event.target))) for event in found.events
    )
    assert sorted((epoch, index) for epoch, _, index in crosses) == events


def test_importance_names_the_kept_edges_in_bold_and_what_they_carry():
    found = search()
    *panels, _ = importance_figure(found).axes
    for edge, axes in zip(EDGES, panels, strict=True):
        assert axes.get_title() == f"v{edge.source} \N{RIGHTWARDS ARROW} v{edge.target}"
        kept = edge in found.genotype.operations
        assert axes.title.get_fontweight() == ("bold" if kept else "normal")
        if kept:
            assert axes.texts[0].get_text() == operation_label(found.genotype.operations[edge])


def test_importance_puts_what_merely_leads_in_brackets_and_names_none_in_the_warm_up():
    *panels, _ = importance_figure(search(epochs=4)).axes
    assert all(re.fullmatch(r"\(.*\)", axes.texts[0].get_text()) for axes in panels)
    *panels, _ = importance_figure(search(epochs=2)).axes
    assert {axes.texts[0].get_text() for axes in panels} == {""}
    assert {axes.title.get_fontweight() for axes in panels} == {"normal"}


def test_shares_are_stacked_from_the_first_operation_upwards():
    share = np.array([[0.5, 0, 0, 0.25, 0, 0, 0.25], [0, 1.0, 0, 0, 0, 0, 0]])
    image = figures._share_image(share, rows=8)
    names = {colour: name for name, colour in OPERATION_COLOURS.items()}
    columns = [[names[to_hex(pixel)] for pixel in image[:, epoch]] for epoch in range(2)]
    first = ["identity"] * 4 + ["sep_conv_3x3"] * 2 + ["dil_conv_5x5"] * 2
    assert columns == [first, ["max_pool_3x3"] * 8]


def dots(axes):
    """Return the sorted positions along the axis of every row's dots."""
    return [sorted(row.get_offsets()[:, 0].tolist()) for row in axes.collections]


def test_emergence_has_a_dot_per_edge_or_node_at_its_epoch_after_the_warm_up():
    searches = [search(), search(1, Settings(preset="literal", warmup_epochs=4))]
    rows = dots(emergence_figure(searches, "since").axes[0])
    expected = [
        edge.top[1].since - each.settings.schedule.warmup_epochs
        for each in searches
        for edge in edge_emergence(each)
    ]
    assert rows[2] == sorted(expected)
    assert [len(row) for row in rows] == [28, 28, 28, 6]


def test_emergence_counts_what_has_not_emerged():
    figure = emergence_figure([search(epochs=2), search()])
    remarks = [text.get_text() for text in figure.axes[0].texts]
    assert remarks == ["not in 14 of 28"] * 3 + ["not in 3 of 6"]
    assert [len(row) for row in dots(figure.axes[0])] == [14, 14, 14, 3]


def test_difficulty_lists_the_hardest_edge_on_top():
    searches = [search(seed) for seed in range(5)]
    axes = difficulty_figure(searches).axes[0]
    ranked = edge_difficulty([edge_emergence(each) for each in searches])
    names = [f"v{edge.source} \N{RIGHTWARDS ARROW} v{edge.target}" for edge in ranked]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.yaxis_inverted()
    assert dots(axes)[0] == sorted(epoch - 2 for epoch in next(iter(ranked.values())))


def test_pruning_shows_the_operations_left_after_every_prune():
    above, below = pruning_figure([search()]).axes
    # Literal: from epoch 3 on every edge loses one operation per epoch, until epoch 8.
    expected = [98, 98, 84, 70, 56, 42, 28, 14]
    np.testing.assert_array_equal(above.lines[0].get_ydata()[::2], expected)
    np.testing.assert_array_equal(above.lines[0].get_xdata()[::2], range(1, 9))
    np.testing.assert_array_equal(below.lines[0].get_ydata()[::2], [0] * 7 + [14])


def test_entropy_of_a_search_that_ended_decided_is_zero_in_the_mean_of_several():
    short, long = search(), search(1, Settings(preset="literal", warmup_epochs=6))
    axes = entropy_figure([short, long]).axes[0]
    edges = np.array([line[:, 1] for line in axes.collections[0].get_segments()])
    assert edges.shape == (14, 12)
    np.testing.assert_allclose(edges[:, 1], math.log(7))
    alone = entropy_figure([long]).axes[0].collections[0].get_segments()
    np.testing.assert_allclose(edges[:, 9:], np.array(alone)[:, 9:, 1] / 2)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), edges.mean(axis=0))


def test_a_single_epoch_is_drawn_as_a_point():
    for epochs, marker in ((1, "o"), (2, "")):
        for function in (convergence_figure, pruning_figure, entropy_figure):
            line = function([search(epochs=epochs)]).axes[0].lines[0]
            assert line.get_marker() == marker


def test_a_search_without_warm_up_has_no_mark_of_its_end():
    for warmup, lines in ((0, 1), (2, 2)):
        found = search(0, Settings(preset="literal", warmup_epochs=warmup))
        assert len(convergence_figure([found]).axes[0].lines) == lines


def test_operations_are_counted_with_their_share():
    cell = Genotype.from_codes([0, 0, 3, 3, -1, 0, 1, -1, -1, 2, 2, -1, -1, -1])
    axes = operations_figure([cell]).axes[0]
    expected = ["3 (37.5%)", "1 (12.5%)", "2 (25.0%)", "2 (25.0%)", *["0 (0.0%)"] * 3]
    assert [text.get_text() for text in axes.texts] == expected
    assert [bar.get_width() for bar in axes.patches] == [3, 1, 2, 2, 0, 0, 0]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(8 / 7)


def test_operations_of_no_cells_are_refused():
    with pytest.raises(ValueError, match="at least one cell; got none"):
        operations_figure([])


def test_agreement_names_the_cells_and_the_level_of_chance(random_genotype):
    figure = agreement_figure([random_genotype(0), random_genotype(1)], ["a", "b"])
    above, below = figure.axes
    assert above.get_title(loc="left") == "same operation and edge (0.09 by chance)"
    assert below.get_title(loc="left") == "same edge (0.64 by chance)"
    for axes in (above, below):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a (1)", "b (2)"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert [text.get_text() for text in above.texts][::2] == ["1", "1"]


def test_agreement_numbers_many_cells(random_genotype):
    cells = [random_genotype(seed) for seed in range(MANY + 1)]
    axes = agreement_figure(cells, [""] * len(cells)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["5", "10", "15"]
    assert not axes.texts
    assert [label.get_text() for label in axes.child_axes[0].get_yticklabels()] == [
        "0.0",
        "0.5",
        "1.0",
    ]


def test_agreement_needs_a_name_for_each_cell(random_genotype):
    with pytest.raises(ValueError, match="got 0 cells and 0 names"):
        agreement_figure([], [])
    with pytest.raises(ValueError, match="got 1 cells and 2 names"):
        agreement_figure([random_genotype(0)], ["a", "b"])
