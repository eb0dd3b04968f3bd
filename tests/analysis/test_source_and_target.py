"""The section of a report on adapted models, and the plane of gain and forgetting."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scored_folders import write_source_record, write_stock_fold
from searched_folders import FROZEN, SETTINGS, write_control, write_searched_run
from study_documents import document, run

from nnunet_iac.analysis.report.document import Report, make_report, read_runs, write_report
from nnunet_iac.analysis.report.plane import PlanePoint, plane
from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.analysis.scores.comparison import compare_scores
from nnunet_iac.analysis.scores.wording import NONE
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.workflow.study_report import write_study_report

SOURCE = {f"s_{n:02}": 0.9 for n in range(8)}


def lost(share: float) -> dict[str, float]:
    """Return the Dice on the source after case n has lost n + 1 such shares."""
    return {case: 0.9 - share * (n + 1) for n, case in enumerate(SOURCE)}


def gained(dice: float) -> dict[str, float]:
    return {case: before + dice for case, before in FROZEN.items()}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A search and two random cells that adapt a model, and the control, which forgets more."""
    folder = tmp_path / "results"
    searched = write_searched_run(folder, dice=gained(0.1))
    write_source_record(searched, SOURCE, lost(0.002))
    for seed, share in enumerate((0.002, 0.004)):
        cell = write_control(folder, f"random cell {seed}", 22, dice=gained(0.08))
        write_source_record(cell, SOURCE, lost(share))
    continued = write_control(folder, "continued", 22, dice=gained(0.12))
    write_source_record(continued, SOURCE, lost(0.02))
    return folder


def report_of(folder: Path) -> Report:
    runs, unread = read_runs([folder])
    return make_report(runs, unread=unread)


def rows_of(report: Report) -> dict[str, dict[str, str]]:
    """Return the table of the section, by method and column."""
    (section,) = (section for section in report.sections if section.key == "source_and_target")
    (table,) = section.tables
    return {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}


def test_every_method_has_its_dice_on_both_sides(results: Path) -> None:
    rows = rows_of(report_of(results))
    assert list(rows) == ["IAC-LTH", "the continued backbone", "a random cell (2 draws)"]
    searched, random = rows["IAC-LTH"], rows["a random cell (2 draws)"]
    assert searched["target Dice"] == "0.8550"
    assert searched["minus the backbone (95 % interval)"].startswith("+0.1000 [")
    assert (searched["source Dice before"], searched["source Dice"]) == ("0.9000", "0.8910")
    assert searched["forgetting (95 % interval)"].startswith("-0.0090 [-0.0")
    assert searched["forward transfer (95 % interval)"] == "not available"
    # Two draws, 0.009 and 0.018, are averaged case by case.
    assert (random["runs"], random["source Dice"]) == ("2", "0.8865")
    # Eight patients who all lose have p = 2 / 256 in each of three comparisons.
    assert [row["p, Holm"] for row in rows.values()] == [f"{6 / 256:.4f}"] * 3


def test_forward_transfer_is_over_stock_trainers_under_the_same_plans_or_their_source(
    results: Path,
) -> None:
    write_stock_fold(results / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0", gained(-0.2))
    write_stock_fold(results / "nnUNetTrainer_short__adapted__2d" / "fold_0", gained(-0.3))
    model = results / "nnUNetTrainerContinue__nnUNetPlans_continued__2d"
    named = {"plans_name": "nnUNetPlans_continued", "dataset_name": "Dataset004_Hippocampus"}
    write_json(model / "plans.json", {**named, "source_plans": "adapted", "configurations": {}})
    rows = rows_of(report_of(results))
    column = "forward transfer (95 % interval)"
    assert rows["IAC-LTH"][column] == "+0.3000 [+0.3000, +0.3000] over nnUNetTrainer"
    expected = "+0.4200 [+0.4200, +0.4200] over nnUNetTrainer_short"
    assert rows["the continued backbone"][column] == expected
    assert rows["a random cell (2 draws)"][column] == "not available"


def test_exported_unreadable_and_unvalidated_neighbours_are_no_measure_of_it(
    results: Path,
) -> None:
    exported = results / "nnUNetTrainer__nnUNetPlans__2d"
    write_stock_fold(exported / "fold_0", gained(-0.2))
    write_json(exported / "plans.json", {"exported_from": "nnUNetTrainerIACLTH__adapted__2d"})
    damaged = write_stock_fold(results / "nnUNetTrainer_5epochs__nnUNetPlans__2d" / "fold_0", {})
    (damaged / "validation" / "summary.json").write_text("{")
    (searched,) = results.glob("nnUNetTrainerIACLTH__*/fold_0")
    shutil.copytree(searched, all_cases := searched.with_name("fold_all"))
    cost = json.loads((all_cases / "iac" / "cost.json").read_text())
    cost["run"]["fold"] = "all"
    write_json(all_cases / "iac" / "cost.json", cost)
    write_stock_fold(results / "nnUNetTrainer_5epochs__nnUNetPlans__2d" / "fold_all", gained(0.1))
    row = rows_of(report_of(results))["IAC-LTH"]
    assert (row["runs"], row["forward transfer (95 % interval)"]) == ("2", "not available")


def test_a_network_trained_on_other_cases_is_no_measure_of_forward_transfer(results: Path) -> None:
    other = {**gained(-0.2), "another": 0.5}
    write_stock_fold(results / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0", other)
    searched = rows_of(report_of(results))["IAC-LTH"]
    assert searched["forward transfer (95 % interval)"] == "not available"


def test_page_markdown_table_and_numbers_have_the_section(results: Path, tmp_path: Path) -> None:
    folder = write_report([results], tmp_path / "report").parent
    for name in ("index.html", "report.md"):
        text = (folder / name).read_text()
        assert "Adapted to Dataset004_Hippocampus: the model" in text
        assert "of Dataset027_Source, the source." in text
        assert "Gain on Dataset004_Hippocampus and forgetting on Dataset027_Source, 2d" in text
    assert (folder / "figures" / "plane.png").is_file()
    assert len((folder / "tables" / "source_and_target.csv").read_text().splitlines()) == 4
    numbers = json.loads((folder / "report.json").read_text())["source_and_target"]
    assert [one["forgetting"] for one in numbers] == pytest.approx([-0.009, -0.09, -0.0135])
    assert numbers[0]["target_dice"] == pytest.approx(0.855)
    assert numbers[0]["source_patients"] == 8
    assert numbers[0]["interval"][0] < -0.009 < numbers[0]["interval"][1]
    assert numbers[0]["verdict"] == "worse"


def test_a_report_without_a_source_has_no_such_section(tmp_path: Path) -> None:
    report = report_of(write_searched_run(tmp_path))
    assert "source_and_target" not in [section.key for section in report.sections]


def test_methods_that_were_not_scored_on_the_source_are_left_out(results: Path) -> None:
    model = results / "nnUNetTrainerContinue__nnUNetPlans_continued__2d"
    (model / "fold_0" / "iac" / "source.json").unlink()
    assert list(rows_of(report_of(results))) == ["IAC-LTH", "a random cell (2 draws)"]


def test_forgetting_needs_no_score_on_the_target(results: Path, tmp_path: Path) -> None:
    """A single case leaves none to score."""
    (fold,) = results.glob("nnUNetTrainerIACLTH__*/fold_0")
    fold = fold.rename(fold.with_name("fold_all"))
    cost = json.loads((fold / "iac" / "cost.json").read_text())
    cost["run"]["fold"] = "all"
    write_json(fold / "iac" / "cost.json", cost)
    (row,) = rows_of(report_of(fold)).values()
    assert (row["target Dice"], row["minus the backbone (95 % interval)"]) == (NONE, NONE)
    assert row["forgetting (95 % interval)"].startswith("-0.0090 [")
    report = write_report([fold], tmp_path / "report")
    assert "Gain on" not in report.read_text()


def test_a_pattern_that_does_not_fit_the_source_is_remarked(tmp_path: Path) -> None:
    settings = SETTINGS.replace(patient_pattern=r"case_\d+")
    folder = write_searched_run(tmp_path, settings=settings)
    write_source_record(folder, SOURCE, lost(0.01))
    report = report_of(folder)
    (section,) = (section for section in report.sections if section.key == "source_and_target")
    expected = "On the source, every case counts as a patient: 'case_\\\\d+' does not match all"
    assert any(paragraph.startswith(expected) for paragraph in section.paragraphs)


def point(name: str, gain: float, loss: float) -> PlanePoint:
    """Return a method that gains and loses about so much in every case."""

    def compared(sign: float) -> Any:
        a = dict.fromkeys(SOURCE, 0.5)
        b = {case: 0.5 + sign * (1 + 0.1 * n) for n, case in enumerate(SOURCE)}
        return compare_scores(CaseScores.of_dice(a, "a"), CaseScores.of_dice(b, name))

    return PlanePoint(name, compared(gain), compared(-loss))


def test_the_plane_has_a_mark_with_both_intervals_for_every_method() -> None:
    points = [point("cells", 0.1, 0.01), point("continued", 0.1, 0.05)]
    figure = plane(points)
    (axes,) = figure.axes
    drawn = [tuple(map(tuple, line.get_data())) for line in axes.lines]
    for one in points:
        x, y = one.target.difference, one.source.difference
        assert ((x,), (y,)) in drawn
        across, up = one.target.interval, one.source.interval
        assert across is not None
        assert up is not None
        assert ((across.low, across.high), (y, y)) in drawn
        assert ((x, x), (up.low, up.high)) in drawn
    assert ((0,), (0,)) in drawn
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["the backbone", "cells", "continued"]


def test_many_methods_keep_marks_of_their_own() -> None:
    figure = plane([point(f"method {n}", 0.01 * n, 0.01) for n in range(1, 13)])
    marks = [
        (line.get_color(), line.get_marker())
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    ]
    assert len(set(marks)) == len(marks) == 13


def test_a_study_of_adapted_models_draws_the_plane(tmp_path: Path) -> None:
    source = {"dataset": "Dataset027_Source", "before": SOURCE, "after": lost(0.01)}
    pages = {}
    for name, own in (("with", {"source": source, "patient_pattern": None}), ("without", {})):
        page = tmp_path / name / "report.html"
        write_study_report(document(run("random", 0, 0.1, **own)), page)
        pages[name] = page.read_text()
    assert "forgetting on the source" in pages["with"]
    assert "Forgetting is the Dice on the validation cases" in pages["with"]
    assert "orgetting" not in pages["without"]
    assert "source Dice before" in (tmp_path / "with" / "tables.csv").read_text()
