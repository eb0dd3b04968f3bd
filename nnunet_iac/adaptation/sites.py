"""The sites of an adapted run: its own, and that of its backbone's training cases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nnunet_iac.adaptation.choice import NO_ADAPTER, Features, Site, statistics
from nnunet_iac.host.networks import network_of
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import configuration_of
from nnunet_iac.host.preprocessed import preprocessed_dataset
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.setting_parts import DataConfig
from nnunet_iac.training.source_cases import AdaptedRun, source_training_cases

SITE = "site"
"""The name of an adapter's own site in its file."""

CASES = 40
"""At most so many cases of a site are looked at, evenly spread."""

LEAST = 2
"""Cases of the source without which there is no spread."""


def sites_of_run(
    fold: Path, checkpoint: Mapping[str, Any], device: str, log: Callable[[str], None]
) -> tuple[dict[str, Site], Tensor | None]:
    """Return the sites of a run and the spread of their statistics, as far as data are at hand.

    Args:
        fold: the run's fold folder.
        checkpoint: its final checkpoint.
        device: where to compute the statistics.
        log: gets a line on data that are missing.
    """
    init = checkpoint["init_args"]
    encoder = backbone_network(init, checkpoint["network_weights"], device).encoder
    patch = configuration_of(init["plans"], init["configuration"])["patch_size"]
    try:
        ours, source = (
            [statistics(encoder, x, patch, device) for x in images]
            for images in _cases_of_both(RunFolder.of_fold(fold), checkpoint)
        )
    except (OSError, ValueError, RuntimeError) as error:
        log(f"the adapter cannot be chosen by --adapter auto: {error}")
        return {}, None
    return described(ours, source)


def _cases_of_both(
    record: RunFolder, checkpoint: Mapping[str, Any]
) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
    """Return the images of a run's training cases, and of those of its source."""
    init = checkpoint["init_args"]
    cases, name = record.read_split()["training"], init["plans"]["dataset_name"]
    folder = preprocessed_folder(name)
    run = AdaptedRun(name, init["dataset_json"], cases, DataConfig())
    source = source_training_cases(record.read_backbone(), run, folder.parent)
    if len(source.cases) < LEAST:
        raise ValueError(
            f"the source must have at least {LEAST} training cases for a spread; {source.dataset} "
            f"has {len(source.cases)}"
        )
    config = configuration_of(init["plans"], init["configuration"])
    own = _images(folder / config["data_identifier"], cases)
    return own, _images(source.data, source.cases)


def described(
    ours: Sequence[Features], source: Sequence[Features]
) -> tuple[dict[str, Site], Tensor]:
    """Return both sites and the spread of the statistics of their cases."""
    spread = torch.stack(list(source)).std(0).clamp_min(1e-6)
    return {SITE: Site.of(ours, spread), NO_ADAPTER: Site.of(source, spread)}, spread


def looked_at(cases: Sequence[str]) -> list[str]:
    """Return those cases of a site that describe it, at most `CASES`."""
    return sorted(cases)[:: -(-len(cases) // CASES)]


def backbone_network(
    init: Mapping[str, Any], weights: Mapping[str, Tensor], device: str
) -> nn.Module:
    """Return the plans' network with the backbone's part of a retrofit's weights, for inference."""
    network = network_of(init["plans"], init["configuration"], init["dataset_json"])
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    return network.to(device).eval()


def _images(folder: Path, cases: Sequence[str]) -> Iterator[Tensor]:
    """Return the preprocessed images that describe a site, one in memory at a time."""
    dataset = preprocessed_dataset(folder, cases)
    shown = tqdm(looked_at(cases), desc=f"cases of {folder.parent.name}")
    return (torch.from_numpy(dataset.load_case(case)[0][:]) for case in shown)
