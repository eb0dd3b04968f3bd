"""Write the cells that a study's searches found, one file per seed.

    python docs/evidence/beyond/cells.py RESULTS.json METHOD NAME

RESULTS.json: a study's result file. The cells go to cells/NAME_SEED.json.
"""

import sys
from pathlib import Path

from nnunet_iac.runs.atomic import read_json, write_json

HERE = Path(__file__).parent


def main() -> None:
    """Write the cells."""
    path, method, name = sys.argv[1:]
    (HERE / "cells").mkdir(exist_ok=True)
    for run in read_json(Path(path))["runs"]:
        if run["method"] == method:
            write_json(HERE / "cells" / f"{name}_{run['seed']}.json", run["genotype"])


if __name__ == "__main__":
    main()
