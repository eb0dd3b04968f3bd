"""Tables of methods from a study's result file."""

from typing import Any

import pytest
from study_documents import CASES, document, run

from nnunet_iac.analysis.scores.method_table import cells, method_tables
from nnunet_iac.analysis.scores.statistics import holm


def made(searched: float, random: float) -> Any:
    runs = [run("iac-lth", s, searched + 0.01 * s) for s in (0, 1)]
    (table,) = method_tables(document(*runs, *(run("random", s, random) for s in (0, 1))))
    return table


def test_numbers_are_means_over_cases_seeds_and_patients() -> None:
    table = made(0.1, 0.05)
    assert (table.patients, table.cases, table.baselines) == (8, 16, ("reference", "random"))
    assert table.reference == pytest.approx(0.7)
    row = table.row("iac-lth")
    assert (row.runs, row.epochs, row.search_epochs) == (2, 20.5, 9)
    assert row.minutes == 1.0
    assert row.dice == pytest.approx(0.7 + 0.105 + 0.0075)
    assert row.spread == pytest.approx(0.01 / 2**0.5)
    assert row.parameters == pytest.approx(0.1)
    assert row.macs == pytest.approx(1.0)
    assert row.against["reference"].difference == pytest.approx(row.dice - 0.7)
    assert row.against["random"].difference == pytest.approx(0.055)


def test_p_values_are_adjusted_over_the_table_each_pair_counting_once() -> None:
    table = made(0.1, 0.05)
    raw = [
        table.row("iac-lth").against["reference"].p,
        table.row("iac-lth").against["random"].p,
        table.row("random").against["reference"].p,
    ]
    found = [
        table.row("iac-lth").against["reference"].p_holm,
        table.row("iac-lth").against["random"].p_holm,
        table.row("random").against["reference"].p_holm,
    ]
    assert found == pytest.approx(list(holm(raw)))


def test_folds_are_pooled_and_backbones_kept_apart() -> None:
    second = {case.replace("patient", "other"): 0.7 for case in CASES}
    folds = [
        run("random", 0, 0.1),
        run("random", 0, 0.1, fold=1, dice=second, frozen_dice=second),
    ]
    for one in folds:
        one["patient_pattern"] = r"[a-z]+\d+"
    (table,) = method_tables(document(*folds))
    assert (table.patients, table.cases) == (16, 32)
    wide = run("random", 0, 0.1, backbone="wide")
    assert len(method_tables(document(folds[0], wide))) == 2


def test_without_cells_the_references_own_validation_is_the_reference() -> None:
    reference = run("reference", 0, 0.0, dice=dict.fromkeys(CASES, 0.6))
    alone = run("continued", 0, 0.1, frozen_dice=None, augmentation="default")
    (table,) = method_tables(document(reference, alone))
    assert table.reference == pytest.approx(0.6)
    # Without augmentation nothing is mirrored, so the backbone's own validation differs.
    assert method_tables(document(reference, {**alone, "augmentation": "NoDA"})) == []
    both = document(reference, run("continued", 0, 0.1, frozen_dice=None), run("random", 0, 0.1))
    assert method_tables(both)[0].reference == pytest.approx(0.7)


def test_a_backbone_that_was_trained_again_is_not_compared_with_older_runs() -> None:
    own = {"frozen_dice": None, "augmentation": "default"}
    reference = run("reference", 0, 0.0, augmentation="default", backbone_hash="b" * 64)
    with pytest.raises(ValueError, match="must begin with the same network to be compared"):
        method_tables(document(run("random", 0, 0.1, **own), reference))


def test_runs_of_different_backbones_are_not_compared() -> None:
    other = run("random", 1, 0.1, backbone_hash="b" * 64)
    with pytest.raises(ValueError, match="random0 froze aaaaaaaaaaaa and random1 bbbbbbbbbbbb"):
        method_tables(document(run("random", 0, 0.1), other))
    method_tables(document(run("random", 0, 0.1), {**other, "fold": 1}))


def test_test_cases_have_a_table_of_their_own_against_the_references_own_prediction() -> None:
    tested = {"test_a": 0.9, "test_b": 0.8}
    reference = run("reference", 0, 0.0, test_dice={"test_a": 0.6, "test_b": 0.6})
    own = run("random", 0, 0.1, test_dice=tested, patient_pattern=None)
    validation, test = method_tables(document(reference, own))
    assert (validation.scores, test.scores) == ("validation cases", "test cases, not mirrored")
    assert (test.cases, test.reference) == (2, pytest.approx(0.6))
    assert test.row("random").against["reference"].difference == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("searched", "verdict"), [(0.2, "better"), (0.0, "worse"), (None, "no difference detected")]
)
def test_the_verdict_is_that_of_the_comparison(searched: float | None, verdict: str) -> None:
    if searched is None:
        runs = [run("iac-lth", 0, 0.05), run("random", 0, 0.05)]
        for n, case in enumerate(CASES):
            runs[0]["dice"][case] += 0.01 * (-1) ** (n // 2)
        (table,) = method_tables(document(*runs))
    else:
        table = made(searched, 0.05)
    assert table.row("iac-lth").against["random"].verdict == verdict


def test_the_table_has_a_line_per_method() -> None:
    head, *rows = cells(made(0.1, 0.05))
    assert {len(row) for row in rows} == {len(head)}
    assert head[-2:] == ["difference from random [95 % CI]", "p against random (Holm over 3)"]
    assert len({*head}) == len(head)
    assert rows[0][:6] == ["iac-lth", "2", "20", "9", "5125", "1.0"]
    assert rows[0][6:9] == ["+10.0%", "+100.0%", "0.8125"]
