"""docs/evidence/adaptation.md, written of made-up results: what it must show, and show first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from nnunet_iac.runs.atomic import write_json

METHODS = Path(__file__).parents[2] / "docs" / "evidence" / "adaptation" / "methods.yaml"
TARGET = [f"cmr_{n:02d}" for n in range(16, 31)]
SOURCE = [f"patient{n:03d}_frame{frame}" for n in range(1, 15) for frame in ("01", "02")]
DRAWS = 3

GAINS = {
    **dict.fromkeys(("iac-lth", "random", "proposed"), (0.16, 0.01)),
    "continued": (0.162, 0.06),
}
"""Gain on the target and loss on the source of methods that differ from `OTHER`."""

OTHER = (0.15, 0.02)


def scores(cases: list[str], base: float, change: float) -> dict[str, float]:
    """Return a Dice of every case, the change of which differs a little."""
    return {
        case: base + change * (1 + 0.1 * (n % 3)) + 0.001 * n % 7 for n, case in enumerate(cases)
    }


def run(method: str, draw: int, gain: float, loss: float) -> dict[str, Any]:
    reference = method == "reference"
    before = scores(SOURCE, 0.86, 0)
    own = {} if reference else {"frozen_dice": None, "backbone_unchanged": True, "seed": 0}
    return {
        "run": f"{method}{draw}",
        "dataset": "Dataset030_CMRbSSFP",
        "configuration": "2d",
        "fold": draw,
        "backbone": "adapted",
        "method": method,
        "augmentation": "default",
        "seed": None,
        "patient_pattern": None,
        "backbone_hash": "a" * 64,
        "dice": scores(TARGET, 0.695 + 0.001 * draw, gain),
        "source": {"before": before, "after": scores(SOURCE, 0.86, -loss)},
        "settings": {"iterations_per_epoch": 25, "finetune_lr": 1e-3},
        "epochs": 16,
        "search_epochs": 8,
        "seconds": 300.0,
        "parameters": {"backbone": 1000, "final": 1030},
        "macs": {"backbone": 10, "final": 12},
        **own,
    }


def measured(gains: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the result file of a study of all methods."""
    methods = [name for group in yaml.safe_load(METHODS.read_text()).values() for name in group]
    runs = [run("reference", draw, 0, 0) for draw in range(DRAWS)]
    runs += [run(name, draw, *gains.get(name, OTHER)) for name in methods for draw in range(DRAWS)]
    return {"study": "adaptation-heart-k3", "methods": methods, "runs": runs}


@pytest.fixture
def writer(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("evidence/adaptation/page")


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table after a heading."""
    lines = page[page.index(heading) :].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| "))
    end = next(n for n, line in enumerate(lines) if n > start and not line.startswith("|"))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start + 2 : end]]


def test_what_was_not_measured_is_named_and_the_search_comes_first(
    writer: ModuleType, tmp_path: Path
) -> None:
    write_json(tmp_path / "heart-k3.json", measured(GAINS))
    page = writer.page(tmp_path, draw=True)
    first = page.splitlines()[2]
    found = "No difference between searched and random cells was detected"
    assert first.startswith(f"**{found}.**")
    assert "Not measured: Hippocampus: a simulated change of the scanner.\n" in page
    targets = rows(page, "## Targets")
    by_cases = {
        cases: [row for row in targets if row[1] == f"heart, {cases}"]
        for cases in ("1 case", "3 cases", "5 cases", "10 cases")
    }
    for cases in ("1 case", "5 cases", "10 cases"):
        assert [row[2:] for row in by_cases[cases]] == [["not measured"] * 2] * 2
    dice, forgetting, *product = by_cases["3 cases"]
    assert dice[2].startswith("-0.0022 [")
    assert dice[2].endswith("against continued, all weights")
    assert dice[3] == "met"
    assert forgetting[2].startswith("17 %: -0.0110 [")
    assert forgetting[3] == "met"
    assert [row[3] for row in product] == ["not measured"] * 4
    assert "the backbone is bit-identical after 39 of 39 runs" in page
    assert "What was tried" not in page
    assert "n = 15 patients of the target and 14 of the source" in page
    assert "Means over 3 draws" in page
    methods = [row[0] for row in rows(page, "### heart, 3 cases")]
    assert methods == ["no adaptation", *(writer.NAMES[row] for row in measured(GAINS)["methods"])]
    assert "A training from scratch on the same cases was not measured." in page
    assert (tmp_path / "heart-k3.png").stat().st_size > 0
    assert "adaptation/heart-k3.png" in page


def test_what_was_missed_is_shown_with_numbers_and_what_was_tried(
    writer: ModuleType, tmp_path: Path
) -> None:
    gains = {**GAINS, **dict.fromkeys(("random", "proposed"), (0.14, 0.03))}
    gains |= {"iac-lth": (0.12, 0.03), "random-wide": (0.165, 0.05)}
    write_json(tmp_path / "heart-k3.json", measured(gains))
    page = writer.page(tmp_path)
    dice, forgetting = [row for row in rows(page, "## Targets") if row[1] == "heart, 3 cases"][:2]
    assert dice[2].startswith("-0.0242 [")
    assert dice[3] == "**missed**"
    assert forgetting[2].startswith("50 %: -0.0329 [")
    assert forgetting[3] == "**missed**"
    tried = {
        row[1]: [row[0], row[1], *row[3:]]
        for row in rows(page, "### What was tried where a target was missed: heart")
    }
    assert {*tried} == {
        name for method, name in writer.NAMES.items() if method not in writer.CONTROLS
    }
    assert tried["cells: random"][3:] == ["no", "50 %", "no"]
    assert tried["cells: random, wide"][3:] == ["yes", "83 %", "no"]
    assert "**Searched cells were worse than random ones.**" in page
    assert "lower than random ones at that rate (95 % CI" in page


def test_a_control_that_needs_source_cases_has_one_that_does_not_beside_it(
    writer: ModuleType, tmp_path: Path
) -> None:
    gains = {**GAINS, "rehearsal": (0.18, 0.002)}
    write_json(tmp_path / "heart-k3.json", measured(gains))
    page = writer.page(tmp_path)
    targets = [row for row in rows(page, "## Targets") if row[1].startswith("heart, 3 cases")]
    with_source, without = targets[:2], targets[2:4]
    assert all("rehearsal" in row[2] or "500 %" in row[2] for row in with_source)
    assert [row[3] for row in with_source] == ["**missed**"] * 2
    assert {row[1] for row in without} == {f"heart, 3 cases, {writer.WITHOUT_SOURCE}"}
    assert [row[3] for row in without] == ["met"] * 2
    assert 'the best one that needs no source cases, "continued, all weights"' in page


def test_a_search_that_is_better_is_first_as_well(writer: ModuleType, tmp_path: Path) -> None:
    gains = {**GAINS, "iac-lth": (0.17, 0.01)}
    write_json(tmp_path / "heart-k3.json", measured(gains))
    page = writer.page(tmp_path)
    first = "**Searched cells were better than random ones in 1 of 1 comparison.** By default"
    assert page.splitlines()[2].startswith(first)


def test_a_control_that_forgets_nothing_leaves_nothing_to_forget(
    writer: ModuleType, tmp_path: Path
) -> None:
    for lost, result in ((0.01, "**missed**"), (0.0, "met")):
        gains = {**GAINS, "continued": (0.162, -0.01), "proposed": (0.16, lost)}
        write_json(tmp_path / "heart-k3.json", measured(gains))
        _, forgetting, *_ = [
            row for row in rows(writer.page(tmp_path), "## Targets") if "heart, 3" in row[1]
        ]
        assert forgetting[2].startswith("the control forgets nothing")
        assert forgetting[3] == result


def test_a_training_from_scratch_is_a_row_and_the_measure_of_forward_transfer(
    writer: ModuleType, tmp_path: Path
) -> None:
    write_json(tmp_path / "heart-k3.json", measured(GAINS))
    scratch = {"study": "scratch", "methods": [], "runs": []}
    alone = {"backbone": "scratch", "backbone_hash": None}
    scratch["runs"] = [{**run("reference", draw, -0.2, 0), **alone} for draw in range(DRAWS)]
    write_json(tmp_path / "heart-k3-scratch.json", scratch)
    page = writer.page(tmp_path)
    *_, last = rows(page, "### heart, 3 cases")
    assert last[0] == "from scratch"
    assert last[1].startswith("0.4")
    assert 'Forward transfer: "cells: random, at the default rate" is 0.39' in page


PRODUCT: dict[str, Any] = {
    "cases": 3,
    "trainer": "T",
    "seconds": {"prepare": 12.0, "train": 540.0},
    "bytes": {"adapter": 40_000, "model": 1_000_000},
    "auto": {
        "site": dict.fromkeys(TARGET, "site"),
        "none": {case: "none" if n < 25 else "site" for n, case in enumerate(SOURCE)},
    },
    "warned": {"site": 0, "none": 2},
    "off": {"predictions": 43, "equal": True},
    "choice": {
        "compared": [
            {"stages": "all", "noise": noise, "cases": k, "right": {"site": 0.5, "none": 1.0}}
            for noise in (0.0, 0.5)
            for k in (1, 3)
        ],
        "held_out": {"1": {"site": [40, 45], "none": [84, 84]}},
    },
}


def test_files_choices_and_time_are_targets(writer: ModuleType, tmp_path: Path) -> None:
    write_json(tmp_path / "heart-k3.json", measured(GAINS))
    write_json(tmp_path / "heart-product.json", PRODUCT)
    found = {
        (row[0].split()[0], row[1]): row[2:] for row in rows(writer.page(tmp_path), "## Targets")
    }
    assert found["with", "heart, 3 cases, T"] == ["43 predictions equal", "met"]
    assert found["an", "heart, 3 cases, T"] == ["4.0 %, 40 of 1000 kB", "met"]
    assert found["`auto`", "heart, the target"] == [
        "15 of 15, 100 %; of 15 patients [78 %, 100 %]; 0 of the cases fit none",
        "met",
    ]
    of_draws = "96 %: 40 of 45 of the target, 84 of 84 of the source, counted once per draw"
    assert found["`auto`", "heart, 1 case, all draws"] == [of_draws, "met"]
    chosen = rows(writer.page(tmp_path), "## How `auto` chooses")
    assert ["all", "0.5", "50.0 / 100.0", "50.0 / 100.0", "yes"] in chosen
    right, result = found["`auto`", "heart, the source"]
    assert right.startswith("25 of 28, 89 %; of 14 patients [")
    assert right.endswith("; 2 of the cases fit none")
    assert result == "**missed**"
    time, result = found["adapting", "heart, 3 cases, T"]
    assert time.startswith("9.2 minutes: 0.2 to prepare, 9.0 to train")
    assert result == "met"


def test_without_results_there_are_no_findings(writer: ModuleType, tmp_path: Path) -> None:
    page = writer.page(tmp_path)
    assert "random ones" not in page
    assert [row[3] for row in rows(page, "## Targets")] == ["not measured"]


def test_rates_have_the_names_of_the_methods(writer: ModuleType) -> None:
    assert writer.rate_name("continued-10e-4") == "continued, all weights, 0.001"
    assert writer.rate_name("l2-sp-1e0") == "continued with L2-SP, 1"


def test_of_what_was_tried_for_a_method_one_value_is_used(writer: ModuleType) -> None:
    tried = writer.rates(writer.HERE, "hippocampus")
    used = [writer.tried(row.method)[0] for row, is_used in tried if is_used]
    assert sorted(used) == ["continued", "l2-sp", "random"]
