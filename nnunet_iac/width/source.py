"""Plans that a width is chosen for, and the trainer that builds their network."""

import copy
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_iac.host.networks import built_from_plans
from nnunet_iac.host.planning import (
    CONTINUE_TRAINER,
    FULL_TRAINER,
    preprocessed_folder,
    source_plans,
)
from nnunet_iac.host.plans import architecture_of, configuration_of, read_dataset, require_trainable
from nnunet_iac.host.trainer_lookup import find_trainer
from nnunet_iac.nn.cost import network_cost
from nnunet_iac.search.cost import Cost
from nnunet_iac.width.candidates import Candidate, capped


@dataclass(frozen=True)
class Source:
    """Plans of a preprocessed data set, one of their configurations, and a trainer.

    Args:
        folder: of the preprocessed data set.
        plans: as nnU-Net wrote them.
        configuration: a name in the plans, not the second stage of a cascade.
        dataset: the content of dataset.json.
        trainer: a trainer of nnU-Net's kind; only its `build_network_architecture` is used.
    """

    folder: Path
    plans: dict[str, Any]
    configuration: str
    dataset: dict[str, Any]
    trainer: Any

    def __post_init__(self) -> None:
        require_trainable(self.config)
        if self.config.get("previous_stage") is not None:
            raise ValueError(
                f"a width is chosen on images alone; {self.configuration} also takes the labels "
                f"of {self.config['previous_stage']}: choose that one's width"
            )

    @classmethod
    def of_plans(cls, dataset: str, configuration: str, plans: str, trainer: str) -> "Source":
        """Return the source for names as nnU-Net's commands take them."""
        if trainer.startswith((FULL_TRAINER, CONTINUE_TRAINER)):
            raise ValueError(
                "-tr names the trainer of the backbone, whose width is chosen; got "
                f"{trainer}, which starts from a backbone: leave it out, or name nnU-Net's"
            )
        folder = preprocessed_folder(dataset)
        content = source_plans(folder, configuration, plans)
        data = read_dataset(folder / "dataset.json")
        return cls(folder, content, configuration, data, find_trainer(trainer))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration with what it inherits filled in."""
        return configuration_of(self.plans, self.configuration)

    @property
    def architecture(self) -> dict[str, Any]:
        """The network in the plans."""
        return architecture_of(self.config)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """In voxels, one number per axis."""
        return tuple(self.config["patch_size"])

    @property
    def data_folder(self) -> Path:
        """Where the preprocessed cases of the configuration lie."""
        return self.folder / self.config["data_identifier"]

    @property
    def input_channels(self) -> int:
        """Channels of the images."""
        manager = PlansManager(self.plans)
        return int(determine_num_input_channels(manager, self.configuration, self.dataset))

    def digest(self) -> str:
        """Return the SHA-256 of the configuration as JSON with sorted keys."""
        text = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def network(self, cap: int, seed: int) -> Any:
        """Return the trainer's network under a cap, on the CPU, without deep supervision.

        Its initial weights depend on `seed` alone; torch's global random state is left
        as it was.
        """
        plans = copy.deepcopy(self.plans)
        plans["configurations"][self.configuration]["architecture"] = capped(self.architecture, cap)
        manager = PlansManager(plans)
        configuration = manager.get_configuration(self.configuration)
        with built_from_plans():
            heads = manager.get_label_manager(self.dataset).num_segmentation_heads
        build = self.trainer.build_network_architecture
        if "plans_manager" in inspect.signature(build).parameters:
            arguments: tuple[Any, ...] = (manager, configuration)
        else:  # The signature of nnU-Net's earlier trainers, which it still takes.
            arguments = (
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
            )
        with torch.random.fork_rng(devices=[]), built_from_plans():
            torch.default_generator.manual_seed(seed)
            return build(*arguments, self.input_channels, heads, False)

    def cost(self, cap: int) -> Cost:
        """Return the parameters of a candidate, and the MACs of one patch; nothing is computed."""
        network = self.network(cap, seed=0).to("meta")
        return network_cost(network, self.input_channels, self.patch_size)

    def costs(self, candidates: Sequence[Candidate]) -> tuple[Cost, ...]:
        """Return the cost of every candidate, the widest first; the networks must shrink."""
        found = tuple(self.cost(candidate.cap) for candidate in candidates)
        pairs = zip(pairwise(candidates), pairwise(found), strict=True)
        for (wide, narrow), (large, small) in pairs:
            if small.parameters >= large.parameters:
                raise ValueError(
                    "the trainer must build the widths that plans describe; the network of "
                    f"{self.trainer.__name__} has {large.parameters} parameters under the cap "
                    f"{wide.cap} and {small.parameters} under {narrow.cap}: choose the width with "
                    "another trainer"
                )
        return found
