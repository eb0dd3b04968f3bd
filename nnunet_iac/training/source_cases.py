"""Find the cases of the model that a run adapts, and check that the run can use them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_iac.host.planning import TRUTHS
from nnunet_iac.host.plans import configuration_of, predicted_labels
from nnunet_iac.host.preprocessed import dataset_class, preprocessed_cases
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import read_checkpoint, tensors_hash
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.runs.splits import SPLITS, require_split
from nnunet_iac.search.patients import named, shared_patients
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.backbone import Fold, fold_of, inherited_leakage, leakage


@dataclass(frozen=True)
class AdaptedRun:
    """A run that may adapt a model of another data set: what it trains on, and its settings."""

    dataset: str
    dataset_json: Mapping[str, Any]
    training_cases: Sequence[str]
    data: DataConfig


@dataclass(frozen=True)
class SourceCases:
    """Cases of one side of a backbone's fold, in another data set than the run's.

    Args:
        init: what its trainer was made from: `plans`, `configuration`, `fold`, `dataset_json`.
        weights: of the backbone.
        folder: the preprocessed data set.
        cases: preprocessed; those for scores have label files, and neither network saw them.
    """

    init: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    folder: Path
    cases: tuple[str, ...]

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        name: str = self.init["plans"]["dataset_name"]
        return name

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the plans, on its own."""
        found = configuration_of(self.init["plans"], self.init["configuration"])
        return {k: v for k, v in found.items() if k != "inherits_from"}

    @property
    def data(self) -> Path:
        """The folder of the preprocessed cases."""
        return self.folder / self.config["data_identifier"]

    def given_to(self, trainer: Any) -> Any:
        """Return a copy of a trainer that validates on these cases."""
        other, name = copy.copy(trainer), self.init["configuration"]
        plans = {**self.init["plans"], "configurations": {name: self.config}}
        other.plans_manager = PlansManager(plans)
        other.configuration_manager = other.plans_manager.get_configuration(name)
        other.dataset_json = self.init["dataset_json"]
        other.label_manager = other.plans_manager.get_label_manager(other.dataset_json)
        other.preprocessed_dataset_folder_base = str(self.folder)
        other.preprocessed_dataset_folder = str(self.data)
        other.dataset_class = dataset_class(self.data)
        other.do_split = lambda: ([], list(self.cases))
        return other


def source_cases(record: BackboneRecord, run: AdaptedRun, preprocessed: Path) -> SourceCases | None:
    """Return what a run can be scored on besides its own data; None where it adapts no model.

    Args:
        record: of the backbone, from whose file source and fold are read.
        run: what else decides it.
        preprocessed: nnU-Net's folder of preprocessed data sets.

    Raises:
        FileNotFoundError: the model or its data are not at hand.
        ValueError: they are damaged, or the cases are none that both networks can be scored on.
    """
    found = _source(record, run, preprocessed)
    if found is None:
        return None
    cases = _validation_cases(found)
    fold = Fold(found.dataset, found.init["configuration"], found.init["fold"], cases)
    path, splits = Path(record.path), found.folder / SPLITS
    reason = leakage(path, found.init, fold, splits)
    if reason := reason or inherited_leakage(path, fold, splits, None):
        raise ValueError(f"the model {reason}")
    _require_unseen(cases, run)
    return replace(found, cases=tuple(cases))


def source_training_cases(
    record: BackboneRecord, run: AdaptedRun, preprocessed: Path
) -> SourceCases:
    """Return the cases that a backbone learned from, preprocessed, in the order of their names.

    Arguments and errors are those of `source_cases`; also a ValueError if the run adapts no model.
    """
    found = _source(record, run, preprocessed)
    if found is None:
        raise ValueError(f"{record.path} is a model of {run.dataset} itself")
    fold = found.init["fold"]
    cases = _preprocessed(found.data) if fold == "all" else _split(found).get("train", ())
    if not cases:
        raise ValueError(f"{found.folder / SPLITS} has no training cases of fold {fold}")
    return replace(found, cases=tuple(sorted(cases)))


def _source(record: BackboneRecord, run: AdaptedRun, preprocessed: Path) -> SourceCases | None:
    """Return the data set of a run's backbone, without cases; None if it is the run's own."""
    path = Path(record.path)
    checkpoint = read_checkpoint(path)
    init, weights = dict(checkpoint["init_args"]), checkpoint["network_weights"]
    init["fold"] = fold_of(init)
    name = init["plans"]["dataset_name"]
    if name == run.dataset:
        return None
    if tensors_hash(weights) != record.before:
        raise ValueError(f"{path} has changed since the run began")
    found = SourceCases(init, weights, preprocessed / name, ())
    if found.config.get("previous_stage") is not None:
        raise ValueError(f"{path} is the second stage of a cascade, which needs its first")
    if predicted_labels(init["dataset_json"]) != predicted_labels(run.dataset_json):
        raise ValueError(
            f"{run.dataset} has other labels than {name}, and the network learned those"
        )
    return found


def _preprocessed(folder: Path) -> list[str]:
    """Return all preprocessed cases, of which there must be some."""
    if not (found := preprocessed_cases(folder)):
        raise FileNotFoundError(f"{folder} has no preprocessed cases")
    return found


def _split(source: SourceCases) -> dict[str, list[str]]:
    """Return the fold a model was trained on, all of whose cases are at hand; {} if unknown."""
    splits, number = source.folder / SPLITS, source.init["fold"]
    if not splits.is_file():
        raise FileNotFoundError(f"{splits} does not exist")
    there, known = _preprocessed(source.data), read_json(splits)
    require_split(known, number, there, str(splits))
    found: dict[str, list[str]] = known[number] if number < len(known) else {}
    return found


def _validation_cases(source: SourceCases) -> list[str]:
    """Return the validation cases of the fold a model was trained on, all of them at hand."""
    fold = source.init["fold"]
    if fold == "all":
        raise ValueError("the model was trained on all cases")
    cases = _split(source).get("val", [])
    if not cases:
        raise ValueError(f"{source.folder / SPLITS} has no validation cases of fold {fold}")
    ending, truths = source.init["dataset_json"]["file_ending"], source.folder / TRUTHS
    if missing := [case for case in cases if not (truths / f"{case}{ending}").is_file()]:
        raise FileNotFoundError(f"{truths} lacks {named(missing)}")
    return cases


def _require_unseen(cases: Sequence[str], run: AdaptedRun) -> None:
    """Check that the run did not learn from a patient called as one of the cases is."""
    shared = shared_patients(cases, run.training_cases, run.data.patient_pattern, any_case=True)
    if shared:
        raise ValueError(f"{shared[0]} is among them and among the training cases of {run.dataset}")
