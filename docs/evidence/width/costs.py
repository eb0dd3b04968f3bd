"""Add the cost of every width to the results of a study in this folder.

python docs/evidence/width/costs.py STUDY.yaml RESULTS.json OUT.json
"""

import sys
from pathlib import Path

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.width.source import Source
from nnunet_iac.workflow.study_file import read_study


def main() -> None:
    """Write OUT.json."""
    study, results = read_study(Path(sys.argv[1])), read_json(Path(sys.argv[2]))
    (dataset,) = study.datasets
    costs = {}
    for name, spec in study.backbones.items():
        assert spec.cap is not None
        where = dataset.dataset, dataset.configurations[0], name, spec.trainer
        cost = Source.of_plans(*where).cost(spec.cap)
        costs[name] = {"cap": spec.cap, "parameters": cost.parameters, "macs": cost.macs}
    write_json(Path(sys.argv[3]), {**results, "costs": costs})


if __name__ == "__main__":
    main()
