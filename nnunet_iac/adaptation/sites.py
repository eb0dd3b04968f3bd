"""The sites of an adapted run: its own, and that of its backbone's training cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_iac.adaptation.choice import NO_ADAPTER, Features, Site, statistics
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.checkpoint import read_checkpoint
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import configuration_of
from nnunet_iac.training.backbone import planned_network

SITE = "site"
"""The name of an adapter's own site in its file."""

CASES = 40
"""At most so many cases of a site are looked at, evenly spread."""

LEAST = 2
"""Cases of the source without which there is no spread."""


def sites_of_run(
    fold: Path, checkpoint: Mapping[str, Any], log: Any
) -> tuple[dict[str, Site], Tensor | None]:
    """Return the sites of a run and the spread of their statistics, as far as data are at hand.

    Args:
        fold: the run's fold folder.
        checkpoint: its final checkpoint.
        log: gets a line on data that are missing.
    """
    record = RunFolder.of_fold(fold)
    try:
        source_init = read_checkpoint(Path(record.read_backbone().path))["init_args"]
        own = _images(checkpoint["init_args"], record_split(record))
        theirs = _images(source_init, _training_cases(source_init))
        if len(theirs) < LEAST:
            raise FileNotFoundError(
                f"the source has {len(theirs)} training case, and needs {LEAST}"
            )
    except (FileNotFoundError, RuntimeError) as error:
        log(f"the adapter cannot be chosen by --adapter auto: {error}")
        return {}, None
    encoder = backbone_network(checkpoint["init_args"], checkpoint["network_weights"]).encoder
    init = checkpoint["init_args"]
    patch = configuration_of(init["plans"], init["configuration"])["patch_size"]
    ours, source = ([statistics(encoder, x, patch) for x in images] for images in (own, theirs))
    return described(ours, source)


def described(
    ours: Sequence[Features], source: Sequence[Features]
) -> tuple[dict[str, Site], Tensor]:
    """Return both sites and the spread of the statistics of their cases."""
    spread = torch.stack(list(source)).std(0).clamp_min(1e-6)
    return {SITE: Site.of(ours, spread), NO_ADAPTER: Site.of(source, spread)}, spread


def record_split(record: RunFolder) -> list[str]:
    """Return the training cases of a run."""
    cases: list[str] = read_json(record.split_file)["training"]
    return cases


def backbone_network(init: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the plans' network with the backbone's part of a retrofit's weights, for inference."""
    manager = PlansManager(init["plans"])
    config = manager.get_configuration(init["configuration"])
    channels = determine_num_input_channels(manager, config, init["dataset_json"])
    heads = manager.get_label_manager(init["dataset_json"]).num_segmentation_heads
    network = planned_network(manager, config, channels, heads)
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    return network.eval()


def _training_cases(init: Mapping[str, Any]) -> list[str]:
    """Return the cases a model was trained on, by the splits of its data set."""
    folder = preprocessed_folder(init["plans"]["dataset_name"])
    path, fold = folder / "splits_final.json", init["fold"]
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    splits = read_json(path)
    if fold != "all" and int(fold) >= len(splits):
        raise FileNotFoundError(f"{path} has no fold {fold}")
    if fold == "all":
        return [case for side in splits[0].values() for case in side]
    cases: list[str] = splits[int(fold)]["train"]
    return cases


def _images(init: Mapping[str, Any], cases: Sequence[str]) -> list[Tensor]:
    """Return preprocessed images of at most `CASES` cases."""
    plans = init["plans"]
    identifier = configuration_of(plans, init["configuration"])["data_identifier"]
    folder = preprocessed_folder(plans["dataset_name"]) / identifier
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"{folder} has no preprocessed cases")
    dataset = infer_dataset_class(str(folder))(str(folder), list(cases))
    shown = sorted(dataset.identifiers)[:: -(-len(cases) // CASES)]
    return [torch.from_numpy(dataset.load_case(case)[0][:]) for case in shown]
