"""When a study's backbone has converged."""

from typing import Any

import pytest
from study_documents import CASES, document, run

from nnunet_iac.analysis.scores.convergence import convergences


def _reference(backbone: str, dice: float, **own: Any) -> dict[str, Any]:
    scores = {**dict.fromkeys(CASES, dice), CASES[0]: None}
    return run("reference", 0, 0.0, backbone=backbone, dice=scores, **own)


def _study(after_half: float, after_all: float, **own: Any) -> dict[str, Any]:
    short = _reference("short", after_half, curve=[0.5] * 20)
    runs = short, _reference("long", after_all, **{"curve": [0.5] * 40, **own})
    return {**document(*runs), "halves": {"short": "long"}}


@pytest.mark.parametrize(
    ("after_half", "after_all", "converged"),
    [(0.86, 0.8629, True), (0.86, 0.8571, True), (0.86, 0.8631, False), (0.86, 0.8569, False)],
)
def test_it_has_where_half_of_its_training_changes_little(
    after_half: float, after_all: float, converged: bool
) -> None:
    (found,) = convergences(_study(after_half, after_all))
    assert found.has_converged is converged
    assert found.longer.difference == pytest.approx(after_all - after_half)
    said = "less than 0.003, so short has" if converged else "not less than 0.003, so short has not"
    assert str(found) == (
        f"long, trained for 40 epochs, has a validation Dice of {after_all:.4f} on "
        "Dataset900_Frames, 2d, and short, trained for 20 epochs, one of "
        f"{after_half:.4f}; the difference of "
        f"{after_all - after_half:+.4f} (95 % CI {after_all - after_half:+.4f} to "
        f"{after_all - after_half:+.4f}, n = {found.longer.patients}) is {said} converged"
    )


def test_an_interval_that_reaches_beyond_is_named() -> None:
    study = _study(0.86, 0.86)
    dice = study["runs"][1]["dice"]
    dice.update({case: 0.86 + 0.01 * (number % 3 - 1) for number, case in enumerate(dice)})
    (found,) = convergences(study)
    assert found.has_converged
    assert str(found).endswith("so short has converged, though the interval reaches beyond")


def test_a_training_that_is_little_longer_or_few_patients_show_nothing() -> None:
    (little,) = convergences(_study(0.86, 0.86, curve=[0.5] * 30))
    study = _study(0.86, 0.86)
    for each in study["runs"]:
        each["dice"] = {case: each["dice"][case] for case in CASES[1:9]}
    (few,) = convergences(study)
    for found in (little, few):
        assert not found.has_converged
        assert str(found).endswith("or of a training not twice as long, to show convergence")


def test_other_folds_and_studies_without_halves_show_nothing() -> None:
    assert convergences(_study(0.86, 0.86, fold=1)) == []
    assert convergences(document(_reference("long", 0.8))) == []
