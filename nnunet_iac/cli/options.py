"""The options that several verbs share, each defined once, and the form of every help text."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_iac.host.devices import DEVICES

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Verb: TypeAlias = Callable[[argparse.Namespace], int]


class HelpText(argparse.HelpFormatter):
    """Keeps indented lines as they are, wraps the others, and states every default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrap = super()._fill_text
        lines = text.splitlines()
        return "\n".join(x if x[:1] in ("", " ") else wrap(x, width, indent) for x in lines)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        values = default if isinstance(default, list) else [default]
        shown = [str(x) for x in values if x not in (None, argparse.SUPPRESS) and x is not False]
        if not shown or "(default:" in text:
            return text
        return f"{text} (default: {' '.join(shown)})"


class _Listed(tuple[str, ...]):
    """Allowed words; a value is one of them, or several with commas between them."""

    def __contains__(self, value: object) -> bool:
        return all(super(_Listed, self).__contains__(word) for word in str(value).split(","))


class ListOf(argparse.Action):
    """Reads values with spaces, as nnU-Net's commands do, or commas between them."""

    def __init__(
        self, *, of: Callable[[str], Any], choices: Sequence[str] | None = None, **keywords: Any
    ) -> None:
        super().__init__(nargs="+", choices=choices and _Listed(choices), **keywords)
        self.of = of

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Set the attribute to the values."""
        words = [word for value in values for word in value.split(",")]
        try:
            setattr(namespace, self.dest, [self.of(word) for word in words])
        except ValueError:
            text = f"must be whole numbers with spaces between them; got {' '.join(values)}"
            raise argparse.ArgumentError(self, text) from None


def add_verb(
    verbs: Verbs, name: str, summary: str, more: str = "", *, run: Verb | None, examples: str
) -> argparse.ArgumentParser:
    """Add a verb whose help has a description and examples.

    Args:
        verbs: where it is added.
        name: what users type.
        summary: what it does, without a full stop; the list of verbs shows it.
        more: further sentences of the description.
        run: what the verb does; None if it has verbs of its own.
        examples: commands, one a line.
    """
    lines = [f"  {line.strip()}" for line in examples.strip().splitlines()]
    title = "example:" if len(lines) == 1 else "examples:"
    parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
        epilog="\n".join([title, *lines]),
        formatter_class=HelpText,
    )
    parser.set_defaults(verb=run, usage_error=parser.error)
    return parser


def add_dataset(parser: argparse.ArgumentParser, meaning: str = "data set") -> None:
    """Add -d, which must be given."""
    parser.add_argument("-d", metavar="DATASET", required=True, help=f"{meaning}, id or name")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add -c, which must be given."""
    text = "configuration of the plans, such as 2d or 3d_fullres"
    parser.add_argument("-c", metavar="CONFIG", required=True, help=text)


def add_plans(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add -p."""
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help=meaning)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add -d, -c and -p, which name the plans that a verb starts from."""
    add_dataset(parser)
    add_configuration(parser)
    add_plans(parser, "plans to start from; they are not changed")


def add_trainer(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add -tr."""
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help=meaning)


def add_fold(
    parser: argparse.ArgumentParser, meaning: str, of: Callable[[str], Any], default: Any = None
) -> None:
    """Add -f for one fold."""
    parser.add_argument("-f", metavar="FOLD", type=of, default=default, help=meaning)


def add_folds(
    parser: argparse.ArgumentParser, meaning: str, of: Callable[[str], Any], default: list[Any]
) -> None:
    """Add -f for any number of folds."""
    keywords: dict[str, Any] = {"action": ListOf, "of": of, "default": default}
    parser.add_argument("-f", metavar="FOLD", **keywords, help=meaning)


def add_new_plans(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add -o for an identifier of new plans, which must be given if it has no default."""
    text = "identifier of the new plans" + (f" (default: {default})" if default else "")
    parser.add_argument("-o", metavar="NEW_PLANS", required=default is None, help=text)


def add_output(
    parser: argparse.ArgumentParser, metavar: str, meaning: str, **keywords: Any
) -> None:
    """Add -o for a file or a folder."""
    parser.add_argument("-o", metavar=metavar, type=Path, help=meaning, **keywords)


def add_settings(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add --set."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    text = f"{meaning}, such as seed=1; may be repeated (default: none)"
    parser.add_argument("--set", dest="assignments", metavar="KEY=VALUE", **many, help=text)


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values of --set by their present names; old ones are printed as deprecated."""
    from nnunet_iac.search.settings import parse_assignment, present_names

    values, deprecations = present_names(dict(map(parse_assignment, assignments)))
    for note in deprecations:
        print(f"warning: {note}", file=sys.stderr)
    return values


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add -device."""
    text = "where to compute (default: cuda if torch finds a GPU, else cpu)"
    parser.add_argument("-device", choices=DEVICES, help=text)


def device_of(arguments: argparse.Namespace) -> str:
    """Return the device that was given, or the default; print it, and check that it can be used."""
    from nnunet_iac.host.devices import default_device, require_device

    device: str = arguments.device or default_device()
    require_device(device)
    print(f"device: {device}", file=sys.stderr, flush=True)
    return device


def add_dry_run(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help=meaning)


def require_extra(extra: str, *modules: str) -> None:
    """Check that an extra is installed; else raise a RuntimeError."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"this needs the extra {extra}; {', '.join(missing)} is not installed: run "
            f"`pip install '.[{extra}]'` in the clone"
        )
