"""Draws cases of a target, and writes a study for each number of them.

After `python studies.py PAIR FOLDER` the folder has `splits.json` and `rates.yaml`, `k3.yaml` and
so on, whose names are printed in the order in which they are measured. Every draw is a fold: its
training cases are drawn from the pool, its validation cases are the test cases. Learning rates are
chosen on draws whose validation cases are the rest of the pool.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nnunet_iac.host.folders import raw_folder
from nnunet_iac.runs.atomic import read_json, write_json, write_text
from nnunet_iac.runs.scores import mean_of_present
from nnunet_iac.search.settings import Settings
from nnunet_iac.workflow.study import Study
from nnunet_iac.workflow.study_file import read_study
from nnunet_iac.workflow.study_plans import fold_folder

HERE = Path(__file__).parent
TARGETS = {
    "heart": "Dataset030_CMRbSSFP",
    "hippocampus": "Dataset032_HippocampusMild",
}
"""The data set that each pair's source is adapted to."""

CASES = (1, 3, 5, 10)
DRAWS = 3
FOR_RATES = 3
DRAWS_FOR_RATES = 2
"""Cases in a draw on which learning rates are chosen, and how many such draws there are."""

TRIED = (
    *("ewc", "lwf", "random-norms", "random-wide", "random-ema"),
    *("random-decoder", "random-all", "random-lwf", "random-mean"),
)
"""Methods that are tried with `FOR_RATES` cases only."""

SIMULATED = "hippocampus"
"""The pair whose target is made by shift.py; it has studies of `FOR_RATES` cases only."""

RATES = {"continued": (1e-3, 1e-4, 3e-4, 3e-3), "random": (3e-3, 1e-3, 1e-2, 3e-2)}
"""Rates tried for the methods that train the network, and for those that train cells.

The first is taken where nothing has been measured yet. A group of methods.yaml has the name of the
method on which its rate is chosen.
"""

WEIGHTS = {"l2-sp-1e-1": 0.1, "l2-sp-1e0": 1.0}
"""Weights tried for L2-SP."""

PROPOSED = "proposed"
PROPOSED_LR = Settings(preset="adapt").optimisation.finetune_lr
"""The method with the rate of cells that `nnunet-iac adapt` proposes, and that rate."""

MIDDLE = 1e-3
"""The learning rate of L2-SP, and of EWC, which has its weight as well."""

FROM_SCRATCH = "nnUNetTrainerAdam_4epochs"
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


def named(method: str, rate: float) -> str:
    """Return the name of a method at a learning rate."""
    return f"{method}-{1e4 * rate:.0f}e-4"


def pool_dice(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return each method's mean Dice on the rest of the pool, over draws."""
    found: dict[str, list[float]] = {}
    for run in measured["runs"]:
        found.setdefault(run["method"], []).append(mean_of_present(run["dice"].values()) or 0.0)
    return {method: sum(values) / len(values) for method, values in found.items()}


@dataclass(frozen=True)
class Pair:
    """A source and a target."""

    name: str

    @property
    def target(self) -> str:
        """The name of the target's data set."""
        return TARGETS[self.name]

    @cached_property
    def source(self) -> Study:
        """The study that trains the source."""
        return read_study(self._source_file)

    @property
    def _source_file(self) -> Path:
        return HERE / f"{self.name}-source.yaml"

    @property
    def cases(self) -> tuple[int, ...]:
        """How many cases it is adapted to, in the order in which that is measured."""
        others = () if self.name == SIMULATED else tuple(k for k in CASES if k != FOR_RATES)
        return FOR_RATES, *others

    @property
    def source_folds(self) -> list[Path]:
        """The fold of the source's model, and that of its search."""
        return [fold_folder(self.source, run) for run in self.source.runs.values()]

    def study(
        self, name: str, numbers: range, backbones: dict[str, Any], methods: dict[str, Any]
    ) -> dict[str, Any]:
        """Return a study of some folds, of methods on one backbone."""
        return {
            "name": f"adaptation-{self.name}-{name}",
            "device": "cpu",
            "datasets": [{"dataset": self.target, "folds": [*numbers], "splits": "splits.json"}],
            "backbones": backbones,
            "settings": {"preset": "adapt"},
            "methods": methods,
        }

    def methods(self) -> dict[str, dict[str, Any]]:
        """Return all methods, each with what was best on the pool among what was tried for it."""
        groups = yaml.safe_load((HERE / "methods.yaml").read_text())
        path = HERE / f"{self.name}-rates.json"
        tried = pool_dice(read_json(path)) if path.is_file() else {}
        best = {
            group: max(rates, key=lambda rate: tried.get(named(group, rate), 0.0))
            for group, rates in RATES.items()
        }
        weight = max(WEIGHTS, key=lambda name: tried.get(name, 0.0))
        found = {}
        for group, methods in groups.items():
            for name, method in methods.items():
                own = dict((method or {}).get("settings", {}))
                if group in best:
                    own.setdefault("finetune_lr", best[group])
                elif name == PROPOSED and best["random"] == PROPOSED_LR:
                    continue
                if own.get("retention") in ("l2-sp", "ewc"):
                    own.update(retention_weight=WEIGHTS[weight], finetune_lr=MIDDLE)
                found[name] = {**(method or {}), "settings": own}
        return found

    def studies(self) -> dict[str, dict[str, Any]]:
        """Return all studies by name."""
        reference, searched = self.source_folds
        document = yaml.safe_load(self._source_file.read_text())
        network = next(iter(document["backbones"].values()))
        adapted = {"adapted": {"adapt": str(reference)}}
        scratch = {"scratch": {**network, "trainer": FROM_SCRATCH}}
        methods = self.methods()
        methods["transferred"]["settings"]["genotype"] = str(searched)
        tried = {
            named(method, rate): {"as": method, "settings": {"finetune_lr": rate}}
            for method, rates in RATES.items()
            for rate in rates
        }
        for name, weight in WEIGHTS.items():
            own = {"retention": "l2-sp", "retention_weight": weight, "finetune_lr": MIDDLE}
            tried[name] = {"as": "continued", "settings": own}
        for method in tried.values():
            method["settings"]["score_source"] = False
        first = len(CASES) * DRAWS
        numbers = range(first, first + DRAWS_FOR_RATES)
        found = {"rates": self.study("rates", numbers, adapted, tried)}
        for k in self.cases:
            first = CASES.index(k) * DRAWS
            numbers = range(first, first + DRAWS)
            own = {name: methods[name] for name in methods if k == FOR_RATES or name not in TRIED}
            found[f"k{k}"] = self.study(f"k{k}", numbers, adapted, own)
            found[f"k{k}-scratch"] = self.study(f"k{k}-scratch", numbers, scratch, {})
        return found


def main(pair: Pair, folder: Path) -> None:
    """Write splits and studies."""
    (known,) = read_json(raw_folder(pair.target) / "splits_final.json")
    write_json(folder / "splits.json", folds(known["train"], known["val"]))
    studies = pair.studies()
    for name, content in studies.items():
        write_text(folder / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    print(*studies)


if __name__ == "__main__":
    main(Pair(sys.argv[1]), Path(sys.argv[2]))
