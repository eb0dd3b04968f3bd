"""A retrofit as a model folder of the stock nnUNetTrainer, whose plans name the network."""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nnunet_iac.nn.surgery import SUPPORTED
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.runs.plans import SECTION, architecture_of, configuration_of, require_identifier
from nnunet_iac.search.genotype import UNDECIDED
from nnunet_iac.search.settings import STRUCTURAL, Settings

TRAINER = "nnUNetTrainer"
NETWORK = "nnunet_iac.nn.planned_retrofit.planned_retrofit"
MODEL_FILES = ("dataset.json", "dataset_fingerprint.json")
PICTURE, SUMMARY = "progress.png", "validation/summary.json"
"""What nnU-Net's export_model_to_zip asks for, besides checkpoints and plans."""


@dataclass(frozen=True)
class Model:
    """A model folder of nnU-Net, or one fold of it.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION.
        folds: folders of the folds that are meant.
        configuration: of the folder's name.
    """

    folder: Path
    folds: tuple[Path, ...]
    configuration: str

    @classmethod
    def at(cls, path: Path, checkpoint: str = FINAL) -> "Model":
        """Return the model at a path: a model folder with its trained folds, or one fold.

        Raises:
            FileNotFoundError: no model folder, or no fold that has the checkpoint.
        """
        path = path.resolve()
        folder = path.parent if path.name.startswith("fold_") else path
        if not (folder / "plans.json").is_file():
            raise FileNotFoundError(
                f"a fold or a model folder of nnU-Net must be named; {folder}/plans.json does not "
                "exist"
            )
        candidates = [path] if path != folder else sorted(folder.glob("fold_*"))
        folds = tuple(fold for fold in candidates if (fold / checkpoint).is_file())
        if not folds:
            raise FileNotFoundError(
                f"a fold must have been trained to its end; none of {path} has a {checkpoint}: "
                "let the training finish, or name another checkpoint with -chk"
            )
        return cls(folder, folds, folder.name.split("__")[-1])


def export_model(model: Model, target: Path, checkpoint: str = FINAL) -> list[Path]:
    """Write a model folder that stock nnU-Net predicts with, and return its folds.

    The weights are those of the checkpoints, bit for bit. The plans' `network_class_name` builds
    the network, so that only this package must be installed, without its trainers being found.

    Args:
        model: what is exported.
        target: a folder that does not exist yet. Where its name is nnUNetTrainer__PLANS__CONF, as
            in nnU-Net's results, the plans are called so; else after the source.
        checkpoint: of every fold.

    Raises:
        FileExistsError: the target exists.
        ValueError: a damaged checkpoint, or one that is still searching.
    """
    if target.exists():
        raise FileExistsError(
            f"the export must go to a new folder; {target} exists: remove it, or name another"
        )
    plans = exported_plans(read_json(model.folder / "plans.json"), model, target, checkpoint)
    dataset = read_json(model.folder / "dataset.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".writing.", dir=target.parent) as unfinished:
        folder = Path(unfinished) / target.name
        folder.mkdir()
        write_json(folder / "plans.json", plans)
        _copy(model.folder, folder, MODEL_FILES)
        for fold in model.folds:
            (folder / fold.name).mkdir()
            torch.save(
                exported_checkpoint(fold / checkpoint, plans, dataset, model.configuration),
                folder / fold.name / FINAL,
            )
            # The final validation is that of the final checkpoint.
            known = (PICTURE, SUMMARY) if checkpoint == FINAL else (PICTURE,)
            _copy(fold, folder / fold.name, known)
        folder.rename(target)
    return [target / fold.name for fold in model.folds]


def exported_checkpoint(
    path: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str
) -> dict[str, Any]:
    """Return what nnU-Net's predictor reads of a checkpoint, the weights as they are.

    Raises:
        ValueError: a damaged checkpoint, or one that is still searching.
    """
    checkpoint = read_checkpoint(path)
    codes = checkpoint["network_weights"].get("genotype_codes")
    if codes is not None and UNDECIDED in codes.tolist():
        raise ValueError(
            f"only a found cell can be exported; {path} is still searching: let the run end"
        )
    return {
        "network_weights": checkpoint["network_weights"],
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
        "init_args": {
            "plans": plans,
            "configuration": configuration,
            "fold": path.parent.name.removeprefix("fold_"),
            "dataset_json": dataset,
        },
    }


def exported_plans(
    plans: Mapping[str, Any], model: Model, target: Path, checkpoint: str = FINAL
) -> dict[str, Any]:
    """Return plans whose network is the retrofit, and which hold no setting of its training."""
    result = copy.deepcopy(dict(plans))
    parts = target.name.split("__")
    named = len(parts) == 3 and parts[0] == TRAINER
    result["plans_name"] = parts[1] if named else f"{plans['plans_name']}_exported"
    require_identifier(result["plans_name"])
    described = configuration_of(plans, model.configuration)
    exported = result["configurations"][model.configuration]
    for configuration in result["configurations"].values():
        configuration.pop(SECTION, None)
    stored = read_checkpoint(model.folds[0] / checkpoint)
    # Else a network that plans describe as it is: the control, or one with skip modules of its own.
    network = architecture_of(described)["network_class_name"].rpartition(".")[2]
    if network in {known.__name__ for known in SUPPORTED} and any(
        key.startswith("implants.") for key in stored["network_weights"]
    ):
        settings = Settings.from_mapping(stored[SECTION]["settings"])
        exported["architecture"] = retrofit_architecture(described, settings)
    return result


def retrofit_architecture(described: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the `architecture` of plans for a retrofit of the network they describe."""
    architecture = architecture_of(described)
    built_by: dict[str, Any] = {
        key: getattr(settings, key) for key in STRUCTURAL if key != "implant"
    }
    if settings.implant == "convolution":
        built_by["genotype"] = "conv"
    else:
        built_by["skip"] = settings.implant
    kwargs = {"unet": architecture["network_class_name"], "settings": built_by}
    return {
        **architecture,
        "network_class_name": NETWORK,
        "arch_kwargs": {**kwargs, **architecture["arch_kwargs"]},
    }


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
