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
from nnunet_iac.workflow.study_file import read_study
from nnunet_iac.workflow.study_plans import fold_folder

HERE = Path(__file__).parent
TARGET = "Dataset030_CMRbSSFP"
CASES = (1, 3, 5, 10)
DRAWS = 3
FOR_RATES = 3
DRAWS_FOR_RATES = 2
"""Cases in a draw on which learning rates are chosen, and how many such draws there are."""

RATES = {"continued": (3e-4, 1e-3, 3e-3), "random": (1e-3, 3e-3, 1e-2)}
"""What is tried for the methods that train the network, and for those that train cells."""

WEIGHTS = {"l2-sp-1e-1": 0.1, "l2-sp-1e0": 1.0}
"""What is tried of L2-SP, at the middle rate."""

FROM_SCRATCH = "nnUNetTrainerAdam_8epochs"
"""It trains for as many batches as the methods do."""


def draw(pool: list[str], count: int, number: int) -> list[str]:
    """Return a draw of cases, which depends on nothing else."""
    generator = np.random.default_rng([count, number])
    return sorted(generator.choice(pool, count, replace=False).tolist())


def folds(pool: list[str], test: list[str]) -> list[dict[str, list[str]]]:
    """Return all draws as folds: those of every k in turn, and then those for learning rates."""
    found = [{"train": draw(pool, k, i), "val": test} for k in CASES for i in range(DRAWS)]
    for i in range(DRAWS_FOR_RATES):
        train = draw(pool, FOR_RATES, DRAWS + i)
        found.append({"train": train, "val": [case for case in pool if case not in train]})
    return found


def study(name: str, numbers: range, backbone: dict[str, Any], methods: dict) -> dict[str, Any]:
    """Return a study of some folds, of methods on one backbone."""
    return {
        "name": f"adaptation-{name}",
        "datasets": [{"dataset": TARGET, "folds": [*numbers], "splits": "splits.json"}],
        "backbones": backbone,
        "settings": {"preset": "adapt"},
        "methods": methods,
    }


def studies() -> dict[str, dict[str, Any]]:
    """Return all studies by name; the source must have been trained."""
    source = read_study(HERE / "source.yaml")
    reference, searched = (fold_folder(source, run) for run in source.runs.values())
    network = yaml.safe_load((HERE / "source.yaml").read_text())["backbones"]["narrow"]
    adapted = {"adapted": {"adapt": str(reference)}}
    scratch = {"scratch": {**network, "trainer": FROM_SCRATCH}}
    methods = yaml.safe_load((HERE / "methods.yaml").read_text())
    methods["transferred"] = {"as": "random", "settings": {"genotype": str(searched)}}
    found = {}
    for place, k in enumerate(CASES):
        numbers = range(place * DRAWS, (place + 1) * DRAWS)
        found[f"k{k}"] = study(f"k{k}", numbers, adapted, methods)
        found[f"k{k}-scratch"] = study(f"k{k}-scratch", numbers, scratch, {})
    first = len(CASES) * DRAWS
    tried = {
        f"{method}-{1e4 * rate:.0f}e-4": {"as": method, "settings": {"finetune_lr": rate}}
        for method, rates in RATES.items()
        for rate in rates
    }
    for name, weight in WEIGHTS.items():
        own = {"retention": "l2-sp", "retention_weight": weight, "finetune_lr": 1e-3}
        tried[name] = {"as": "continued", "settings": own}
    found["rates"] = study("rates", range(first, first + DRAWS_FOR_RATES), adapted, tried)
    return found


def main(folder: Path) -> None:
    """Write splits and studies."""
    (known,) = read_json(raw_folder(TARGET) / "splits_final.json")
    write_json(folder / "splits.json", folds(known["train"], known["val"]))
    for name, content in studies().items():
        write_text(folder / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
