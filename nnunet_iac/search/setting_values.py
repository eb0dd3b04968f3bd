"""Types and ranges of settings, and the check of a part of them."""

import functools
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class Constraint:
    """What the value of a setting must fulfil beyond its type, in words and as a predicate."""

    allowed: str
    holds: Callable[[Any], bool]


def at_least(minimum: int) -> Constraint:
    """Return the rule of a least value that is allowed."""
    return Constraint(f">= {minimum}", lambda value: value >= minimum)


def above(minimum: int) -> Constraint:
    """Return the rule of a bound that is not allowed itself."""
    return Constraint(f"> {minimum}", lambda value: value > minimum)


def _valid_betas(betas: tuple[float, float]) -> bool:
    return all(0 <= value < 1 for value in betas)


def _valid_pattern(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


BELOW_THE_POLE = Constraint("(0, pi/2)", lambda value: 0 < value < math.pi / 2)
SHARE = Constraint("(0, 1]", lambda value: 0 < value <= 1)
NODE_COUNT = Constraint("1, 2, 3 or 4", lambda value: 1 <= value <= 4)
ADAM_BETAS = Constraint("two numbers in [0, 1)", _valid_betas)
PATTERN = Constraint("a valid regular expression", _valid_pattern)
SEED = Constraint("0 to 2^64 - 1, as torch takes it", lambda value: 0 <= value < 2**64)


def is_text(annotation: Any) -> bool:
    """Return whether a setting of this type is a text, or one of several."""
    choices = get_args(annotation)
    return annotation is str or str in choices or get_origin(annotation) is Literal


def converted(name: str, value: Any, annotation: Any) -> Any:
    """Return `value` as the type of its setting; integers become floats, lists become tuples.

    Raises:
        ValueError: of another type, or none of the words that are allowed.
    """
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            allowed = ", ".join(get_args(annotation))
            raise ValueError(f"setting {name!r} must be one of {allowed}; got {value!r}")
        return value
    if get_origin(annotation) is types.UnionType:
        if value is None:
            return None
        annotation = get_args(annotation)[0]
    convert, expected = _CONVERSIONS[annotation]
    found = convert(value)
    if found is None:
        raise ValueError(
            f"setting {name!r} must be {expected}; got {value!r} ({type(value).__name__})"
        )
    return found


def _as_int(value: Any) -> int | None:
    return value if type(value) is int else None


def _as_float(value: Any) -> float | None:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_bool(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _as_pair(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    first, second = _as_float(value[0]), _as_float(value[1])
    return None if first is None or second is None else (first, second)


_CONVERSIONS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_as_int, "an integer"),
    float: (_as_float, "a finite number"),
    bool: (_as_bool, "true or false"),
    str: (_as_text, "a non-empty text"),
    tuple[float, float]: (_as_pair, "a list of two numbers"),
}


class CheckedPart:
    """A frozen dataclass whose fields are converted to their types and checked.

    Raises:
        ValueError: a value of the wrong type or outside its range; the message names the key, the
            value and what is allowed.
    """

    def __post_init__(self) -> None:
        part: Any = type(self)
        for name, annotation in field_types(part).items():
            value = converted(name, getattr(self, name), annotation)
            constraint = _constraints(part).get(name)
            if constraint is not None and value is not None and not constraint.holds(value):
                raise ValueError(f"setting {name!r} must be {constraint.allowed}; got {value!r}")
            object.__setattr__(self, name, value)


@functools.cache
def field_types(part: Any) -> dict[str, Any]:
    """Return the type of every field of a part."""
    return typing.get_type_hints(part)


@functools.cache
def _constraints(part: Any) -> dict[str, Constraint]:
    hints = typing.get_type_hints(part, include_extras=True)
    return {
        name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated
    }
