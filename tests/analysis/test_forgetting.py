"""What adapted models forget of their source, in pairs, tables and files."""

import json
from pathlib import Path
from typing import Any

import pytest
from scored_folders import write_run_fold, write_source_record, write_stock_fold
from study_documents import document, run

from nnunet_iac.analysis.report.plane import write_plane
from nnunet_iac.analysis.scores.case_scores import CaseScores
from nnunet_iac.analysis.scores.comparison_tables import latex, table, write_comparisons
from nnunet_iac.analysis.scores.comparisons import compare_folders
from nnunet_iac.analysis.scores.forgetting import forgetting, forward_transfer
from nnunet_iac.analysis.scores.method_table import cells, method_tables
from nnunet_iac.analysis.scores.statistics import bootstrap_interval, holm

PATIENTS = 6
BEFORE = {f"p{n}_{frame}": 0.9 for n in range(PATIENTS) for frame in "ab"}
AFTER = {case: 0.9 - 0.01 * (1 + int(case[1])) for case in BEFORE}
"""Patient n forgets n + 1 hundredths: 0.035 on average."""


def _sides(*dice: dict[str, float]) -> tuple[CaseScores, CaseScores]:
    before, after = (CaseScores.of_dice(side, "x") for side in dice)
    return before, after


def test_forgetting_is_after_minus_before_by_patient() -> None:
    found = forgetting([_sides(BEFORE, AFTER)], "cells", r"p\d")
    assert (found.patients, found.cases) == (PATIENTS, 2 * PATIENTS)
    assert (found.mean_a, found.mean_b) == (pytest.approx(0.9), pytest.approx(0.865))
    assert found.difference == pytest.approx(-0.035)
    expected = bootstrap_interval([-0.01, -0.02, -0.03, -0.04, -0.05, -0.06])
    assert found.interval is not None
    assert expected is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.p == 2 / 2**PATIENTS
    assert found.verdict == "worse"
    assert found.labels == ("before", "cells")


def test_cells_that_are_off_forget_nothing() -> None:
    found = forgetting([_sides(BEFORE, BEFORE)], "off")
    assert found.difference == 0
    assert found.verdict == "no difference detected"


def test_runs_on_one_source_are_averaged_by_case_first() -> None:
    runs = [_sides(BEFORE, AFTER), _sides(BEFORE, BEFORE)]
    found = forgetting(runs, "cells", r"p\d")
    assert (found.patients, found.difference) == (PATIENTS, pytest.approx(-0.0175))


def test_a_pattern_of_the_target_alone_makes_every_case_of_the_source_a_patient() -> None:
    assert forgetting([_sides(BEFORE, AFTER)], "cells", "site_").patients == 2 * PATIENTS


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        forgetting([], "cells")


def test_forward_transfer_is_the_adapted_model_minus_a_network_trained_on_the_target_alone() -> (
    None
):
    scratch = CaseScores.of_dice(dict.fromkeys(BEFORE, 0.5), "scratch")
    found = forward_transfer(scratch, CaseScores.of_dice(BEFORE, "adapted"), r"p\d")
    assert (found.difference, found.patients) == (pytest.approx(0.4), PATIENTS)


# -- compare -------------------------------------------------------------------------------------


@pytest.fixture
def folds(tmp_path: Path) -> list[Path]:
    """The untouched backbone on the target, a retrofit of it, and the control that forgets more."""
    target = {f"site_{n}": 0.7 + 0.01 * n for n in range(PATIENTS)}
    made = []
    for method, lost in (("IAC-LTH", 0.5), ("continued", 2.0)):
        folder = tmp_path / f"{method}__P__2d" / "fold_0"
        gained = {case: dice + 0.1 for case, dice in target.items()}
        write_run_fold(folder, gained, reference=target, method=method)
        after = {case: 0.9 + lost * (AFTER[case] - 0.9) for case in BEFORE}
        write_source_record(folder, BEFORE, after)
        made.append(folder)
    return [made[0] / "iac" / "reference", *made]


def test_compare_shows_what_each_method_has_forgotten(folds: list[Path], tmp_path: Path) -> None:
    reference, searched, continued = folds
    made = compare_folders([reference], [searched], [continued], patient_pattern=r"(p|site_)\d")
    differences = {c.labels[1]: c.difference for c in made.forgetting}
    assert differences == {
        "IAC-LTH__P__2d/fold_0": pytest.approx(-0.0175),
        "continued__P__2d/fold_0": pytest.approx(-0.07),
    }
    assert [c.p_holm for c in made.forgetting] == list(holm([c.p or 1 for c in made.forgetting]))
    lines = table(made).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("on the source"))
    assert lines[start].split() == [
        *("on", "the", "source", "patients", "cases", "Dice", "before", "Dice", "after"),
        *("forgetting", "95%", "interval", "p", "Holm"),
        *("false", "positives", "A/B", "misses", "A/B"),
    ]
    assert lines[start + 1].split()[:6] == ["IAC-LTH", "6", "12", "0.9000", "0.8825", "-0.0175"]
    assert lines[start + 2].split()[:6] == ["continued", "6", "12", "0.9000", "0.8300", "-0.0700"]
    assert "Forgetting: Dice after adapting minus before" in table(made)
    assert r"on the source & patients & cases & Dice before" in latex(made)
    _, path, _ = write_comparisons(tmp_path / "out", made)
    found = json.loads(path.read_text())["forgetting"]
    assert [one["verdict"] for one in found] == ["no difference detected"] * 2
    assert found[0]["rows"][0]["patient"] == "p0"


def test_compare_shows_the_forward_transfer_over_a_network_trained_on_the_target_alone(
    folds: list[Path], tmp_path: Path
) -> None:
    reference, searched, continued = folds
    alone = {f"site_{n}": 0.5 + 0.01 * n for n in range(PATIENTS)}
    write_stock_fold(tmp_path / "nnUNetTrainer__P__2d" / "fold_0", alone)
    made = compare_folders([reference], [searched], [continued])
    assert [c.labels for c in made.transfers] == [
        ("nnUNetTrainer", f"{method}__P__2d/fold_0") for method in ("IAC-LTH", "continued")
    ]
    assert [c.difference for c in made.transfers] == pytest.approx([0.3, 0.3])
    lines = table(made).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("adapted"))
    assert lines[start + 1].split()[:7] == [
        *("IAC-LTH", "nnUNetTrainer", "6", "6", "0.5250", "0.8250", "+0.3000")
    ]
    assert "adapted & alone & patients & cases & Dice alone" in latex(made)
    _, path, _ = write_comparisons(tmp_path / "out", made)
    assert [one["patients"] for one in json.loads(path.read_text())["transfers"]] == [6, 6]


def test_compare_draws_the_plane_of_adapted_models(folds: list[Path], tmp_path: Path) -> None:
    reference, searched, continued = folds
    made = compare_folders([reference], [searched], [continued])
    assert made.transfers == ()
    (path,) = write_plane(tmp_path, made)
    assert path.read_bytes().startswith(b"\x89PNG")
    for fold in (searched, continued):
        (fold / "iac" / "source.json").unlink()
    assert write_plane(tmp_path, compare_folders([reference], [searched], [continued])) == []


def test_compare_without_a_source_is_as_it_was(folds: list[Path], tmp_path: Path) -> None:
    reference, searched, _ = folds
    (searched / "iac" / "source.json").unlink()
    made = compare_folders([reference], [searched])
    assert made.forgetting == ()
    _, path, _ = write_comparisons(tmp_path / "out", made)
    for text in (table(made), latex(made), path.read_text()):
        assert "on the source" not in text
        assert "orgetting" not in text


def test_compare_shows_no_forgetting_of_a_model_that_was_scored_on_it_in_part(
    folds: list[Path], tmp_path: Path
) -> None:
    other = {f"site_{n}": 0.8 for n in range(10, 16)}
    write_run_fold(folds[1].with_name("fold_1"), other, reference=other)
    reference = tmp_path / "reference"
    write_run_fold(reference / "fold_0", {f"site_{n}": 0.7 for n in range(PATIENTS)})
    write_run_fold(reference / "fold_1", other)
    assert compare_folders([reference], [folds[1].parent]).forgetting == ()


# -- studies -------------------------------------------------------------------------------------


def adapted(method: str, seed: int, lost: float) -> dict[str, Any]:
    """Return a run of a study that forgets so many times as much as `AFTER`."""
    after = {case: 0.9 + lost * (AFTER[case] - 0.9) for case in BEFORE}
    source = {"dataset": "Dataset027_Source", "before": BEFORE, "after": after}
    return run(method, seed, 0.1, source=source, patient_pattern=r"(patient|p)\d+")


def test_a_study_shows_what_each_method_has_forgotten_over_its_seeds() -> None:
    runs = [adapted("random", 0, 0.5), adapted("random", 1, 1.5), adapted("continued", 0, 2.0)]
    (made,) = method_tables(document(*runs, run("iac-lth", 0, 0.1)))
    assert made.row("iac-lth").forgetting is None
    found = [made.row(method).forgetting for method in ("random", "continued")]
    assert [one.difference for one in found if one] == pytest.approx([-0.035, -0.07])
    assert [one.p_holm for one in found if one] == [4 / 64, 4 / 64]
    head, *rows = cells(made)
    assert head[-4:] == [
        "source Dice before",
        "source Dice",
        "forgetting [95 % CI]",
        "p of forgetting (Holm over 2)",
    ]
    by_method = {row[0]: row[-4:] for row in rows}
    assert by_method["iac-lth"] == ["\N{EN DASH}"] * 4
    assert by_method["continued"][:2] == ["0.9000", "0.8300"]
    assert by_method["continued"][2].startswith("-0.0700 [")


def test_a_study_shows_the_forward_transfer_over_its_other_backbones() -> None:
    runs = [adapted("random", 0, 0.5), adapted("continued", 0, 2.0)]
    for each in runs:
        each["augmentation"] = "default"
    scratch = [run("reference", 0, gain, backbone=n) for n, gain in {"s": -0.2, "h": -0.25}.items()]
    other = run("reference", 0, -0.1, backbone="other")  # Adapted, and its source is not at hand.
    own = {"halves": {"h": "s"}, "adapted": ["narrow", "other"]}
    (made,) = method_tables({**document(*runs, *scratch, other), **own})
    for row in made.rows:
        assert {name: c.difference for name, c in row.transfers.items()} == {
            "s": pytest.approx(0.3)
        }
    augmented = [{**each, "augmentation": "NoDA"} for each in runs]  # Predicted without mirroring.
    (other,) = method_tables({**document(*augmented, *scratch), **own})
    assert not any(row.transfers for row in other.rows)
    head, first, _ = cells(made)
    assert head[-2:] == ["forward transfer over s [95 %]", "p of transfer over s (Holm over 2)"]
    assert first[-2].startswith("+0.3000 [")


def test_a_study_without_a_source_has_the_columns_it_had() -> None:
    (made,) = method_tables(document(run("random", 0, 0.1)))
    assert cells(made)[0][-1] == "p against random (Holm over 1)"
