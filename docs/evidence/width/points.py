"""Gather Dice and cost of every width and method from the results of a study in this folder.

python docs/evidence/width/points.py STUDY.yaml RESULTS.json OUT.json
"""

import sys
from dataclasses import asdict
from pathlib import Path

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.training.cost import circumstances
from nnunet_iac.width.source import Source
from nnunet_iac.workflow.pareto import point_of
from nnunet_iac.workflow.study_file import read_study


def main() -> None:
    """Write OUT.json."""
    study, runs = read_study(Path(sys.argv[1])), read_json(Path(sys.argv[2]))["runs"]
    (dataset,), (configuration,) = study.datasets, study.datasets[0].configurations
    points = []
    for name, spec in study.backbones.items():
        assert spec.cap is not None
        cost = Source.of_plans(dataset.dataset, configuration, name, spec.trainer).cost(spec.cap)
        for method in (REFERENCE, *study.methods):
            own = [run for run in runs if (run["backbone"], run["method"]) == (name, method)]
            points.append(point_of(spec.cap, method, own, cost))
    write_json(
        Path(sys.argv[3]),
        {
            "dataset": dataset.dataset,
            **circumstances(),
            "device": study.device,
            "trainer": spec.trainer,
            "batch_size": spec.batch_size,
            "folds": dataset.folds,
            "seeds": study.seeds,
            "settings": study.settings,
            "points": [asdict(point) for point in points if point is not None],
        },
    )


if __name__ == "__main__":
    main()
