"""A genotype: the two edges every intermediate node keeps, with one operation each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_iac.search.space import EDGES, EDGES_PER_NODE, INTERMEDIATE_NODES, OPERATIONS, Edge

FORMAT = "nnunet-iac genotype"
VERSION = 1
NOT_KEPT = -1
"""Code of an edge that the genotype leaves out."""
UNDECIDED = -2
"""Code of every edge of a network that is still searching."""


@dataclass(frozen=True)
class Choice:
    """One kept edge and the operation it carries."""

    edge: Edge
    operation: str


@dataclass(frozen=True)
class Genotype:
    """The found cell: eight choices in the order of `EDGES`, two into every intermediate node.

    Raises:
        ValueError: an unknown operation, an edge outside the search space, a duplicate edge, or a
            node without exactly two incoming edges; the message names it.
    """

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        for choice in self.choices:
            if choice.operation not in OPERATIONS:
                raise ValueError(
                    f"an operation of a genotype must be one of {', '.join(OPERATIONS)}; edge "
                    f"{choice.edge} has {choice.operation!r}"
                )
            if choice.edge not in EDGES:
                raise ValueError(
                    "an edge of a genotype must run from a node to a later one among 2 to 5; "
                    f"got {choice.edge}"
                )
        edges = [choice.edge for choice in self.choices]
        for edge in edges:
            if edges.count(edge) > 1:
                raise ValueError(
                    f"a genotype must name every edge at most once; {edge} is a duplicate"
                )
        for node in INTERMEDIATE_NODES:
            incoming = sum(edge.target == node for edge in edges)
            if incoming != EDGES_PER_NODE:
                raise ValueError(
                    f"every intermediate node of a genotype must have {EDGES_PER_NODE} incoming "
                    f"edges; node {node} has {incoming}"
                )
        in_order = sorted(self.choices, key=lambda choice: EDGES.index(choice.edge))
        object.__setattr__(self, "choices", tuple(in_order))

    @property
    def operations(self) -> dict[Edge, str]:
        """The operation of every kept edge."""
        return {choice.edge: choice.operation for choice in self.choices}

    def to_codes(self) -> list[int]:
        """Return one integer per edge of `EDGES`: the operation's index, or `NOT_KEPT`."""
        kept = self.operations
        return [OPERATIONS.index(kept[e]) if e in kept else NOT_KEPT for e in EDGES]

    @classmethod
    def from_codes(cls, codes: Sequence[Any]) -> "Genotype":
        """Return the genotype that `to_codes` encoded.

        Raises:
            ValueError: not one code per edge, an impossible code, or an invalid genotype.
        """
        if len(codes) != len(EDGES):
            raise ValueError(
                f"a genotype must have one code per edge, {len(EDGES)}; got {len(codes)}"
            )
        for code in codes:
            if type(code) is not int or not NOT_KEPT <= code < len(OPERATIONS):
                raise ValueError(
                    f"a code of a genotype must be an integer from {NOT_KEPT} to "
                    f"{len(OPERATIONS) - 1}; got {code!r}"
                )
        kept = ((edge, code) for edge, code in zip(EDGES, codes, strict=True) if code != NOT_KEPT)
        return cls(tuple(Choice(edge, OPERATIONS[code]) for edge, code in kept))

    def to_document(self) -> dict[str, Any]:
        """Return the genotype as its JSON document; operations by name, never by index."""
        edges = [{**c.edge._asdict(), "operation": c.operation} for c in self.choices]
        return {"format": FORMAT, "version": VERSION, "edges": edges}

    @classmethod
    def from_document(cls, document: Any) -> "Genotype":
        """Return the genotype of a JSON document written by `to_document`.

        Raises:
            ValueError: another format or version, missing fields, or an invalid genotype.
        """
        if not isinstance(document, Mapping):
            raise ValueError(f"a genotype document must be a JSON object; got {document!r}")
        if document.get("format") != FORMAT:
            found = document.get("format")
            raise ValueError(f'a genotype document must have "format": "{FORMAT}"; got {found!r}')
        if type(document.get("version")) is not int or document["version"] != VERSION:
            raise ValueError(
                f"this release reads genotype version {VERSION}; the document has version "
                f"{document.get('version')!r}"
            )
        edges = document.get("edges")
        if not isinstance(edges, list):
            raise ValueError(
                f'a genotype document must list its edges under "edges"; got {edges!r}'
            )
        return cls(tuple(_choice(entry) for entry in edges))

    def __str__(self) -> str:
        """The cell as text, one line per node."""
        terms = [(c.edge.target, f"{c.operation}(v{c.edge.source})") for c in self.choices]
        return "\n".join(
            f"v{node} = " + " + ".join(term for target, term in terms if target == node)
            for node in INTERMEDIATE_NODES
        )


def _choice(entry: Any) -> Choice:
    try:
        source, target, operation = entry["source"], entry["target"], entry["operation"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'an edge of a genotype must have "source", "target" and "operation"; got {entry!r}'
        ) from error
    if type(source) is not int or type(target) is not int:
        raise ValueError(f"the nodes of an edge must be integers; got {entry!r}")
    if not isinstance(operation, str):
        raise ValueError(f"the operation of an edge must be a name; got {entry!r}")
    return Choice(Edge(source, target), operation)
