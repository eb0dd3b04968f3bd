"""Parameters and multiply-accumulates of discrete cells."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.space import OPERATIONS

FREE = "max_pool_3x3"
"""The operation with neither weights nor products, so that a cell of it alone is the cheapest."""

QUANTITY_NAMES = {"parameters": "parameters", "macs": "MACs"}
"""Names of the counted quantities in texts, by their field of `Cost`."""


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates for one patch."""

    parameters: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


@dataclass(frozen=True)
class CellCosts:
    """Costs of the parts of a discrete cell, summed over all skip levels.

    Args:
        backbone: the frozen network, which the limits are relative to.
        fixed: what every cell has: projections, output convolution, gate.
        operations: one edge with an operation; all edges are equally wide, so it may be any.
    """

    backbone: Cost
    fixed: Cost
    operations: dict[str, Cost]

    def __post_init__(self) -> None:
        if set(self.operations) != set(OPERATIONS):
            raise ValueError(
                f"costs must be given of exactly the operations {', '.join(OPERATIONS)}; got "
                f"{', '.join(self.operations)}"
            )
        if not (self.backbone.parameters > 0 and self.backbone.macs > 0):
            raise ValueError(f"a backbone must have parameters and MACs; got {self.backbone}")
        if self.operations[FREE] != Cost(0, 0):
            raise ValueError(f"{FREE} must cost nothing; got {self.operations[FREE]}")

    def of(self, genotype: Genotype) -> Cost:
        """Return what the cells of all levels add to the backbone with a genotype."""
        edges = (self.operations[choice.operation] for choice in genotype.choices)
        return sum(edges, self.fixed)

    def to_document(self) -> dict[str, Any]:
        """Return the costs as their JSON document."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Any) -> "CellCosts":
        """Return the costs of a JSON document of `to_document`; more entries are ignored."""
        parts = ("backbone", "fixed", "operations")
        if not isinstance(document, Mapping) or not all(part in document for part in parts):
            raise ValueError(
                f"costs of cells must be a JSON object with {', '.join(parts)}; got {document!r}"
            )
        operations = document["operations"]
        if not isinstance(operations, Mapping):
            raise ValueError(f"costs of operations must be a JSON object; got {operations!r}")
        return cls(
            _cost(document["backbone"]),
            _cost(document["fixed"]),
            {name: _cost(operations[name]) for name in operations},
        )


def _cost(entry: Any) -> Cost:
    try:
        counts = [entry[quantity] for quantity in QUANTITY_NAMES]
    except (KeyError, TypeError) as error:
        raise ValueError(f'a cost must have "parameters" and "macs"; got {entry!r}') from error
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"a cost must be made of integers >= 0; got {entry!r}")
    return Cost(*counts)
