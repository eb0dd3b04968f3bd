"""The source of an adaptation: a trained nnU-Net model, whose data need not be at hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from torch import nn

from nnunet_iac.host.export import Model
from nnunet_iac.host.folders import results_folder
from nnunet_iac.host.networks import network_of
from nnunet_iac.host.plans import (
    configuration_of,
    dataset_number,
    read_dataset,
    read_plans,
    require_trainable,
)
from nnunet_iac.nn.retrofitted_unet import IMPLANT_PREFIX, require_supported
from nnunet_iac.runs.checkpoint import read_checkpoint
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.backbone import Backbone, Fold, read_backbone


@dataclass(frozen=True)
class SourceModel:
    """One fold of a trained model of nnU-Net, with the plans and labels it was trained under."""

    checkpoint: Path
    configuration: str
    plans: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.checkpoint.parent.parent

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the plans."""
        return configuration_of(self.plans, self.configuration)

    @property
    def default_plans(self) -> str:
        """The identifier of a target's plans, if the user chooses none."""
        number = dataset_number(self.plans["dataset_name"])
        return f"{self.plans['plans_name']}From{number:03d}"

    @classmethod
    def at(
        cls, model: Path, configuration: str | None = None, fold: str | None = None
    ) -> "SourceModel":
        """Return one fold of a model folder.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION.
            configuration: what it must be of; None takes any.
            fold: its number or `all`; by default `all` if that is trained, else the first.

        Raises:
            FileNotFoundError: no model there, or not that fold.
            ValueError: a zip file, another configuration, a cascade, or a retrofit.
        """
        if model.suffix == ".zip":
            raise ValueError(
                f"the source must be a model folder; {model} is a zip file: install it with "
                "nnUNetv2_install_pretrained_model_from_zip and name its folder"
            )
        found, checkpoint = Model.final_or_best(model)
        names = [path.name.removeprefix("fold_") for path in found.folds]
        wanted = fold or ("all" if "all" in names else names[0])
        if wanted not in names:
            raise FileNotFoundError(
                f"the source must have been trained on the fold; {found.folder} has no finished "
                f"fold {wanted}, only {', '.join(names)}: name one of them with -f"
            )
        if configuration not in (None, found.configuration):
            raise ValueError(
                f"the source must be a model of the configuration -c {configuration}; "
                f"{found.folder} is one of {found.configuration}: name another model or -c "
                f"{found.configuration}"
            )
        if found.is_second_stage:
            raise ValueError(
                "a cascade cannot be adapted, since its second stage needs predictions of the "
                f"target by its first; {found.folder} is a second stage: adapt a model of another "
                "configuration"
            )
        require_trainable(found.config)
        plans = read_plans(found.folder / "plans.json")
        dataset = read_dataset(found.folder / "dataset.json")
        path = found.folder / f"fold_{wanted}" / checkpoint
        return cls(path, found.configuration, plans, dataset)

    def network(self) -> nn.Module:
        """Return a new network of the plans, on the CPU."""
        return network_of(self.plans, self.configuration, self.dataset)

    def read(self) -> Backbone:
        """Return the checkpoint as a backbone: the plans' network, and one that takes cells."""
        nowhere = Fold("", self.configuration, "all", ())
        weights = read_checkpoint(self.checkpoint)["network_weights"]
        require_no_implants(self.checkpoint, weights)
        require_supported(network := self.network())
        parts = network, self.plans, nowhere, DataConfig(), self.model / "none"
        return read_backbone(self.checkpoint, *parts)


def require_no_implants(path: Path, weights: Mapping[str, Any]) -> None:
    """Check that a checkpoint is not that of a retrofit."""
    if any(key.startswith(IMPLANT_PREFIX) for key in weights):
        raise ValueError(
            f"the backbone must be a U-Net without modules in its skip connections; {path} has "
            "some: name another model (for a retrofit that of its backbone, whose path is in "
            "iac/backbone.json beside it)"
        )


def model_folder(source: str, configuration: str, trainer: str, plans: str) -> Path:
    """Return the folder of a model: a path as it is, or that of a data set in nnU-Net's results."""
    path, is_name = Path(source), re.fullmatch(r"\d+|Dataset\d{3,}_[^/]+", source)
    if path.exists() and (not is_name or (path / "plans.json").is_file()):
        folder = path.resolve()
        own = folder.name.split("__")[:2]
        if [trainer, plans] not in (own, ["nnUNetTrainer", "nnUNetPlans"]):
            raise ValueError(
                "-tr and -p choose among the models of a data set, and -s names a model folder, "
                f"{folder}; got {trainer} and {plans}: leave them out"
            )
        return folder
    try:
        name = maybe_convert_to_dataset_name(source)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "the source must be a model folder, or the id or name of a data set in nnU-Net's "
            f"folders; got {source!r} ({error}): check it, and nnUNet_results"
        ) from error
    folder = results_folder() / name / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("*__*__*"))
        raise FileNotFoundError(
            f"the source model must exist; {folder} does not"
            + (f", only {', '.join(known)}" if known else "")
            + ": choose with -tr, -p and -c, or name a model folder with -s"
        )
    return folder
