"""Write a study file for each study and data set of studies.yaml: python studies.py FOLDER."""

import sys
from pathlib import Path
from typing import Any

import yaml

from nnunet_iac.runs.atomic import write_text

HERE = Path(__file__).parent
BACKBONE, HALF = "nnUNetTrainerAdam_40epochs", "nnUNetTrainerAdam_20epochs"
SPLITS = HERE.parent / "results"


def study(document: dict[str, Any], data: str, name: str) -> dict[str, Any]:
    """Return the study file of a study on a data set."""
    given, planned = document["sets"][data], document["studies"][name]
    chosen, dataset = document["chosen"][data], given["dataset"]
    splits = str(SPLITS / dataset["splits"])
    backbone = {"trainer": BACKBONE, **given["network"]}
    return {
        "name": f"search-{data}-{name}",
        "device": "cpu",
        "seeds": planned["seeds"],
        "datasets": [{**dataset, "splits": splits, "folds": [planned["fold"]]}],
        "backbones": {
            "converged": backbone,
            "half": {**backbone, "trainer": HALF, "half_of": "converged"},
        },
        "settings": document["settings"],
        "methods": {
            method: with_rates(method, content or {}, chosen)
            for method, content in planned["methods"].items()
        },
    }


def with_rates(method: str, content: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return a method with the rates that were chosen for its kind; its own settings win."""
    kind = "continued" if content.get("as", method) == "continued" else "cells"
    return {**content, "settings": {**chosen[kind], **content.get("settings", {})}}


def main(folder: Path) -> None:
    """Write all study files."""
    document = yaml.safe_load((HERE / "studies.yaml").read_text())
    for data in document["sets"]:
        for name in document["studies"]:
            text = yaml.safe_dump(study(document, data, name), sort_keys=False)
            write_text(folder / f"{data}-{name}.yaml", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
