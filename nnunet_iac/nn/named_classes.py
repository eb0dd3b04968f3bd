"""The classes that plans may name for networks and layers: nothing else is imported or called."""

import pydoc
from collections.abc import Mapping
from typing import Any

from torch import nn

PLANNED_RETROFIT = "nnunet_iac.nn.planned_retrofit.planned_retrofit"
"""The one function that plans may name as their network: it builds exported retrofits."""

KNOWN_PACKAGES = ("torch.nn.", "dynamic_network_architectures.", "nnunet_iac.nn.")
UNETS = "dynamic_network_architectures.architectures.unet"
"""Where classes are that plans of older releases of nnU-Net name elsewhere in that package."""


def named_class(name: object) -> type[nn.Module]:
    """Return the class of a network or layer with a dotted name; any other name is a ValueError."""
    if isinstance(name, str) and name.startswith(KNOWN_PACKAGES):
        found: Any = pydoc.locate(name) or pydoc.locate(f"{UNETS}.{name.rpartition('.')[2]}")
        is_module = isinstance(found, type) and issubclass(found, nn.Module)
        # What those packages import themselves can be reached through their modules as well.
        if is_module and f"{found.__module__}.".startswith(KNOWN_PACKAGES):
            return found
    raise ValueError(
        "plans may name networks and layers of torch.nn, dynamic_network_architectures and "
        f"nnunet_iac.nn only, since whatever they name is run; got {name!r}: use plans of one of "
        "nnU-Net's planners, and none from a source that you do not trust"
    )


def require_named_classes(architecture: Mapping[str, Any]) -> None:
    """Check all that nnU-Net would import and call to build an `architecture` of plans."""
    kwargs = architecture["arch_kwargs"]
    names = [architecture["network_class_name"]]
    names += [kwargs.get(key) for key in architecture["_kw_requires_import"]]
    for name in [*names, kwargs.get("unet")]:
        if name not in (None, PLANNED_RETROFIT):
            named_class(name)
