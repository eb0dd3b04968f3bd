"""A retrofit as a model folder of the stock nnUNetTrainer, whose plans name the network."""

import copy
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from nnunet_iac.host.networks import network_of
from nnunet_iac.host.plans import (
    SECTION,
    architecture_of,
    configuration_of,
    read_dataset,
    read_plans,
    require_identifier,
    require_known_networks,
)
from nnunet_iac.nn.named_classes import PLANNED_RETROFIT
from nnunet_iac.nn.retrofitted_unet import BACKBONE_PREFIXES, IMPLANT_PREFIX, SUPPORTED
from nnunet_iac.runs.atomic import UNFINISHED, content_of, naming, write_json
from nnunet_iac.runs.checkpoint import BEST, FINAL, MIRRORING, read_checkpoint
from nnunet_iac.runs.fold import EXPORTED_FROM, fold_folders, full_disk_named
from nnunet_iac.runs.genotype_source import still_searching
from nnunet_iac.runs.scores import VALIDATION_SUMMARY
from nnunet_iac.search.setting_parts import STRUCTURAL
from nnunet_iac.search.settings import Settings

TRAINER = "nnUNetTrainer"
MODEL_FILES = ("dataset.json", "dataset_fingerprint.json")
PICTURE = "progress.png"
"""Files that nnU-Net's export_model_to_zip needs, besides checkpoints and plans."""


@dataclass(frozen=True)
class Model:
    """A model folder TRAINER__PLANS__CONFIGURATION of nnU-Net, or one fold of it.

    `left_out` are folders of folds that lack the checkpoint.
    """

    folder: Path
    folds: tuple[Path, ...]
    configuration: str
    left_out: tuple[Path, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, as the model's plans describe it."""
        return configuration_of(read_plans(self.folder / "plans.json"), self.configuration)

    @property
    def is_second_stage(self) -> bool:
        """Whether it takes the predictions of a cascade's first stage besides images."""
        return self.config.get("previous_stage") is not None

    @classmethod
    def at(cls, path: Path, checkpoint: str = FINAL) -> "Model":
        """Return the model at a path: a model folder with its trained folds, or one fold."""
        if Path(checkpoint).name != checkpoint:
            raise ValueError(
                "a checkpoint must be named as it is called in every fold, such as "
                f"{BEST}; got {checkpoint!r}: leave its folder out"
            )
        # What a linked fold leads to has another name.
        is_fold = path.name.startswith("fold_")
        path = path.parent.resolve() / path.name if is_fold else path.resolve()
        folder = path.parent if path.name.startswith("fold_") else path
        if not (folder / "plans.json").is_file():
            raise FileNotFoundError(
                f"a fold or a model folder of nnU-Net must be named; {folder}/plans.json does not "
                "exist"
            )
        candidates = [path] if path != folder else fold_folders(folder)
        folds = tuple(fold for fold in candidates if (fold / checkpoint).is_file())
        if not folds:
            is_final = checkpoint == FINAL  # Asked for by default, of verbs that let one choose.
            raise FileNotFoundError(
                f"a fold must have been trained to its end; none of {path} has a {checkpoint}: "
                f"let the training finish{', or name another checkpoint with -chk' * is_final}"
            )
        left_out = tuple(fold for fold in candidates if fold not in folds)
        plans = read_plans(folder / "plans.json")
        with naming(folder / "plans.json"):
            require_known_networks(plans)
        return cls(folder, folds, model_configuration(folder, plans), left_out)

    @classmethod
    def final_or_best(cls, path: Path) -> tuple["Model", str]:
        """Return a model, and the checkpoint that it has: the final one, else the best."""
        with suppress(FileNotFoundError):
            return cls.at(path), FINAL
        return cls.at(path, BEST), BEST


def model_configuration(model: Path, plans: Mapping[str, Any]) -> str:
    """Return the configuration of a model folder, which may have been renamed."""
    name = model.name.split("__")[-1]
    files = (path for fold in fold_folders(model) for path in sorted(fold.glob("*.pth")))
    path = None if name in plans["configurations"] else next(files, None)
    if path is not None:
        with content_of(path):
            name = str(read_checkpoint(path)["init_args"]["configuration"])
    return name


@contextmanager
def exporting(model: Model, target: Path, checkpoint: str = FINAL) -> Iterator[list[Path]]:
    """Yield the folds of an exported model that takes its name when the block ends well.

    Whatever else belongs into the folder is written in the block; after an error nothing is left.
    The weights are those of the checkpoints, bit for bit. The plans' `network_class_name` builds
    the network, so that only this package must be installed, without its trainers being found.
    Where the target is called nnUNetTrainer__PLANS__CONF, as in nnU-Net's results, the plans are
    called so; else after the source.

    Raises:
        FileExistsError: the target exists.
        ValueError: a damaged checkpoint, one that is still searching, folds with other structures,
            or another configuration in the target's name.
    """
    require_new(target)
    plans = read_plans(file := model.folder / "plans.json")
    with naming(file):
        architecture_of(configuration_of(plans, model.configuration))
    plans = exported_plans(plans, model, target, checkpoint)
    dataset = read_dataset(model.folder / "dataset.json")
    wanted = network_of(plans, model.configuration, dataset).state_dict()
    with new_folder(target) as folder:
        write_json(folder / "plans.json", plans)
        _copy(model.folder, folder, MODEL_FILES)
        for fold in model.folds:
            (folder / fold.name).mkdir()
            content = exported_checkpoint(fold / checkpoint, plans, dataset, model.configuration)
            _require_described(content["network_weights"], wanted, fold)
            torch.save(content, folder / fold.name / FINAL)
            # The final validation is that of the final checkpoint.
            known = (PICTURE, VALIDATION_SUMMARY) if checkpoint == FINAL else (PICTURE,)
            _copy(fold, folder / fold.name, known)
        yield [folder / fold.name for fold in model.folds]


def _require_described(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], fold: Path
) -> None:
    """Check that a U-Net has the tensors of the one that is built from exported plans."""
    shapes = [
        {(name, side[name].shape) for name in side if name.startswith(BACKBONE_PREFIXES)}
        for side in (found, wanted)
    ]
    differ = sorted(name for name, _ in shapes[0] ^ shapes[1])
    if differ:
        raise ValueError(
            f"a model can be exported if its plans describe its network; {fold} has other "
            f"tensors, {differ[0]} among them: predict with its own trainer, which builds the "
            "network itself"
        )


def require_new(target: Path) -> None:
    """Check that a folder to be written does not exist."""
    if target.exists():
        raise FileExistsError(
            f"the model must go to a new folder; {target} exists: remove it, or name another"
        )


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the name of `target` when the block ends well."""
    require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    again = full_disk_named(target.parent, "run the same command again")
    with again, TemporaryDirectory(prefix=UNFINISHED, dir=target.parent) as unfinished:
        folder = Path(unfinished) / target.name
        folder.mkdir()
        yield folder
        folder.rename(target)


def predict_command(model: Model, target: Path) -> str:
    """Return the command that predicts with all folds of an exported model."""
    numbers = [fold.name.removeprefix("fold_") for fold in model.folds]
    words = ["-m", str(target), "-f", *numbers, "-i", "IMAGES", "-o", "OUT"]
    words += ["-prev_stage_predictions", "FOLDER"] if model.is_second_stage else []
    return shlex.join(["nnUNetv2_predict_from_modelfolder", *words])


def exported_checkpoint(
    path: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str
) -> dict[str, Any]:
    """Return what nnU-Net's predictor reads of a checkpoint, the weights as they are."""
    checkpoint = read_checkpoint(path)
    if still_searching(checkpoint["network_weights"]):
        raise ValueError(
            f"only a found cell can be exported; {path} is still searching: let the run end"
        )
    axes, fold = checkpoint.get(MIRRORING), path.parent.name
    given = plans, dataset, configuration, fold.removeprefix("fold_")
    return stock_checkpoint(checkpoint["network_weights"], axes, *given)


def stock_checkpoint(
    weights: Mapping[str, Any],
    mirroring: Any,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    configuration: str,
    fold: str,
) -> dict[str, Any]:
    """Return what nnU-Net's predictor reads of a checkpoint of nnUNetTrainer."""
    number = int(fold) if fold.isdecimal() else fold
    init = {"plans": plans, "configuration": configuration, "fold": number, "dataset_json": dataset}
    return {
        "network_weights": weights,
        "trainer_name": TRAINER,
        MIRRORING: mirroring,
        "init_args": init,
    }


def exported_plans(
    plans: Mapping[str, Any], model: Model, target: Path, checkpoint: str
) -> dict[str, Any]:
    """Return plans whose network is the retrofit, and which hold no setting of its training."""
    name = _plans_name(target, model, plans["plans_name"])
    require_identifier(name)
    config = configuration_of(plans, model.configuration)
    # Else a network that plans describe as it is: the control, or one with skip modules of its own.
    network = architecture_of(config)["network_class_name"].rpartition(".")[2]
    structure: Mapping[str, Any] = {}
    if network in {known.__name__ for known in SUPPORTED}:
        structure = shared_structure([fold / checkpoint for fold in model.folds])
    own = stock_plans(plans, name, model.configuration, structure)
    return {**own, EXPORTED_FROM: model.folder.name}


def stock_plans(
    plans: Mapping[str, Any], name: str, configuration: str, structure: Mapping[str, Any]
) -> dict[str, Any]:
    """Return plans of a retrofit with this structure, or the same network, without settings."""
    result = copy.deepcopy({**plans, "plans_name": name})
    for config in result["configurations"].values():
        config.pop(SECTION, None)
    if structure:
        config = configuration_of(plans, configuration)
        architecture = retrofit_architecture(config, structure)
        result["configurations"][configuration]["architecture"] = architecture
    return result


def shared_structure(checkpoints: Sequence[Path]) -> dict[str, Any]:
    """Return the structural settings that folds share; none of U-Nets without implants."""
    first, *others = checkpoints
    structure = _structure(first)
    for other in others:
        found = _structure(other)
        for key in ("implant", *STRUCTURAL):
            if found.get(key) != structure.get(key):
                raise ValueError(
                    f"the folds of a model must share their structural settings; {key} is "
                    f"{found.get(key)!r} in {other.parent.name} and {structure.get(key)!r} in "
                    f"{first.parent.name} of {first.parent.parent}: export each fold by itself"
                )
    return structure


def retrofit_architecture(
    config: Mapping[str, Any], structure: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the `architecture` of plans for a retrofit of the network they describe."""
    architecture = architecture_of(config)
    built_by = {key: value for key, value in structure.items() if key != "implant"}
    convolution = structure["implant"] == "convolution"
    built_by |= {"genotype": "conv"} if convolution else {"skip": structure["implant"]}
    kwargs = {"unet": architecture["network_class_name"], "settings": built_by}
    kwargs |= architecture["arch_kwargs"]
    return {**architecture, "network_class_name": PLANNED_RETROFIT, "arch_kwargs": kwargs}


def _plans_name(target: Path, model: Model, source: str) -> str:
    """Return the plans' name in a target called as in nnU-Net's results, else the source's."""
    parts = target.name.split("__")
    if len(parts) != 3 or parts[0] != TRAINER:
        return f"{source}_exported"
    if parts[2] != model.configuration:
        raise ValueError(
            f"a folder called {TRAINER}__PLANS__CONF must name the configuration of its model, "
            f"{model.configuration}; got {parts[2]}: call it "
            f"{TRAINER}__{parts[1]}__{model.configuration}"
        )
    return parts[1]


def _structure(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    if not any(key.startswith(IMPLANT_PREFIX) for key in checkpoint["network_weights"]):
        return {}
    with content_of(path), naming(path):
        return Settings.from_mapping(checkpoint[SECTION]["settings"]).cell.structure


def _copy(source: Path, target: Path, names: tuple[str | Path, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
