"""Draws cases of the target and writes a study for each number of them: python studies.py FOLDER.

FOLDER then has `splits.json` and `rates.yaml`, `k1.yaml` and so on. Every draw is a fold: its
training cases are drawn from the pool, its validation cases are the test cases. Learning rates are
chosen on draws whose validation cases are the rest of the pool.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nnunet_iac.host.folders import raw_folder
from nnunet_iac.runs.atomic import read_json, write_json, write_text

HERE = Path(__file__).parent
TARGET = "Dataset030_CMRbSSFP"
SOURCE_FOLD = "Dataset027_ACDC128/nnUNetTrainer_20epochs__narrow__2d/fold_0"
CASES = (1, 3, 5, 10)
DRAWS = 3
FOR_RATES = 3
"""Cases in a draw on which learning rates are chosen."""

RATES = {"continued": (3e-4, 1e-3, 3e-3), "random": (1e-3, 3e-3, 1e-2)}
"""What is tried for the methods that train the network, and for those that train cells."""


def draw(pool: list[str], count: int, number: int) -> list[str]:
    """Return a draw of cases, which depends on nothing else."""
    generator = np.random.default_rng([count, number])
    return sorted(generator.choice(pool, count, replace=False).tolist())


def folds(pool: list[str], test: list[str]) -> list[dict[str, list[str]]]:
    """Return all draws as folds: those of every k in turn, and then those for learning rates."""
    found = [{"train": draw(pool, k, i), "val": test} for k in CASES for i in range(DRAWS)]
    for i in range(DRAWS):
        train = draw(pool, FOR_RATES, DRAWS + i)
        found.append({"train": train, "val": [case for case in pool if case not in train]})
    return found


def study(name: str, numbers: range, methods: dict[str, Any]) -> dict[str, Any]:
    """Return a study of some folds."""
    return {
        "name": f"adaptation-{name}",
        "datasets": [{"dataset": TARGET, "folds": [*numbers], "splits": "splits.json"}],
        "backbones": {"adapted": {"adapt": f"$nnUNet_results/{SOURCE_FOLD}"}},
        "settings": {"preset": "adapt"},
        "methods": methods,
    }


def main(folder: Path) -> None:
    """Write splits and studies."""
    (known,) = read_json(raw_folder(TARGET) / "splits_final.json")
    write_json(folder / "splits.json", folds(known["train"], known["val"]))
    methods = yaml.safe_load((HERE / "methods.yaml").read_text())
    starts = {k: place * DRAWS for place, k in enumerate(CASES)}
    studies = {
        f"k{k}": study(f"k{k}", range(start, start + DRAWS), methods) for k, start in starts.items()
    }
    rates = {
        f"{method}-{1e4 * rate:.0f}e-4": {"as": method, "settings": {"finetune_lr": rate}}
        for method, tried in RATES.items()
        for rate in tried
    }
    studies["rates"] = study("rates", range(len(CASES) * DRAWS, (len(CASES) + 1) * DRAWS), rates)
    for name, content in studies.items():
        write_text(folder / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
