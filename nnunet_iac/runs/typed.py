"""Objects of a record's classes from the values of JSON files and checkpoints, checked."""

import dataclasses
import math
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

INTEGER_BOUND = 2**63
"""Whole numbers of a record are below it; JSON has longer ones, which count nothing."""


def typed(kind: type[Record], value: Any, name: str = "it") -> Record:
    """Return a value as a type: a dataclass from a mapping of its fields, and what these hold.

    Raises:
        ValueError: a field that is missing or unknown, a value of another type, or a number that is
            not finite; the message has its name.
    """
    whole: Any = kind  # Type checkers know neither unions nor generic types as types.
    origin, inner = get_origin(whole), get_args(whole)
    found: Any = value
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        found = whole(**_fields(whole, value))
    elif origin is UnionType:
        matching = [one for one in inner if _is(get_origin(one) or one, value)]
        found = typed((*matching, inner[0])[0], value, name)
    elif not _is(origin or whole, value):
        wanted = getattr(whole, "__name__", whole)
        raise ValueError(f"{name} must be of type {wanted}; got {type(value).__name__}")
    elif origin is dict:
        found = {key: typed(inner[1], entry, f"{name}.{key}") for key, entry in value.items()}
    elif origin is list:
        found = [typed(inner[0], entry, name) for entry in value]
    elif isinstance(value, int) and abs(value) >= INTEGER_BOUND:
        raise ValueError(f"{name} must be below 2**63")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {value}")
    made: Record = found
    return made


def _fields(kind: Any, value: dict[str, Any]) -> dict[str, Any]:
    types = get_type_hints(kind)
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory}
    if lacking := sorted(needed - value.keys()):
        raise ValueError(f"a {kind.__name__} must have {', '.join(lacking)}")
    if unknown := sorted(value.keys() - types.keys()):
        raise ValueError(f"a {kind.__name__} must not have {', '.join(unknown)}")
    return {key: typed(types[key], entry, key) for key, entry in value.items()}


def _is(kind: Any, value: Any) -> bool:
    """Return whether a value is of a class; true and false are no numbers."""
    if kind is Any or isinstance(value, bool):
        return kind in (Any, bool)
    return isinstance(value, (int, float) if kind is float else kind)
