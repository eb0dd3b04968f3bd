"""Reads a study from its YAML file."""

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from nnunet_iac.analysis.vocabulary import REFERENCE
from nnunet_iac.host.devices import default_device
from nnunet_iac.search.controls import CellSource
from nnunet_iac.workflow.study import METHODS, BackboneSpec, DataSet, Study, StudyMethod

THREADS_ON_CPU, THREADS_ON_GPU = 1, 8
"""Threads of a training unless the file sets another number; on a GPU they load the data."""


def read_study(path: Path) -> Study:
    """Return the study that a YAML file describes, or the copy of one in a study's folder.

    Raises:
        FileNotFoundError, ValueError: no such file, no YAML, an unknown key or an impossible value.
    """
    try:
        return study_of(read_document(path), path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_document(path: Path) -> Any:
    """Return the content of a study file, or of its copy in a study's folder."""
    if not path.is_file():
        raise FileNotFoundError(f"a study file must be named; {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a YAML file: {error}") from error
    is_copy = isinstance(document, dict) and document.keys() == {"python", "study"}
    return document["study"] if is_copy else document


def study_of(document: Any, folder: Path | None = None) -> Study:
    """Return the study that a file's content describes, on this machine's default device.

    Paths in it are relative to `folder`; None leaves them as they are.

    Raises:
        ValueError: see `read_study`.
    """
    schema = yaml.safe_load((files("nnunet_iac") / "workflow" / "study.schema.yaml").read_text())
    if (error := best_match(Draft202012Validator(schema).iter_errors(document))) is not None:
        place = ".".join(map(str, error.absolute_path)) or "the study"
        raise ValueError(
            f"a study file must have the form in docs/guide/studies.md; {place}: {error.message}: "
            "correct it"
        )
    values = {"device": default_device(), **_tuples(document)}
    values.setdefault("threads", THREADS_ON_CPU if values["device"] == "cpu" else THREADS_ON_GPU)
    values["methods"] = {
        name: _method(name, given or {}, folder) for name, given in document["methods"].items()
    }
    if REFERENCE in values["methods"]:
        raise ValueError(
            "a method must not be called `reference`, the name of the backbone: rename it"
        )
    if "backbones" in document:
        values["backbones"] = {
            name: _backbone(given or {}, folder) for name, given in document["backbones"].items()
        }
    backbones = values.get("backbones", {}).values()
    if backbones and all(spec.adapt is not None for spec in backbones):
        values["settings"] = {"preset": "adapt", **values.get("settings", {})}
    values["datasets"] = tuple(_dataset(given, folder) for given in document["datasets"])
    named = [dataset.dataset for dataset in values["datasets"]]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"a data set must be listed once; {twice[0]} is there more than once")
    return Study(**values)


def _backbone(given: Mapping[str, Any], folder: Path | None) -> BackboneSpec:
    values = _tuples(given)
    if "adapt" in values and folder is not None:
        fold = folder / os.path.expandvars(values["adapt"])
        values["adapt"] = str(fold.parent.resolve() / fold.name)  # A linked fold keeps its name.
    return BackboneSpec(**values)


def _dataset(given: Mapping[str, Any], folder: Path | None) -> DataSet:
    values = {**_tuples(given), "dataset": str(given["dataset"])}
    if isinstance(given.get("splits"), list):
        values["splits"] = given["splits"]
    elif "splits" in values:
        path = Path(values["splits"])
        values["splits"] = path if folder is None else (folder / path).resolve()
    if "patients" in values:
        try:
            re.compile(values["patients"])
        except re.error as error:
            raise ValueError(
                f"patients must be a regular expression; got {values['patients']!r}: {error}"
            ) from error
    return DataSet(**values)


def absolute_genotype(folder: Path, genotype: str) -> str:
    """Return the setting `genotype`, with a path in it made absolute from a folder."""
    if "{cells}" in genotype:
        return genotype
    if (source := CellSource.of(genotype.replace("{seed}", "0"))).path is None:
        return genotype
    # Not its own path, in which a seed stands for all.
    path = genotype.removeprefix("conv:") if source.kind == "convolution" else genotype
    return source.moved(str((folder / path).resolve()))


def _method(name: str, given: Mapping[str, Any], folder: Path | None) -> StudyMethod:
    kind = given.get("as", name)
    if kind not in METHODS:
        raise ValueError(
            f"method {name!r} must be one of {', '.join(METHODS)}, or name one with `as`; "
            f"got {kind!r} (the backbone is always trained)"
        )
    if name in METHODS and kind != name:
        raise ValueError(
            f"method {name!r} must be what it is called; it has `as: {kind}`: give it another name"
        )
    trainer, own = METHODS[kind]
    settings = {**own, **given.get("settings", {})}
    if isinstance(settings.get("genotype"), str) and folder is not None:
        settings["genotype"] = absolute_genotype(folder, settings["genotype"])
    finder = "iac-lth" if "{cells}" in str(settings.get("genotype")) else None
    return StudyMethod(trainer, settings, given.get("cells_of", finder), given.get("epochs_of"))


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
