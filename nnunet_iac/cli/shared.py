"""What several verbs share."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add what names the plans that a verb starts from."""
    parser.add_argument("-d", metavar="ID", required=True, help="data set, id or name")
    parser.add_argument("-c", metavar="CONFIG", required=True, help="configuration, such as 2d")
    text = "plans to start from; they stay as they are (default: nnUNetPlans)"
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help=text)


def add_settings(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add --set."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--set", dest="assignments", metavar="KEY=VALUE", **many, help=meaning)


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values of --set by their present names; old ones are printed as deprecated."""
    from nnunet_iac.search.settings import parse_assignment, present_names

    values, deprecations = present_names(dict(map(parse_assignment, assignments)))
    for note in deprecations:
        print(f"warning: {note}", file=sys.stderr)
    return values


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add -device."""
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")


def numbers(text: str) -> list[int]:
    """Read numbers with commas between them."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f"must be whole numbers with commas, such as 64,32,16,8,4; got {text}"
        )
    return [int(word) for word in words]


def require_extra(extra: str, *modules: str) -> None:
    """Check that an extra is installed; else raise a RuntimeError."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"this needs the extra {extra}; {', '.join(missing)} is not installed: run "
            f"`pip install 'nnunet-iac[{extra}]'`"
        )
