"""Implantable Adaptive Cells for nnU-Net: search skip connections for a trained U-Net.

The names in `__all__` are the public API for PyTorch code that does not use nnU-Net's trainers;
`docs/reference/api.md` shows a search with them. Everything else is private and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # For type checkers, which take what `__getattr__` returns for Any.
    from nnunet_iac.nn.cell import CellShape, Layers
    from nnunet_iac.nn.discrete_cell import DiscreteCell
    from nnunet_iac.nn.planned_retrofit import retrofit
    from nnunet_iac.nn.search_cell import SearchCell
    from nnunet_iac.search.controls import random_genotype
    from nnunet_iac.search.discretisation import discretise
    from nnunet_iac.search.genotype import Genotype
    from nnunet_iac.search.pruning import Observation, advance, begin
    from nnunet_iac.search.relaxation import edge_weights, operation_weights

__version__ = "0.1.0"

__all__ = [
    "CellShape",
    "DiscreteCell",
    "Genotype",
    "Layers",
    "Observation",
    "SearchCell",
    "__version__",
    "advance",
    "begin",
    "discretise",
    "edge_weights",
    "operation_weights",
    "random_genotype",
    "retrofit",
]

_MODULES = {
    "CellShape": "nn.cell",
    "DiscreteCell": "nn.discrete_cell",
    "Genotype": "search.genotype",
    "Layers": "nn.cell",
    "Observation": "search.pruning",
    "SearchCell": "nn.search_cell",
    "advance": "search.pruning",
    "begin": "search.pruning",
    "discretise": "search.discretisation",
    "edge_weights": "search.relaxation",
    "operation_weights": "search.relaxation",
    "random_genotype": "search.controls",
    "retrofit": "nn.planned_retrofit",
}


def __getattr__(name: str) -> Any:
    """Return a public name from its module, imported on first use: it may need torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
