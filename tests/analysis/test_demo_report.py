import itertools
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK
import torch

from nnunet_iac.analysis.report.demo import (
    shown_cases,
    verdict,
    write_demo_report,
)
from nnunet_iac.analysis.report.overlays import fullest_slice, outlines
from nnunet_iac.analysis.report.page import duration
from nnunet_iac.analysis.trajectories.emergence import shares, survivors
from nnunet_iac.drawing.cell_picture import OPERATION_COLOURS, operation_label
from nnunet_iac.drawing.figure_files import INK
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, Trajectory, TrajectoryRow
from nnunet_iac.search.discretisation import discretise
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import Observation, advance, begin
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge

CASES = ("case_1", "case_2", "case_3", "case_4")
DICE = {
    "reference": (0.80, 0.82, 0.78, 0.9),
    "continued": (0.81,) * 4,
    "iac": (0.82, 0.81, 0.9, 0.9),
}
SETTINGS = Settings(preset="literal", warmup_epochs=1, search_epochs=7)


def _search():
    """Return rows, events and genotype of a search over random parameters."""
    generator = torch.Generator().manual_seed(0)
    alpha = torch.zeros(len(EDGES), len(OPERATIONS), dtype=torch.float64)
    beta = torch.zeros(len(EDGES), dtype=torch.float64)
    state = begin(Observation(1, alpha, beta), SETTINGS.stability, SETTINGS.cell)
    rows, events = [], []
    for epoch in range(2, SETTINGS.schedule.search_epochs + 1):
        alpha += 0.1 * torch.randn(alpha.shape, generator=generator, dtype=torch.float64)
        beta += 0.1 * torch.randn(beta.shape, generator=generator, dtype=torch.float64)
        state, seen = advance(
            state, Observation(epoch, alpha, beta), SETTINGS.stability, SETTINGS.cell
        )
        arrays = (alpha, beta, seen.importance, seen.divergence, seen.threshold, seen.active)
        rows.append(TrajectoryRow(epoch, *(array.numpy().copy() for array in arrays)))
        events.extend(seen.events)
    assert state.finished
    return rows, events, discretise(alpha, beta, state.active, SETTINGS.cell)


def _write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, path)


def _write_images(demo):
    random = np.random.default_rng(0)
    for number, case in enumerate(CASES):
        truth = np.zeros((4, 10, 8), np.uint8)
        truth[2, 2:7, 2:6] = 1
        truth[2, 5:7, 2:6] = 2
        _write_image(demo / "images" / f"{case}_0000.nii.gz", random.normal(size=truth.shape))
        _write_image(demo / "labels" / f"{case}.nii.gz", truth.astype(np.float32))
        for method in DICE:
            _write_image(demo / method / f"{case}.nii.gz", np.roll(truth, number, axis=2))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Return a finished demonstration's folder and summary."""
    folder = tmp_path_factory.mktemp("demo")
    rows, events, genotype = _search()
    run = RunFolder(folder / "results" / "fold_0" / "iac")
    run.write_settings(SETTINGS)
    run.write_trajectory(rows)
    run.write_events(events)
    run.write_backbone(BackboneRecord("checkpoint.pth", "nnUNetTrainer", 0, "a1b2c3", "a1b2c3"))
    _write_images(folder)
    per_case = [
        {"case": case, **{method: DICE[method][i] for method in DICE}}
        for i, case in enumerate(CASES)
    ]
    summary = {
        **{f"{method}_dice": float(np.mean(values)) for method, values in DICE.items()},
        "per_case": per_case,
        "search_epochs": 7,
        "search_seconds": 61.2,
        "finetune_seconds": 3725.0,
        "genotype": genotype.to_document(),
        "backbone_unchanged": True,
        "epochs": {"backbone": 5, "warmup": 1, "search": 7, "finetune": 3, "continued": 10},
        "edges_that_waited": 0,
        "stopped_by": "criterion",
        "run_folder": "results/fold_0/iac",
        "images": "images",
        "labels": "labels",
        "predictions": {method: method for method in DICE},
        "hardware": "a <small> machine",
        "stage_seconds": {"backbone": 42.0, "continued": 43.0},
        "total_seconds": 59.0,
    }
    return folder, summary


@pytest.fixture(scope="module")
def page(demo):
    """Return the page of that demonstration."""
    return _page(demo)


def _page(demo):
    path = write_demo_report(*demo)
    assert path == demo[0] / "report" / "index.html"
    return path.read_text(encoding="utf-8")


class _Outline(HTMLParser):
    """Collects what a page refers to and how it is built."""

    def __init__(self, page):
        super().__init__()
        self.sources, self.links, self.ids, self.headings, self.images = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [v for k, v in attributes if k in ("src", "srcset", "data")]
        (self.links if tag == "a" else self.sources).extend(
            v for k, v in attributes if k in ("href", "xlink:href")
        )
        self.ids += [values["id"]] if "id" in values else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.images += [values] if tag == "img" else []


def test_page_needs_nothing_but_itself_and_is_small(page):
    outline = _Outline(page)
    assert outline.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in outline.sources)
    assert "@import" not in page
    assert "<script" not in page
    assert not re.findall(r"url\((?!#)", page)
    assert len(page) < 5_000_000


def test_page_has_unique_identifiers_and_every_reference_inside_it_resolves(page):
    outline = _Outline(page)
    assert len(outline.ids) == len(set(outline.ids))
    used = re.findall(r"url\(#([^)]*)\)", page)
    used += [source[1:] for source in outline.sources if source.startswith("#")]
    assert used
    assert set(used) <= set(outline.ids)


def test_page_opens_with_its_verdict_and_shows_every_score(demo, page):
    assert verdict(demo[1]) in page
    assert "no evidence" in page.split("</header>")[0]
    table = re.search(r"<table>.*?</table>", page, re.S)[0]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table)
    assert [name for name, _ in rows] == ["mean", *CASES]
    assert re.findall(r"<td>(.*?)</td>", rows[0][1]) == ["0.8250", "0.8100", "0.8575", "+0.0325"]
    assert re.findall(r"<td>(.*?)</td>", rows[2][1])[-1] == "-0.0100"


def test_page_shows_three_cases_with_two_described_pictures_each(page):
    assert page.count('<figure class="overlay">') == 3
    images = _Outline(page).images
    assert len(images) == 6
    assert [image["alt"].split(",")[0] for image in images[::2]] == ["case_2", "case_1", "case_3"]
    assert all("slice 2" in image["alt"] for image in images)


def test_page_shows_the_cell_and_all_fourteen_edges_in_the_same_colours(demo, page):
    for entry in demo[1]["genotype"]["edges"]:
        edge = f"{entry['source']}_{entry['target']}-{entry['operation']}"
        assert f'id="cell-edge-{edge}"' in page
    assert len(re.findall(r"<figcaption>from v\d", page)) == len(EDGES)
    assert page.count(", kept<") == 8
    panels = page[page.index("Edges into v2") : page.index("<h2>Time</h2>")]
    for operation, colour in OPERATION_COLOURS.items():
        assert colour in panels
        assert operation_label(operation) in page


def test_pictures_take_the_colours_of_the_light_or_dark_page(page):
    assert "prefers-color-scheme: dark" in page
    assert page.count(INK) == 1
    assert "fill: var(--ink)" in page


def test_headings_go_down_one_level_at_a_time(page):
    levels = _Outline(page).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_names_the_source_and_the_licence_of_the_data(page):
    for part in ("Medical Segmentation Decathlon", "Antonelli", "CC BY-SA 4.0"):
        assert part in page


def test_page_has_epochs_and_times_and_escapes_texts(page):
    for part in (
        "1 min 1 s",
        "1 h 2 min",
        "59 s",
        "42 s",
        "43 s",
        "a &lt;small&gt; machine",
        "after 7 epochs",
    ):
        assert part in page


@pytest.mark.parametrize(
    ("waited", "sentence"), [(0, "fixed schedule"), (3, "3 of 14 edges failed")]
)
def test_page_states_whether_the_stability_test_ever_decided_anything(demo, waited, sentence):
    assert sentence in _page((demo[0], {**demo[1], "edges_that_waited": waited}))


def test_page_states_when_the_search_ran_into_its_limit(demo):
    assert "reached its limit" in _page((demo[0], {**demo[1], "stopped_by": "limit"}))


def test_page_has_the_health_events_of_the_search(demo, page, tmp_path):
    assert "found nothing" in page
    folder = shutil.copytree(demo[0], tmp_path / "demo")
    events = (
        HealthEvent(4, "dead edge", Edge(1, 3), "no gradient moved its alpha"),
        HealthEvent(6, "collapse", None, "64% of the <leading> operations"),
    )
    RunFolder(folder / demo[1]["run_folder"]).write_health(events)
    page = _page((folder, demo[1]))
    assert "found nothing" not in page
    assert "<li>epoch 4, edge 1-&gt;3: dead edge, no gradient moved its alpha</li>" in page
    assert "<li>epoch 6: collapse, 64% of the &lt;leading&gt; operations</li>" in page


def test_page_shows_the_proof_of_the_unchanged_backbone(page):
    assert "The backbone did not change" in page
    assert page.count("a1b2c3") == 2


@pytest.mark.parametrize(("after", "claim"), [("d4e5f6", True), (None, True), ("a1b2c3", False)])
def test_page_warns_unless_hashes_and_summary_agree_that_nothing_changed(
    demo, tmp_path, after, claim
):
    folder = shutil.copytree(demo[0], tmp_path / "demo")
    summary = {**demo[1], "backbone_unchanged": claim}
    record = BackboneRecord("checkpoint.pth", "nnUNetTrainer", 0, "a1b2c3", after, leakage="seen")
    RunFolder(folder / summary["run_folder"]).write_backbone(record)
    page = _page((folder, summary))
    assert "The backbone did not change" not in page
    assert '<p class="alarm">The backbone must be bit-identical' in page
    assert '<p class="alarm">seen</p>' in page


def test_page_is_the_same_every_time(demo, page):
    assert _page(demo) == page


def test_verdict_compares_with_both_others_in_the_printed_numbers():
    summary = {
        "per_case": [{}] * 6,
        "reference_dice": 0.88004,
        "continued_dice": 0.88496,
        "iac_dice": 0.87996,
        "epochs": {"continued": 30},
    }
    text = verdict(summary)
    assert "On 6 test cases" in text
    assert "equal to its backbone (0.8800)" in text
    assert (
        "0.0050 lower than the continued backbone (0.8850), which was trained for the same 30 "
        in text
    )
    assert "0.0800 higher than its backbone" in verdict({**summary, "reference_dice": 0.8})


def _case(name, gain):
    return {"case": name, "reference": 0.5, "continued": 0.5, "iac": 0.5 + gain}


def test_shown_cases_are_the_worst_the_middle_and_the_best():
    cases = [_case("a", 0.1), _case("b", -0.2), _case("c", 0.0), _case("d", 0.3), _case("e", 0.2)]
    assert [case["case"] for case in shown_cases(cases)] == ["b", "a", "d"]
    assert [case["case"] for case in shown_cases(cases[:2])] == ["b", "a"]
    assert [case["case"] for case in shown_cases(cases[:1])] == ["a"]


def test_fullest_slice_counts_every_class_once_and_prefers_the_first():
    labels = np.zeros((4, 3, 3), int)
    labels[1, 0, :2] = 1
    labels[2, 0, 0] = 9
    labels[3, 1, :2] = 2
    assert fullest_slice(labels) == 1


def _as_set(segments):
    return {frozenset(map(tuple, segment)) for segment in segments.tolist()}


def test_outline_of_one_pixel_is_its_square():
    labels = np.zeros((3, 4), int)
    labels[1, 2] = 1
    corners = [(2, 1), (3, 1), (3, 2), (2, 2)]
    sides = zip(corners, corners[1:] + corners[:1], strict=True)
    assert _as_set(outlines(labels)) == {frozenset(side) for side in sides}


def test_outline_is_closed_at_the_image_border_and_between_classes():
    assert len(outlines(np.ones((2, 3), int))) == 10
    assert frozenset({(1, 0), (1, 1)}) in _as_set(outlines(np.array([[1, 2]])))
    assert outlines(np.zeros((2, 3), int)).shape == (0, 2, 2)


def test_shares_of_an_edge_sum_to_one_and_pruned_operations_have_none():
    trajectory = Trajectory.of_rows(_search()[0])
    values = shares(trajectory)
    np.testing.assert_allclose(values.sum(axis=-1), 1)
    assert (values[~trajectory.active] == 0).all()
    phi = np.exp(trajectory.alpha[0, 0])
    np.testing.assert_allclose(values[0, 0], phi / phi.sum())


def test_shares_are_equal_where_no_importance_is_positive():
    rows, _, _ = _search()
    row = rows[0]
    row.importance[0] = -1.0
    row.importance[1, 0] = -1.0
    values = shares(Trajectory.of_rows([row]))
    np.testing.assert_allclose(values[0, 0], 1 / 7)
    assert values[0, 1, 0] == 0


def test_survivors_are_what_no_event_removed():
    _, events, genotype = _search()
    for edge, operation in genotype.operations.items():
        assert survivors(events, EDGES.index(edge)) == (operation,)
    assert survivors((), 0) == OPERATIONS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 s"), (7384, "2 h 3 min")],
)
def test_duration_names_its_two_largest_units(seconds, text):
    assert duration(seconds) == text
