"""Models of nnU-Net with random weights, and retrofits of them, made up for tests."""

from pathlib import Path
from typing import Any

import torch
from planned_unets import architecture

from nnunet_iac import random_genotype, retrofit
from nnunet_iac.adaptation.adapter import BACKBONE_PREFIXES, Adapter, plans_digest
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import FINAL, tensors_hash
from nnunet_iac.search.setting_parts import CellConfig

DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "head": 1, "tail": 2},
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
}
ORIGIN = {"dataset": "Dataset030_Site", "trainer": "nnUNetTrainerIACLTH", "version": "0.1.0"}


def planned(dimension: int, network: str = "PlainConvUNet", **changes: Any) -> dict[str, Any]:
    """Return the configuration of a small network."""
    return {
        "data_identifier": "nnUNetPlans_own",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": [1.0] * dimension,
        "patch_size": [16] * dimension,
        "batch_size": 2,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture(dimension, (4, 8, 8), 1, network),
        **changes,
    }


def write_model(results: Path, configuration: str, config: dict[str, Any], seed: int = 0) -> Path:
    """Write the model of a data set, trained in fold 0; return its folder."""
    plans = {
        "dataset_name": "Dataset027_Source",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {configuration: config},
    }
    folder = results / "Dataset027_Source" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    (folder / "fold_0").mkdir(parents=True)
    torch.manual_seed(seed)
    source = SourceModel(folder / "fold_0" / FINAL, configuration, plans, DATASET)
    init = {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": DATASET}
    checkpoint = {
        "network_weights": source.network().state_dict(),
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
        "init_args": init,
    }
    torch.save(checkpoint, source.checkpoint)
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", DATASET)
    return folder


def adapted(model: Path, **cell: Any) -> tuple[torch.nn.Module, Adapter]:
    """Return a retrofit of a model whose implants have random weights, and its adapter."""
    source = SourceModel.at(model)
    config = CellConfig(min_channels=4, **cell)
    backbone = source.network()
    backbone.load_state_dict(source.read().weights)
    genotype = random_genotype(3) if config.implant == "cell" else None
    network = retrofit(backbone, genotype, **config.network_arguments()).eval()
    own = [p for n, p in network.named_parameters() if not n.startswith(BACKBONE_PREFIXES)]
    with torch.no_grad():
        for parameter in own:  # Else gates that start at zero would hide the cells.
            parameter.add_(0.1 * torch.rand_like(parameter))
    sides: tuple[dict[str, torch.Tensor], ...] = ({}, {})
    for name, tensor in network.state_dict().items():
        sides[name.startswith(BACKBONE_PREFIXES)][name] = tensor.clone()
    digest = plans_digest(source.plans, source.configuration)
    made = Adapter(sides[0], config.structure, tensors_hash(sides[1]), digest, None, ORIGIN)
    return network, made
