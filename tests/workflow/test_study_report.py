"""What a study's page says first."""

from pathlib import Path
from typing import Any

from nnunet_iac.workflow.study_report import write_study_report

CASES = [f"case_{n}" for n in range(8)]


def run(method: str, epochs: int, dice: float) -> dict[str, Any]:
    return {
        "run": method,
        "dataset": "Dataset900_Frames",
        "configuration": "2d",
        "backbone": "narrow",
        "augmentation": "NoDA",
        "fold": 0,
        "method": method,
        "seed": 0,
        "patient_pattern": None,
        "backbone_hash": "a" * 64,
        "dice": {case: dice + 0.001 * n for n, case in enumerate(CASES)},
        "frozen_dice": dict.fromkeys(CASES, 0.7),
        "epochs": epochs,
        "search_epochs": 9,
        "seconds": 60.0,
        "search_seconds": 30.0,
        "parameters": {"backbone": 1000, "final": 1100},
        "macs": {"backbone": 10, "final": 20},
    }


def page(tmp_path: Path, searched: int, random: int) -> str:
    runs = [run("iac", searched, 0.8), run("random", random, 0.9)]
    document = {"study": "s", "methods": ["iac", "random"], "runs": runs}
    write_study_report(document, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_a_random_cell_of_another_length_is_called_so(tmp_path: Path) -> None:
    said = "iac gave less than a random cell that learned for 45 epochs, not 234 ("
    assert said in page(tmp_path, 234, 45)


def test_of_a_random_cell_of_the_same_length_nothing_is_said(tmp_path: Path) -> None:
    assert "iac gave less than a random cell (" in page(tmp_path, 45, 45)
