import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from filelock import FileLock
from searched_folders import (
    BETTER,
    FROZEN,
    SETTINGS,
    WORSE,
    write_control,
    write_searched_run,
)

from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.analysis.report.document import make_report, read_runs, write_report
from nnunet_iac.analysis.report.evaluation import speed_up
from nnunet_iac.analysis.report.run import read_run
from nnunet_iac.cli import main
from nnunet_iac.runs.fold import LOCK, held
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.health import HealthEvent


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the report of five folds of both searches and a control."""
    results = tmp_path_factory.mktemp("results")
    cases = {fold: {f"{case}_{fold}": d for case, d in FROZEN.items()} for fold in range(5)}
    for fold, frozen in cases.items():
        same = {"fold": fold, "reference": frozen, "frozen": f"hash{fold}"}
        write_searched_run(results, **same, dice={c: d + 0.02 for c, d in frozen.items()})
        full = SETTINGS.replace(search_epochs=40)
        write_searched_run(
            results,
            **same,
            method="IAC",
            settings=full,
            dice={c: d + 0.01 for c, d in frozen.items()},
        )
        write_searched_run(
            results, **same, method="continued", dice={c: d + 0.03 for c, d in frozen.items()}
        )
    folder = tmp_path_factory.mktemp("report")
    write_report([results], folder, paper=True)
    return folder


@pytest.fixture(scope="module")
def page(written):
    return (written / "index.html").read_text()


def _report(path):
    """Return the report of the runs below a path, its figures not drawn."""
    runs, unread = read_runs([path])
    return make_report(runs, unread=unread)


def _of_one(tmp_path, **run):
    return _report(write_searched_run(tmp_path, **run))


def _said(report):
    """Return what its sections say in tables."""
    rows = (row for section in report.sections for table in section.tables for row in table.rows)
    return [" ".join(row) for row in rows]


def test_first_sentence_names_every_opponent_and_the_advice(page):
    sentences = re.findall(r'<p class="verdict">(.*?)</p>', page)
    accelerated = next(s for s in sentences if s.startswith("IAC-LTH"))
    assert "0.0200 higher than the backbone (95 % CI 0.0200 to 0.0200, n = 60)" in accelerated
    assert "0.0100 lower than the continued backbone" in accelerated
    assert accelerated.endswith("or use the control that is better than the cells.")


def test_cells_without_a_control_are_not_advised(tmp_path):
    (verdict,) = _of_one(tmp_path, dice=BETTER).verdicts
    assert "0.0218 higher than the backbone (95 % CI 0.0210 to 0.0226, n = 12)" in verdict
    assert (
        "There is no control that was trained for as long. Longer training alone may explain"
        in verdict
    )
    assert verdict.endswith("train a control before you decide.")


def test_cells_that_harm_keep_the_backbone(tmp_path):
    (verdict,) = _of_one(tmp_path, dice=WORSE).verdicts
    assert "0.0218 lower than the backbone" in verdict
    assert verdict.endswith("Keep your backbone.")


def test_page_is_one_file_that_needs_no_network(page):
    addresses = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            addresses.extend(v for k, v in attributes if k in ("src", "href", "xlink:href") and v)

    Parser().feed(page)
    assert addresses
    assert all(re.match(r"#|data:", address) for address in addresses)
    assert "@import" not in page
    assert "url(http" not in page
    assert len(page) < 5e6


def test_identifiers_on_the_page_are_unique(page):
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_strange_text_is_escaped(page):
    assert "a <small> processor" not in page
    assert "a &lt;small&gt; processor" in page


def test_every_svg_of_the_page_is_well_formed(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawings) > 10
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_markdown_names_only_files_that_were_written(written):
    text = (written / "report.md").read_text()
    named = re.findall(r"\]\(([^)]+)\)", text)
    assert len(named) > 10
    assert all((written / name).is_file() for name in named)


def test_numbers_name_every_other_file(written):
    listed = json.loads((written / "report.json").read_text())["files"]
    present = {
        path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()
    }
    assert set(listed) == present - {"index.html", "report.md", "report.json"}


def test_numbers_hold_every_comparison(written):
    numbers = json.loads((written / "report.json").read_text())
    made = {(c["cells"], c["against"]): c for c in numbers["comparisons"]}
    assert set(made) == {
        ("IAC-LTH", "the backbone"),
        ("IAC-LTH", "the continued backbone"),
        ("IAC-LTH", "the full search"),
        ("IAC", "the backbone"),
        ("IAC", "the continued backbone"),
    }
    (control,) = numbers["controls"]
    assert (control["control"], control["against"]) == ("continued", "the backbone")
    # Each of its 60 cases is 0.03 above the frozen network's.
    assert (control["patients"], control["difference"]) == (60, pytest.approx(0.03))
    assert made["IAC-LTH", "the full search"]["difference"] == pytest.approx(0.01)
    assert made["IAC", "the backbone"]["patients"] == 60


def test_report_in_a_used_folder_removes_what_it_no_longer_has(tmp_path):
    results, folder = tmp_path / "results", tmp_path / "report"
    first = write_searched_run(results, fold=0)
    write_searched_run(results, fold=1, frozen="d4", reference=FROZEN)
    write_report([results], folder)
    own = folder / "figures" / "mine.png"
    own.write_bytes(b"kept")
    assert (folder / "figures" / "agreement.png").is_file()
    write_report([first], folder)
    assert not (folder / "figures" / "agreement.png").exists()
    assert own.read_bytes() == b"kept"


def test_run_in_its_warmup_has_a_page(tmp_path):
    fold = write_searched_run(tmp_path / "results", dice=None, epochs=2)
    page = write_report([fold], tmp_path / "report").read_text()
    assert "no score of these cells can be compared yet: interrupted" in page
    assert "No cell yet" in page


def test_run_before_its_first_epoch_has_a_page(tmp_path):
    fold = write_searched_run(tmp_path / "results", dice=None, epochs=2)
    (fold / "iac" / "trajectory.npz").unlink()
    page = write_report([fold], tmp_path / "report").read_text()
    assert "no score of these cells can be compared yet" in page


def test_run_that_a_process_works_on_is_in_progress(tmp_path):
    fold = write_searched_run(tmp_path, dice=None, epochs=2)
    with held(FileLock(fold / LOCK)):
        (alarm,) = _report(fold).alarms
    assert "in progress after epoch 2" in alarm
    (alarm,) = _report(fold).alarms
    assert "interrupted after epoch 2" in alarm


def test_collapsed_search_is_an_alarm(tmp_path):
    (alarm,) = _of_one(tmp_path, collapsed=True).alarms
    assert re.search(r"the search has collapsed, \d+\s% of the cell", alarm)


def test_leakage_and_an_unproven_backbone_are_alarms(tmp_path):
    fold = write_searched_run(tmp_path, leakage="it saw case_01 in training")
    file = fold / "iac" / "backbone.json"
    file.write_text(file.read_text().replace('"after": "a1b2c3"', '"after": "ffffff"'))
    unproven, leakage = _report(fold).alarms
    assert "not proven unchanged" in unproven
    assert "it saw case_01 in training" in leakage


def test_what_the_watch_noticed_is_listed(tmp_path):
    event = HealthEvent(7, "plateau", None, "the loss does not fall")
    assert any("the loss does not fall" in row for row in _said(_of_one(tmp_path, health=(event,))))


def test_settings_that_differ_name_their_runs(tmp_path):
    write_searched_run(tmp_path)
    write_searched_run(tmp_path, settings=SETTINGS.replace(seed=3), plans="nnUNetPlans_3")
    said = _said(_report(tmp_path))
    assert "seed 3 (IAC-LTH, nnUNetPlans_3, fold 0); 0 (IAC-LTH, nnUNetPlans, fold 0) 0" in said


def test_seeds_are_averaged_per_case_before_they_are_tested(tmp_path):
    for seed, gain in ((0, 0.02), (1, 0.04)):
        dice = {case: value + gain for case, value in FROZEN.items()}
        write_searched_run(
            tmp_path, settings=SETTINGS.replace(seed=seed), plans=f"seed{seed}", dice=dice
        )
    (one,) = _report(tmp_path).evaluation.comparisons
    assert one.paired.patients == len(FROZEN)
    assert one.paired.difference == pytest.approx(0.03)


def test_control_of_another_length_is_not_called_equal(tmp_path):
    write_searched_run(tmp_path, dice=BETTER)
    write_searched_run(
        tmp_path, method="continued", dice=FROZEN, settings=SETTINGS.replace(finetune_epochs=2)
    )
    (verdict,) = _report(tmp_path).verdicts
    assert "higher than the continued backbone trained for 2 epochs instead of" in verdict
    assert verdict.endswith(
        "Train the controls for as many batches as the cells before you decide."
    )


def test_cells_that_beat_a_control_at_equal_budget_are_advised(tmp_path):
    run = read_run(write_searched_run(tmp_path, dice=BETTER))
    longer = SETTINGS.replace(finetune_epochs=run.epochs)
    write_searched_run(tmp_path, method="continued", dice=FROZEN, settings=longer)
    (verdict,) = _report(tmp_path).verdicts
    assert "trained for as long: 0.0218 higher than the continued backbone" in verdict
    assert verdict.endswith("Use the retrofit.")


def test_run_of_all_cases_is_left_out_of_the_scores(tmp_path):
    report = _of_one(tmp_path, fold="all")
    assert report.evaluation.comparisons == ()
    assert "validated on cases of its own training" in report.alarms[0]
    assert "yet: validated on cases of its own training." in report.verdicts[0]


def test_folder_of_the_report_that_is_a_file_is_refused(tmp_path, capsys):
    fold, taken = write_searched_run(tmp_path / "results"), tmp_path / "taken"
    taken.write_text("mine")
    assert main(["report", str(fold), "-o", str(taken)]) == 2
    assert str(taken) in capsys.readouterr().err
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("damage", ["empty", "one line less", "gone"])
def test_prunes_that_are_not_all_recorded_are_refused_by_name(tmp_path, damage):
    fold = write_searched_run(tmp_path)
    events = fold / "iac" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("" if damage == "empty" else "".join(lines[1:]))
    if damage == "gone":
        events.unlink()
    with pytest.raises(ValueError, match=r"events\.jsonl must hold every prune of trajectory\.npz"):
        read_run(fold)


def test_damaged_record_is_refused_by_name(tmp_path, capsys):
    fold = write_searched_run(tmp_path / "results")
    (fold / "iac" / "trajectory.npz").write_bytes(b"PK damaged")
    assert main(["report", str(fold), "-o", str(tmp_path / "report")]) == 2
    assert "trajectory.npz must hold a trajectory" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_undecided_control_is_no_advice_for_the_cells(tmp_path):
    few = dict(list(FROZEN.items())[:5])
    for fold, frozen in enumerate((few, {f"other_{c}": d for c, d in FROZEN.items()})):
        dice = {case: value + 0.02 for case, value in frozen.items()}
        run = read_run(
            write_searched_run(tmp_path, fold=fold, reference=frozen, dice=dice, frozen=f"h{fold}")
        )
        if fold == 0:
            write_searched_run(
                tmp_path,
                method="continued",
                settings=SETTINGS.replace(finetune_epochs=run.epochs),
                reference=frozen,
                dice={case: value + 0.05 for case, value in frozen.items()},
                frozen="h0",
            )
    (verdict,) = _report(tmp_path).verdicts
    assert "too few patients to compare with the continued backbone (" in verdict
    assert "n = 5). Keep your backbone until the controls are validated on more" in verdict


def test_leaked_cases_are_no_advice_for_the_cells(tmp_path):
    run = read_run(write_searched_run(tmp_path, dice=BETTER, leakage="it saw case_01"))
    longer = SETTINGS.replace(finetune_epochs=run.epochs)
    write_searched_run(tmp_path, method="continued", dice=FROZEN, settings=longer)
    (verdict,) = _report(tmp_path).verdicts
    assert verdict.endswith("Keep your backbone: a network has seen cases on which it was scored.")


def test_gain_of_a_given_cell_is_not_the_searchs(tmp_path):
    write_searched_run(tmp_path, dice=BETTER)
    given = SETTINGS.replace(genotype="random.json", finetune_epochs=24)
    write_searched_run(tmp_path, method="IAC-Discrete", dice=BETTER, settings=given)
    searched = next(v for v in _report(tmp_path).verdicts if v.startswith("IAC-LTH"))
    assert "no difference detected from a given cell" in searched
    assert searched.endswith("the cells are not shown to be better than every control.")


def test_cells_given_by_different_files_are_not_averaged(tmp_path):
    for name, dice in (("found", BETTER), ("random", WORSE)):
        given = SETTINGS.replace(genotype=f"{name}.json")
        write_searched_run(tmp_path, method="IAC-Discrete", plans=name, dice=dice, settings=given)
    names = {group.name for group in _report(tmp_path).evaluation.groups}
    assert names == {"IAC-Discrete (genotype=found.json)", "IAC-Discrete (genotype=random.json)"}


def test_networks_of_different_backbones_are_not_averaged(tmp_path):
    for plans, dice in (("small", BETTER), ("huge", WORSE)):
        fold = write_searched_run(tmp_path, plans=plans, dice=dice, frozen=plans)
        file = fold / "iac" / "backbone.json"
        path = f"nnUNetTrainer__{plans}__2d/fold_0/checkpoint_final.pth"
        file.write_text(file.read_text().replace("frozen.pth", path))
    assert len(_report(tmp_path).evaluation.groups) == 2


@pytest.mark.parametrize(
    "spoil", ["no backbone", "another release", "other cases", "other patients"]
)
def test_a_control_that_does_not_fit_is_left_out_aloud(tmp_path, spoil):
    write_searched_run(tmp_path, dice=BETTER)
    reference, settings = FROZEN, SETTINGS
    if spoil == "other cases":
        reference = {**FROZEN, "case_99": 0.7}
    if spoil == "other patients":
        settings = SETTINGS.replace(patient_pattern=r"case_\d")
    control = write_searched_run(
        tmp_path, method="continued", reference=reference, dice=reference, settings=settings
    )
    if spoil == "no backbone":
        (control / "iac" / "backbone.json").unlink()
    if spoil == "another release":
        (control / "iac" / "cost.json").write_text("{}")
    report = _report(tmp_path / "nnUNetTrainerIACLTH__nnUNetPlans__2d")
    assert "higher than the backbone" in report.verdicts[0]
    assert any("nnUNetTrainerContinue" in a or "not compared" in a for a in report.alarms)


def test_record_that_does_not_identify_its_run_is_refused(tmp_path):
    fold = write_searched_run(tmp_path)
    file = fold / "iac" / "cost.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "run": {"method": "IAC-LTH"}}))
    with pytest.raises(ValueError, match="lacks trainer, dataset, plans, configuration, fold"):
        read_runs([fold])


def test_page_of_somebody_else_is_not_overwritten(tmp_path):
    fold = write_searched_run(tmp_path / "results")
    page = tmp_path / "index.html"
    page.write_text("mine")
    with pytest.raises(ValueError, match=r"holds index\.html of something else"):
        write_report([fold], tmp_path)
    assert page.read_text() == "mine"


def test_model_folder_may_be_a_link(tmp_path):
    results, store = tmp_path / "results", tmp_path / "store"
    fold = write_searched_run(results)
    write_searched_run(results, method="continued", dice=FROZEN)
    fold.parent.rename(store)
    fold.parent.symlink_to(store)
    runs, _ = read_runs([fold.parent])
    assert [run.method for run in runs] == ["IAC-LTH", "continued"]


def test_forty_runs_of_twenty_groups_make_a_page_of_less_than_five_megabytes(tmp_path):
    short = SETTINGS.replace(search_epochs=25)
    for number in range(20):
        for fold in (0, 1):
            write_searched_run(
                tmp_path / "results" / f"Dataset{number:03}_Organ",
                dataset=f"Dataset{number:03}_Organ",
                fold=fold,
                settings=short,
                reference={f"case_{number}_{fold}_{c}": d for c, d in FROZEN.items()},
                dice={f"case_{number}_{fold}_{c}": d for c, d in BETTER.items()},
            )
    folders = sorted((tmp_path / "results").iterdir())
    assert write_report(folders, tmp_path / "report").stat().st_size < 5e6


def test_few_patients_are_not_enough(tmp_path):
    few = dict(list(FROZEN.items())[:5])
    dice = {case: value + 0.02 for case, value in few.items()}
    (verdict,) = _of_one(tmp_path, dice=dice, reference=few).verdicts
    assert "too few patients to compare with the backbone (+0.0200" in verdict
    assert "keep your backbone until then" in verdict


def test_controls_beside_a_run_are_taken_in(tmp_path):
    results = tmp_path / "results"
    fold = write_searched_run(results)
    write_searched_run(results, method="continued", dice=FROZEN)
    write_searched_run(results, method="continued", plans="other", dice=FROZEN, frozen="zzz")
    runs, unread = read_runs([fold])
    assert not unread
    assert [run.method for run in runs] == ["IAC-LTH", "continued"]


def _above(gain):
    """Return the Dice of a network that is as much better than the frozen one in every case."""
    return {case: dice + gain for case, dice in FROZEN.items()}


@pytest.fixture
def searched(tmp_path):
    """A search 0.025 above its frozen network, and as many epochs as it took."""
    fold = write_searched_run(tmp_path, dice=_above(0.025))
    return fold, read_run(fold).epochs


def test_all_random_cells_are_one_control_and_every_other_one_of_its_own(tmp_path, searched):
    fold, epochs = searched
    gains = {
        "random cell 1": 0.01,
        "random cell 2": 0.03,
        "identity cell": 0.0,
        "convolution": 0.005,
        "continued": 0.015,
        "continued decoder": -0.005,
        "continued with rehearsal": 0.018,
        "attention gates": 0.02,
        "nested skips": 0.021,
        "residual attention": 0.022,
    }
    for method, gain in gains.items():
        write_control(tmp_path, method, epochs, dice=_above(gain))
    evaluation = _report(fold).evaluation
    found = {one.against.name: round(one.paired.difference, 9) for one in evaluation.comparisons}
    assert list(found.items()) == [
        *{
            "the backbone": 0.025,
            "the continued backbone": 0.01,
            "the continued backbone with rehearsal": 0.007,
            "the backbone with a continued decoder": 0.03,
            "a random cell (2 draws)": 0.005,  # 0.025 - (0.01 + 0.03) / 2.
            "an all-identity cell": 0.025,
            "a convolution of equal parameters": 0.02,
            "attention gates": 0.005,
            "nested skips (U-Net++)": 0.004,
            "residual attention": 0.003,
        }.items()
    ]
    assert all(
        one.against.equal_budget for one in evaluation.comparisons if one.against.kind == "control"
    )
    own = {
        one.group.name: round(one.paired.difference, 9) for one in evaluation.control_comparisons
    }
    assert own == {
        "random cell": 0.02,
        **{method: gain for method, gain in gains.items() if "random" not in method},
    }


def test_every_comparison_is_adjusted_for_those_of_the_controls_as_well(tmp_path, searched):
    fold, epochs = searched
    write_control(tmp_path, "identity cell", epochs, dice=_above(0.001))
    write_control(tmp_path, "random cell 1", epochs, dice=_above(0.002))
    evaluation = _report(fold).evaluation
    made = [*evaluation.comparisons, *evaluation.control_comparisons]
    # Three of the cells, two of controls: all 12 patients gain by the same, p = 2 / 2**12 each.
    assert [one.paired.p for one in made] == [pytest.approx(2 / 2**12)] * 5
    assert [one.paired.p_holm for one in made] == [pytest.approx(5 * 2 / 2**12)] * 5


def test_controls_have_their_own_gain_over_the_backbone(tmp_path, searched):
    fold, epochs = searched
    write_control(tmp_path, "continued", epochs, dice=_above(-0.02))
    report = _report(fold)
    # The continued network has no validation of the frozen one; the search beside it has.
    row = next(row for row in _said(report) if row.startswith("the continued backbone"))
    assert "-0.0200" in row
    assert f"0 / 0 / 12 0 / 0 0 / 0 {epochs}" in row
    assert not any(sentence.startswith("continued: ") for sentence in report.verdicts)


BESIDE_RANDOM = {
    0.025: "no difference detected from a random cell (+0.0000, 95 % CI +0.0000 to +0.0000, "
    "n = 12)",
    0.03: "0.0050 lower than a random cell (95 % CI 0.0050 to 0.0050, n = 12)",
    0.02: "0.0050 higher than a random cell (95 % CI 0.0050 to 0.0050, n = 12)",
}


@pytest.mark.parametrize(
    ("gain", "advice"),
    [
        (0.025, "Keep your backbone: the cells are not shown to be better than every control."),
        (0.03, "Keep your backbone, or use the control that is better than the cells."),
        (0.02, "Use the retrofit."),
    ],
)
def test_first_words_are_those_of_a_random_cell_that_is_not_beaten(
    tmp_path, searched, gain, advice
):
    fold, epochs = searched
    write_control(tmp_path, "random cell 1", epochs, dice=_above(gain))
    (verdict,) = _report(fold).verdicts
    beaten = gain < 0.025
    assert verdict.startswith(f"IAC-LTH: {BESIDE_RANDOM[gain]}. IAC-LTH: Dice") != beaten
    assert verdict.count(BESIDE_RANDOM[gain]) == 1
    assert "0.0250 higher than the backbone (95 % CI 0.0250 to 0.0250, n = 12)" in verdict
    assert verdict.endswith(advice)


def test_page_of_several_methods_begins_with_those_that_a_random_cell_equals(tmp_path, searched):
    fold, epochs = searched
    full = SETTINGS.replace(search_epochs=epochs - SETTINGS.schedule.finetune_epochs)
    other = write_searched_run(tmp_path, method="IAC", settings=full, dice=_above(0.03))
    control = write_control(tmp_path, "random cell 3", epochs, dice=_above(0.025))
    runs, unread = read_runs([fold, other, control])
    first, *others = make_report(runs, unread=unread).verdicts
    assert first == f"IAC-LTH: {BESIDE_RANDOM[0.025]}."
    assert [sentence.split(":")[0] for sentence in others] == ["IAC-LTH", "IAC"]
    write_control(tmp_path, "random cell 3", epochs, dice=_above(0.03))
    first, *_ = _report(tmp_path).verdicts
    assert first == f"IAC-LTH: {BESIDE_RANDOM[0.03]}. IAC: {BESIDE_RANDOM[0.025]}."


def test_a_speed_up_of_the_search_stands_beside_that_of_the_whole_run(tmp_path):
    fast = write_searched_run(tmp_path, settings=SETTINGS.replace(search_epochs=20))
    full = write_searched_run(tmp_path, method="IAC", settings=SETTINGS.replace(search_epochs=60))
    runs, _ = read_runs([fast, full])
    accelerated, other = sorted(runs, key=lambda run: run.method == "IAC")
    search = speed_up(accelerated, runs)
    assert search == other.search_seconds / accelerated.search_seconds > 1
    whole = speed_up(accelerated, runs, whole=True)
    assert whole == other.seconds / accelerated.seconds
    assert 1 < whole < search
    assert any(f" {search:.1f} 8 s {whole:.1f} " in row for row in _said(make_report(runs)))
    longer = SETTINGS.replace(search_epochs=60, finetune_epochs=50)
    runs, _ = read_runs([fast, write_searched_run(tmp_path, method="IAC", settings=longer)])
    assert speed_up(accelerated, runs, whole=True) is None


def test_a_run_whose_finetuning_ended_early_has_no_speed_up_of_the_whole(tmp_path):
    fast = write_searched_run(tmp_path, settings=SETTINGS.replace(search_epochs=20))
    full = write_searched_run(tmp_path, method="IAC", settings=SETTINGS.replace(search_epochs=60))
    record = RunFolder.of_fold(fast)
    cost = record.read_cost()
    finetune = replace(cost.phases["finetune"], epochs=cost.phases["finetune"].epochs - 1)
    record.write_cost(replace(cost, phases={**cost.phases, "finetune": finetune}))
    runs, _ = read_runs([fast, full])
    accelerated = next(run for run in runs if run.method == "IAC-LTH")
    assert speed_up(accelerated, runs) is not None
    assert speed_up(accelerated, runs, whole=True) is None


def test_every_control_has_its_number_interval_and_patients(tmp_path, searched):
    fold, epochs = searched
    for method, gain in {"attention gates": 0.015, "convolution": 0.025}.items():
        write_control(tmp_path, method, epochs, dice=_above(gain))
    write_control(tmp_path, "identity cell", 2, dice=_above(0.03))
    (verdict,) = _report(fold).verdicts
    assert (
        "Compared with controls: 0.0050 lower than an all-identity cell trained for 2 epochs "
        f"instead of {epochs} (95 % CI 0.0050 to 0.0050, n = 12), no difference detected from a "
        "convolution of equal parameters (+0.0000, 95 % CI +0.0000 to +0.0000, n = 12) and 0.0100 "
        "higher than attention gates (95 % CI 0.0100 to 0.0100, n = 12). Keep"
    ) in verdict


def test_settings_of_many_controls_name_them_by_fold(tmp_path):
    for fold in (0, 1):
        same = {"fold": fold, "frozen": f"h{fold}"}
        same["reference"] = same["dice"] = {f"{case}_{fold}": d for case, d in FROZEN.items()}
        write_searched_run(tmp_path, **same)
        for method in ("continued", "identity cell"):
            write_control(tmp_path, method, 20 + fold, **same)
    assert (
        "finetune_epochs 5 (IAC-LTH); 20 (fold 0 of continued, identity cell); "
        "21 (fold 1 of continued, identity cell) 200"
    ) in _said(_report(tmp_path))


def test_remarks_that_are_not_of_all_comparisons_name_theirs(tmp_path):
    gains = (-0.0001, 0.02, 0.03, 0.04, 0.05, 0.06)
    few = dict(list(FROZEN.items())[:6])
    dice = {case: few[case] + gain for case, gain in zip(few, gains, strict=True)}
    fold = write_searched_run(tmp_path, dice=dice, reference=few)
    write_control(tmp_path, "continued", 9, dice=few, reference=few)
    section = next(s for s in _report(fold).sections if s.key == "scores")
    assert section.paragraphs[0].startswith("every case counts as a patient")
    assert section.paragraphs[1].startswith("continued against the backbone: every patient has")


def test_few_patients_leave_a_random_cell_undecided(tmp_path):
    few = dict(list(FROZEN.items())[:4])
    fold = write_searched_run(tmp_path, dice=few, reference=few)
    write_control(tmp_path, "random cell 1", read_run(fold).epochs, dice=few, reference=few)
    (verdict,) = _report(fold).verdicts
    assert verdict.startswith("IAC-LTH: too few patients to compare with a random cell (")
    assert "too few patients to compare with the backbone (" in verdict


def test_cells_of_controls_are_not_counted_as_found_or_collapsed(tmp_path, searched):
    fold, epochs = searched
    write_control(tmp_path, "identity cell", epochs, dice=FROZEN)
    write_control(tmp_path, "random cell 1", epochs, dice=FROZEN)
    report = _report(fold)
    assert report.found.startswith("One cell of eight operations")
    assert report.alarms == ()
    assert [name for name, run in report.runs if run.genotype] == [
        "IAC-LTH, fold 0",
        "random cell, fold 0",
        "identity cell, fold 0",
    ]


def test_provenance_states_what_each_control_left_as_it_was(tmp_path, searched):
    fold, epochs = searched
    for method in ("attention gates", "continued", "continued decoder"):
        control = write_control(tmp_path, method, epochs, dice=FROZEN)
    file = control / "iac" / "backbone.json"
    encoder = {"encoder_before": "e1", "encoder_after": "e1"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **encoder}))
    section = next(s for s in _report(fold).sections if s.key == "provenance")
    assert {row[0]: row[3] for row in section.tables[0].rows} == {
        "IAC-LTH, fold 0": "yes",
        "attention gates, fold 0": "yes",
        "continued, fold 0": "trained",
        "continued decoder, fold 0": "encoder only",
    }


def test_given_cells_whose_backbone_changed_are_an_alarm_though_a_control(tmp_path, searched):
    fold, epochs = searched
    control = write_control(tmp_path, "random cell 1", epochs, dice=FROZEN)
    file = control / "iac" / "backbone.json"
    file.write_text(file.read_text().replace('"after": "a1b2c3"', '"after": "ffffff"'))
    (alarm,) = _report(fold).alarms
    assert alarm.startswith("random cell, fold 0: the backbone is not proven unchanged")
    file.write_text(file.read_text().replace('"trained": null', '"trained": "all"'))
    report = _report(fold)
    assert report.alarms == ()
    section = next(s for s in report.sections if s.key == "provenance")
    assert ("random cell, fold 0", "trained") in {(r[0], r[3]) for r in section.tables[0].rows}


def test_page_has_a_table_of_the_controls_and_no_figure_of_their_cases(tmp_path):
    results = tmp_path / "results"
    fold = write_searched_run(results)
    for method in ("identity cell", "random cell 1", "residual attention"):
        write_control(results, method, 20, dice=BETTER)
    page = write_report([fold], tmp_path / "report").read_text()
    first = page[page.index("</h1>") :]
    assert "random cell" in first[: first.index("</p>")].split(". ")[0]
    rows = (tmp_path / "report" / "tables" / "controls.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [
        "a random cell",
        "an all-identity cell",
        "residual attention",
    ]
    assert "/comparison.csv" in (tmp_path / "report" / "report.json").read_text()
    assert "figure-cases-2" not in page


def test_a_backbone_that_was_continued_alone_is_refused(tmp_path):
    write_searched_run(tmp_path, method="continued")
    with pytest.raises(ValueError, match="all runs given continue the backbone"):
        _report(tmp_path)


def test_names_of_cases_and_data_are_text_in_every_output(tmp_path):
    evil = ["=cmd|' C calc'!A0", "<img src=x onerror=alert(1)>", "a](x)|b", "@SUM(1)"]
    cases = {**FROZEN, **dict.fromkeys(evil, 0.5)}
    better = {case: dice + 0.01 for case, dice in cases.items()}
    named = {"dataset": "Dataset004_<b>x</b>|[y](z)", "dice": better, "reference": cases}
    fold = write_searched_run(tmp_path / "results", **named)
    write_report([fold], tmp_path / "report", paper=True)
    texts = {path: path.read_text() for path in (tmp_path / "report").rglob("*.md")}
    assert len(texts) == 2
    for text in texts.values():
        assert "<b>" not in text
        assert "<img" not in text
        assert "[y](z)" not in text
    assert r"&lt;b>x&lt;/b>\|[y]\(z)" in texts[tmp_path / "report" / "paper" / "paper.md"]
    for path in (tmp_path / "report").rglob("*.csv"):
        for row in csv.reader(path.read_text().splitlines()):
            assert not [cell for cell in row if re.match(r"[=@]|[-+](?![\d.])", cell)]
    compared = (tmp_path / "report" / "tables" / "comparison.csv").read_text()
    assert "'=cmd|' C calc'!A0" in compared
    assert "'@SUM(1)" in compared


@pytest.mark.parametrize("method", ["random cell 3", "convolution", "attention gates"])
def test_what_needed_no_search_is_judged_where_there_is_nothing_else(tmp_path, method):
    fold = write_control(tmp_path, method, 5, dice=BETTER)
    write_control(tmp_path, "continued", 5, dice=FROZEN)
    page = write_report([fold], tmp_path / "report").read_text()
    runs, unread = read_runs([fold])
    report = make_report(runs, unread=unread)
    one, control = report.evaluation.comparisons
    assert (one.against.kind, one.paired.verdict) == ("reference", "better")
    assert (control.group, control.against.group.method) == (one.group, "continued")
    assert report.verdicts[0].startswith(f"{one.group.name}: Dice 0.")
    assert "higher than the backbone" in page
    assert "search has ended" not in page
    # Beside a search it is a control, as ever.
    search = write_searched_run(tmp_path)
    runs, _ = read_runs([fold, search])
    assert [run.is_control for run in runs] == [False, True, True]


def test_an_unfinished_cell_that_was_given_has_a_page(tmp_path):
    report = _report(write_control(tmp_path, "random cell 3", 5, dice=None))
    assert "no score of these cells can be compared yet" in report.verdicts[0]


def test_folder_without_a_run_is_refused_by_name(tmp_path, capsys):
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report")]) == 2
    assert f"there is none in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_command_writes_the_papers_tables_on_demand(tmp_path, capsys):
    fold = write_searched_run(tmp_path / "results")
    assert main(["report", str(fold), "-o", str(tmp_path / "report"), "--paper"]) == 0
    assert "index.html" in capsys.readouterr().out
    assert (tmp_path / "report" / "paper" / "table1.tex").is_file()


def test_paper_has_five_tables_and_six_figures(written):
    paper = written / "paper"
    for number in range(1, 6):
        assert r"\toprule" in (paper / f"table{number}.tex").read_text()
    for number in range(2, 8):
        assert (paper / f"figure{number}.png").is_file()
        ElementTree.parse(paper / f"figure{number}.svg")
    rows = (paper / "table5.csv").read_text().splitlines()
    # 40 epochs: 3 of 1.5 s, 37 of 2 s = 78.5 s = 1.3 min.
    assert rows[1].startswith("Dataset004_Hippocampus,2d,yes,1.3,40,")


def test_every_caption_is_two_or_three_sentences():
    for name, caption in CAPTIONS.items():
        sentences = re.findall(r"[.](?:\s|$)", caption)
        assert len(sentences) in (2, 3), name
