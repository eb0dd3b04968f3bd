"""Result files of studies, made up for tests."""

from typing import Any

CASES = [f"patient{n:02d}_{frame}" for n in range(8) for frame in ("ed", "es")]
FROZEN = dict.fromkeys(CASES, 0.7)


def run(method: str, seed: int, gain: float, **own: Any) -> dict[str, Any]:
    return {
        "run": f"{method}{seed}",
        "dataset": "Dataset900_Frames",
        "configuration": "2d",
        "backbone": "narrow",
        "augmentation": "NoDA",
        "fold": 0,
        "method": method,
        "seed": seed,
        "patient_pattern": r"patient\d+",
        "backbone_hash": "a" * 64,
        "dice": {case: 0.7 + gain + 0.001 * n for n, case in enumerate(CASES)},
        "frozen_dice": FROZEN,
        "settings": {"iterations_per_epoch": 250},
        "epochs": 20 + seed,
        "search_epochs": 9 if method == "iac-lth" else 0,
        "seconds": 60.0,
        "search_seconds": 30.0,
        "parameters": {"backbone": 1000, "final": 1100},
        "macs": {"backbone": 10, "final": 20},
        **own,
    }


def document(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"study": "s", "methods": ["iac-lth", "random", "continued"], "runs": list(runs)}
