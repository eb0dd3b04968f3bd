"""nnU-Net's networks, built from plans."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_iac.host.plans import architecture_of


@contextmanager
def built_from_plans() -> Iterator[None]:
    """Raise a ValueError on the plans where a network cannot be built from them."""
    faults = (TypeError, LookupError, AttributeError, ImportError, AssertionError, ValueError)
    try:
        yield
    except faults as error:
        raise ValueError(
            'the network that plans describe under "architecture" must be one that can be built; '
            f"it is not ({type(error).__name__}: {error}): make the plans again with "
            "nnUNetv2_plan_experiment"
        ) from error


def planned_network(
    plans_manager: Any,
    configuration_manager: Any,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """Return nnU-Net's network of the plans, which every backbone is."""
    managers = plans_manager, configuration_manager
    sizes = num_input_channels, num_output_channels, enable_deep_supervision
    architecture_of(configuration_manager.configuration)
    with built_from_plans():
        return nnUNetTrainer.build_network_architecture(*managers, *sizes)


def network_of(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> nn.Module:
    """Return a new network of the plans for the channels and labels of a data set, on the CPU."""
    with built_from_plans():
        manager = PlansManager(plans)
        config = manager.get_configuration(configuration)
        channels = determine_num_input_channels(manager, config, dataset_json)
        heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    return planned_network(manager, config, channels, heads)
