"""The studies of what a search is worth: equal batches, no case on both sides, and their page."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from study_documents import run

from nnunet_iac.analysis.report.summary import CHOICE
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_file import study_of

Script = Callable[[str], ModuleType]
"""Loads a script by its place in docs."""

RATES = {"continued": {"finetune_lr": 1e-3}, "random": {"finetune_lr": 3e-3}}


@pytest.fixture(scope="module")
def studies(script: Script) -> ModuleType:
    return script("evidence/search/studies")


def planned(studies: ModuleType) -> Iterator[tuple[str, str, Study]]:
    """Yield data set, name and content of every study."""
    document = studies.read_document()
    for data, given in document["sets"].items():
        for name in given["studies"]:
            content = studies.study(document, data, name, RATES)
            yield data, name, study_of(content, Path("/studies"))


def epochs(study: Study, method: str) -> int:
    """Return the epochs of a method, search included, at the latest."""
    settings, trainer = study.settings_of(method, 0), study.methods[method].trainer
    searched = {"nnUNetTrainerIACLTH": settings.latest_end}
    searched["nnUNetTrainerIAC"] = settings.schedule.search_epochs
    return searched.get(trainer, 0) + settings.schedule.finetune_epochs


def test_methods_that_are_compared_are_trained_for_equally_many_batches(
    studies: ModuleType,
) -> None:
    for _, name, study in planned(studies):
        found = {epochs(study, method) for method in study.methods}
        if name in ("choose", "genotypes", "searches", "methods", "core", "parts"):
            assert found == {60}


def test_the_page_names_every_data_set_and_method(script: Script, studies: ModuleType) -> None:
    page, known = script("evidence/search/page"), [*planned(studies)]
    assert {data for data, _, _ in known} == {*page.TITLES}
    shown = [study for _, name, study in known if name not in ("choose", "genotypes")]
    methods = {method for study in shown for method in study.methods}
    assert methods | {*page.DIRECT} == {*page.NAMES}


def test_rates_are_chosen_without_the_cases_that_are_reported(studies: ModuleType) -> None:
    document = studies.read_document()
    for data in document["sets"]:
        compared, chosen, papers = studies.read_json(studies.splits_file(document, data))
        assert {*chosen["train"], *chosen["val"]} == {*compared["train"]}
        assert not {*papers["train"]} & {*papers["val"], *chosen["val"]}
    folds = {name: study.datasets[0].folds for _, name, study in planned(studies)}
    assert folds.pop("choose") == (1,)
    assert folds.pop("paper") == (2,)
    assert {*folds.values()} == {(0,)}


def test_the_rate_of_a_kind_is_that_of_its_best_method_and_own_settings_win(
    studies: ModuleType, tmp_path: Path
) -> None:
    document = studies.read_document()
    assert studies.chosen_rates(document, "hippocampus", tmp_path) is None
    assert studies.study(document, "hippocampus", "methods", None) is None
    tried = document["studies"]["choose"]["methods"]
    best = {"continued-sgd": 0.1, "random-1e-3": 0.1}
    runs = [run(name, 0, best.get(name, 0)) for name in tried]
    write_json(tmp_path / "hippocampus-choose.json", {"methods": [*tried], "runs": runs})
    rates = studies.chosen_rates(document, "hippocampus", tmp_path)
    assert rates == {
        "continued": tried["continued-sgd"]["settings"],
        "random": {"finetune_lr": 1e-3},
    }
    study = study_of(studies.study(document, "hippocampus", "methods", rates))
    assert study.settings_of("continued", 0).optimisation.finetune_optimizer == "sgd"
    assert study.settings_of("attention", 0).optimisation.finetune_lr == 1e-3
    parts = study_of(studies.study(document, "hippocampus", "parts", rates))
    assert parts.settings_of("random-wide", 0).optimisation.finetune_optimizer == "adam"
    assert parts.settings_of("random-all", 0).optimisation.finetune_optimizer == "sgd"
    assert studies.with_rates("x", {"settings": {"finetune_lr": 1.0}}, rates)["settings"] == {
        "finetune_lr": 1.0
    }


def test_splits_give_way_only_to_those_with_the_same_first_fold(
    studies: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, path = studies.read_document(), tmp_path / "splits_final.json"
    monkeypatch.setattr(studies, "preprocessed_folder", lambda name: tmp_path)
    wanted = studies.read_json(studies.splits_file(document, "acdc"))
    studies.put_splits(document, "acdc")
    assert not path.exists()
    for known, expected in (([wanted[0], {}], wanted), ([wanted[1]], [wanted[1]])):
        write_json(path, known)
        studies.put_splits(document, "acdc")
        assert studies.read_json(path) == expected


SECONDS = {"iac-lth": 90.0, "iac": 240.0}
EPOCHS = {"random-80": 80, "random-120": 120}


def made_up(name: str, methods: dict[str, float], seeds: tuple[int, ...]) -> dict[str, Any]:
    """Return the result file of a study whose methods have these gains over the backbone."""
    rng = np.random.default_rng(len(name))
    runs = []
    for method, gain in methods.items():
        for seed in seeds:
            own = {"seconds": SECONDS.get(method, 60.0), "epochs": EPOCHS.get(method, 60)}
            runs.append(run(method, seed, gain + 0.0005 * rng.normal(), **own))
            runs[-1]["settings"] = {"iterations_per_epoch": 5, "warmup_epochs": 4}
            runs[-1]["commit"] = "0123456789abcdef"
    reference = {**run("reference", 0, 0.0), "trainer": "long", "curve": [0.6, 0.7]}
    return {"methods": [*methods], "halves": {}, "runs": [reference, *runs]}


def converged() -> dict[str, Any]:
    runs = [
        {**run("reference", 0, gain), "backbone": name, "trainer": name, "curve": curve}
        for name, gain, curve in (("long", 0.002, [0.5, 0.702]), ("half", 0.0, [0.5]))
    ]
    return {"methods": [], "halves": {"half": "long"}, "runs": runs}


@pytest.fixture
def page(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what writes the page from made-up result files."""
    module = script("evidence/search/page")
    monkeypatch.setattr(module, "file", lambda key, name: tmp_path / f"{key}-{name}.json")

    def write(**results: dict[str, Any]) -> str:
        for name, content in results.items():
            write_json(tmp_path / f"{name.replace('_', '-')}.json", content)
        text: str = module.page()
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
        return text

    return write


GENOTYPES = {f"cell-{n}": 0.01 for n in range(8)}
METHODS = {"continued": 0.0101, "random": 0.01, "iac-lth": 0.0102, "iac": 0.0103}


def test_the_page_states_what_has_not_been_measured(page: Callable[..., str]) -> None:
    text = page()
    assert text.count("Not measured yet: whether the backbone has converged") == 3
    assert "How far cells differ has not been measured." in text


def test_cells_that_hardly_differ_do_not_matter_and_the_cheapest_is_named(
    page: Callable[..., str],
) -> None:
    text = page(
        acdc_converged=converged(),
        acdc_genotypes=made_up("genotypes", GENOTYPES, (0, 1)),
        acdc_methods=made_up("methods", METHODS, (0, 1, 2)),
        acdc_time=made_up("time", {"random-80": 0.01, "random-120": 0.011}, (0, 1, 2)),
    )
    first = text.split("\n## ")[0]
    assert "On the backbone's own data it does not matter which cell is chosen" in first
    fewest = "fewest MACs among those shown not to be inferior to the best by 0.002"
    assert f'the retrofit with the {fewest} is "cells: random"' in first
    assert "so half has converged" in text
    assert (
        "controls and other skip modules (12 of 18 runs are finished), searches and finetunings of "
        "other lengths (6 of 9 runs are finished), other trained parts" in text
    )
    assert "| cells: random | 19 |" in text
    assert "### How long to finetune" in text
    # Of the controls that take no longer than a search, the longest.
    assert "| cells: IAC-LTH, `literal` | 1.5 | cells: random | 1.3 |" in text
    assert "| cells: IAC, the full search | 4.0 | cells: random | 2.0 |" in text


def test_the_shortest_finetuning_that_is_not_inferior_is_enough(page: Callable[..., str]) -> None:
    gains = {"random-10": 0.0, "random-30": 0.02, "random-80": 0.02}
    assert "300 batches are enough: " in page(acdc_time=made_up("time", gains, (0, 1, 2)))
    gains = {"random-10": 0.0, "random-30": 0.02, "random-120": 0.04}
    assert "No shorter one was shown to be enough." in page(
        acdc_time=made_up("time", gains, (0, 1, 2))
    )


def test_lengths_that_all_do_nothing_show_none_that_is_enough(page: Callable[..., str]) -> None:
    gains = dict.fromkeys(("random-10", "random-30", "random-80"), -0.01)
    text = page(acdc_time=made_up("time", gains, (0, 1, 2)))
    assert "these runs do not show how long a finetuning must be" in text
    assert "batches are enough" not in text


def test_a_spread_whose_interval_reaches_the_limit_decides_nothing(
    page: Callable[..., str],
) -> None:
    gains = {f"cell-{n}": 0.0015 * (n % 3) for n in range(8)}
    text = page(acdc_genotypes=made_up("genotypes", gains, (0, 1)))
    assert "Whether it matters which cell is chosen is not decided" in text


def test_cells_that_differ_can_matter_and_what_was_tried_is_described(
    page: Callable[..., str],
) -> None:
    different = {name: 0.01 * n for n, name in enumerate(GENOTYPES)}
    text = page(
        acdc_genotypes=made_up("genotypes", different, (0, 1)),
        acdc_halving=made_up("halving", {"halving": 0.0, "halving-convolutions": 0.0}, (0, 1, 2)),
    )
    assert text.count("The choice of the cell can matter") == 1
    assert "With\n3 seeds on ACDC, 128 x 128, in 1.0 minutes a run: direct evaluation has" in text


def test_searches_may_be_measured_before_random_cells(page: Callable[..., str]) -> None:
    text = page(acdc_searches=made_up("searches", {"iac-lth": 0.01, "iac": 0.02}, (0, 1, 2)))
    assert "searched cells (IAC-LTH) have a Dice of" in text
    assert 'is "cells: IAC, the full search"' in text
    assert "the best itself; no other was shown not to be inferior" in text


def test_methods_on_another_training_of_the_backbone_are_no_evidence_of_a_converged_one(
    page: Callable[..., str],
) -> None:
    shown, methods = converged(), made_up("methods", METHODS, (0, 1, 2))
    sentence = "start from another training of the same network"
    assert sentence not in page(acdc_converged=shown, acdc_methods=methods)
    methods["runs"][0]["dice"] = dict.fromkeys(methods["runs"][0]["dice"], 0.9)
    assert sentence in page(acdc_methods=methods)


def test_what_trains_the_network_is_no_retrofit(page: Callable[..., str]) -> None:
    parts = {"random-all": 0.05, "random-decoder": 0.05, "random-wide": 0.01}
    methods = {"random": 0.01, "identity": 0.01}
    text = page(
        acdc_parts=made_up("parts", parts, (0, 1, 2)),
        acdc_methods=made_up("methods", methods, (0, 1, 2)),
    )
    first = text.split("\n## ")[0]
    assert "and the backbone" not in first
    assert "and the decoder" not in first


def test_a_comparison_at_equal_time_that_the_table_has_keeps_its_p(
    page: Callable[..., str],
) -> None:
    text = page(
        acdc_searches=made_up("searches", {"iac-lth": 0.02, "swift": 0.02}, (0, 1, 2)),
        acdc_methods=made_up("methods", {"random": 0.01, "continued": 0.01}, (0, 1, 2)),
    )
    tables = re.findall(r"\n((?:\|.*\n)+)", text)
    equal = next(t for t in tables if t.startswith("| method | runs | Dice"))
    timed = next(t for t in tables if t.startswith("| search | minutes | control"))
    row = next(line for line in equal.splitlines() if "`swift`" in line).split(" | ")
    pairs = [line.split(" | ")[-2:] for line in timed.splitlines() if "`swift`" in line]
    assert [[p[0], p[1].removesuffix(" |")] for p in pairs] == [row[8:10], row[6:8]]


def test_the_papers_numbers_are_beside_ours(page: Callable[..., str]) -> None:
    methods = {"iac": 0.01, "paper": 0.01, "attention": 0.0}
    paper = made_up("paper", methods, (0, 1))
    # A second training of the backbone comes last, as in a study's result file.
    paper["runs"].append({**paper["runs"][0], "backbone": "shorter"})
    text = page(acdc_paper=paper)
    assert "+0.011, 16.3 minutes | +0.023, 37 minutes | +0.106, 41 minutes |" in text
    assert "| 4.4 | 3.4 | 3.7 |" in text
    assert "| the same of whole runs | " in text
    assert "the accelerated search with the full one: it is not inferior by 0.002" in text


def test_a_report_states_what_the_studies_show_of_the_choice_of_cells(script: Script) -> None:
    known = [one for one in script("evidence/search/page").measured() if one.ceiling is not None]
    assert known
    for one in known:  # Of another answer on a second data set the report would have to state both.
        assert one.ceiling.genotypes == 8
        assert one.matters is False
    assert "it did not matter which cell was chosen" in CHOICE


def test_the_guide_names_the_lengths_of_finetuning_that_were_compared(script: Script) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "cost-and-memory.md").read_text()
    one = next(one for one in script("evidence/search/page").measured() if one.lengths)
    assert not one.longest_helps
    assert f"finetuned for {one.lengths[0].batches} batches" in guide
    assert f"not inferior by {script('evidence/search/page').MARGIN}" in guide
    assert f"finetuned for {one.lengths[-1].batches}, nor" in guide
    root = Path(__file__).parents[2]
    between = f"{one.lengths[0].batches} and {one.lengths[-1].batches:,} batches"
    for page in (root / "README.md", root / "docs" / "quickstart.md", root / "docs" / "faq.md"):
        assert between in page.read_text(), page
    (batches,) = {
        run["epochs"] * run["settings"]["iterations_per_epoch"] for run in one.runs_of("genotypes")
    }
    assert f"finetuned for {batches:,} batches" in CHOICE
