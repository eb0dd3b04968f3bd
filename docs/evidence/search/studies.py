"""Writes a study file for each study of a data set of studies.yaml, and puts its splits in place.

After `python studies.py SET FOLDER` the folder has `SET-STUDY.yaml` of every study whose learning
rates are known: before `SET-choose.json` has been measured, of those that need none. The names of
all studies of the data set are printed in the order in which they are measured.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nnunet_iac.analysis.scores.method_table import method_tables
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.runs.atomic import read_json, write_json, write_text
from nnunet_iac.runs.splits import SPLITS

HERE = Path(__file__).parent
SPLITS_OF_ALL = HERE.parent / "splits"
CONVERGED, CHOOSE = "converged", "choose"
"""Studies of backbones, and of learning rates."""

KINDS = ("continued", "random")
"""Methods that train the network, and those that train cells; rates are chosen for either."""

Document = Mapping[str, Any]


def read_document() -> Document:
    """Return the content of studies.yaml."""
    found: Document = yaml.safe_load((HERE / "studies.yaml").read_text())
    return found


def splits_file(document: Document, data: str) -> Path:
    """Return the file of a data set's splits."""
    return SPLITS_OF_ALL / f"splits_{document['sets'][data]['dataset']['dataset']}.json"


def chosen_rates(document: Document, data: str, results: Path = HERE) -> Document | None:
    """Return the settings of the best method of either kind on fold 1; None before it is known."""
    path = results / f"{document['sets'][data].get('chosen_on', data)}-{CHOOSE}.json"
    if not path.is_file():
        return None
    (table,) = method_tables(read_json(path), ())
    tried = document["studies"][CHOOSE]["methods"]
    found = {}
    for kind in KINDS:
        rows = [row for row in table.rows if tried[row.method]["as"] == kind]
        found[kind] = tried[max(rows, key=lambda row: row.dice).method]["settings"]
    return found


def study(
    document: Document, data: str, name: str, rates: Document | None
) -> dict[str, Any] | None:
    """Return the study file of a study on a data set; None if it needs rates and has none."""
    given = document["sets"][data]
    common = {"name": f"search-{data}-{name}", "device": "cpu"}
    dataset = {**given["dataset"], "splits": str(splits_file(document, data))}
    trained = {key: {"trainer": t, **given["network"]} for key, t in given["trained"].items()}
    if name == CONVERGED:
        half, whole = trained
        trained[half]["half_of"] = whole
        dataset["folds"] = [0]
        backbones = {whole: trained[whole], half: trained[half]}
        return {**common, "datasets": [dataset], "backbones": backbones, "methods": {}}
    planned = document["studies"][name]
    own = "settings" in planned
    if rates is None and not own and name != CHOOSE:
        return None
    epochs = {"iterations_per_epoch": given["iterations_per_epoch"]}
    methods = {}
    for method, content in planned["methods"].items():
        known = dict(content or {})
        if data in known.pop("sets", [data]):
            methods[method] = known if own else with_rates(method, known, rates or {})
    return {
        **common,
        "seeds": planned["seeds"],
        "datasets": [{**dataset, "folds": [planned.get("fold", 0)]}],
        "backbones": planned.get("backbones", {given["backbone"]: trained[given["backbone"]]}),
        "settings": planned["settings"] if own else {**document["settings"], **epochs},
        "methods": methods,
    }


def with_rates(method: str, content: Document, rates: Document) -> dict[str, Any]:
    """Return a method with the rates chosen for its kind; its own settings win.

    `rates` in a method names its kind, if that is not the one it is `as`.
    """
    content = dict(content)
    of = content.pop("rates", content.get("as", method))
    kind = "continued" if of == "continued" else "random"
    settings = {**rates.get(kind, {}), **content.get("settings", {})}
    return {**content, "settings": settings}


def put_splits(document: Document, data: str) -> None:
    """Write the splits for nnU-Net, also in place of others with the same first fold.

    Models of that fold keep their cases; other splits are left, and the study refuses them.
    """
    wanted = read_json(splits_file(document, data))
    path = preprocessed_folder(document["sets"][data]["dataset"]["dataset"]) / SPLITS
    if path.is_file() and read_json(path)[:1] == wanted[:1]:
        write_json(path, wanted)


def main(data: str, folder: Path) -> None:
    """Write the study files and splits of a data set."""
    document = read_document()
    rates = chosen_rates(document, data)
    for name in document["sets"][data]["studies"]:
        if (content := study(document, data, name, rates)) is not None:
            write_text(folder / f"{data}-{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    put_splits(document, data)
    print(*document["sets"][data]["studies"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
