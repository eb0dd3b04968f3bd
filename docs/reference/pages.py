"""Write the reference pages commands.md, settings.md and messages.md from the code.

python docs/reference/pages.py
"""

import argparse
import ast
import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from nnunet_iac import cli
from nnunet_iac.runs.atomic import write_text
from nnunet_iac.search.setting_parts import STRUCTURAL, RetentionName
from nnunet_iac.search.settings import PARTS, PRESETS, RENAMED, Settings
from nnunet_iac.training.method import CONTINUE, IAC, IAC_DISCRETE, IAC_LTH
from nnunet_iac.training.setting_checks import used_settings

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "nnunet_iac"

METHODS = {"LTH": IAC_LTH, "IAC": IAC, "Discrete": IAC_DISCRETE, "Continue": CONTINUE}
"""Names of the trainers in tables of settings."""

VARIANTS: Sequence[Mapping[str, Any]] = (
    {},
    {"preset": "adapt"},
    {"edge_transform": "tan"},
    {"backbone_checkpoint": "checkpoint_final.pth"},
    *({"retention": name} for name in get_args(RetentionName)),
)
"""Settings under which others are used that are not by default."""

PART_TITLES = {
    "schedule": "Lengths",
    "stability": "Stability test",
    "cell": "Cells and trained part",
    "optimisation": "Optimisation",
    "data": "Data and backbone",
}

DEFAULTS = {
    "trainable_part": "`cells`; of Continue `network`",
    "patient_pattern": "the whole id",
    "backbone_trainer": "the stock trainer of the same augmentation",
    "backbone_plans": "the same, then their sources",
    "backbone_checkpoint": "found by trainer and plans",
    "genotype": "searched; of Discrete `random:SEED` of its `seed`",
}
"""Defaults whose value alone explains nothing."""

MEANINGS = {
    "preset": "lengths and stability test; see [Retrofit](../guide/retrofit.md#presets)",
    "warmup_epochs": "epochs in which α and β stay constant",
    "search_epochs": "most epochs of a search, warm-up included",
    "finetune_epochs": "epochs of finetuning, or of continued training; with `adapt` 16 for "
    "methods without a search",
    "finetune_patience": "end the finetuning once the running mean of its training loss has not "
    "fallen for so many epochs; not measured yet",
    "iterations_per_epoch": "batches per epoch",
    "val_iterations_per_epoch": "validation batches per epoch",
    "patience": "consecutive stable checks before a prune",
    "stability_threshold": "a check is stable below it; `preset=adaptive` has its own",
    "threshold_growth": "factor of the threshold after an unstable check",
    "reset_threshold": "whether a prune resets the threshold",
    "channel_ratio": "channels of a cell over those of its skip",
    "min_channels": "fewest channels of a cell; at least `partial_channels`",
    "partial_channels": "K: a search computes the operations on C/K of a cell's channels",
    "output_nodes": "last nodes whose concatenation is the output",
    "norm": "norm of the cells: the plans', or batch norm",
    "residual": "`zero`: skip + gate · cell, the gate starting at 0; `none`: the cell replaces the "
    "skip, as in the paper",
    "trainable_part": "what is finetuned: of retrofits `cells`, `cells+norms`, `cells+decoder`, "
    "`all`; of Continue `network`, `decoder`, `norms`",
    "activation_checkpointing": "compute the activations inside cells again in the backward pass; "
    "turned on by itself if a step does not fit into memory",
    "importance": "`softmax`: φ · Ψ; `raw`, `raw-strict`: the printed α · β, see "
    "[Deviations](../method/deviations.md)",
    "edge_transform": "how β becomes Ψ",
    "tan_clamp": "limit of the argument of `tan`",
    "skip": "which module is put into the skips",
    "genotype": "a genotype file or a run's fold folder, `{fold}` allowed; `random:SEED`, "
    "`identity`, `conv`, `conv:PATH`",
    "max_parameter_ratio": "what cells may add, as a share of the backbone's parameters",
    "max_mac_ratio": "what cells may add, as a share of the backbone's MACs",
    "weights_lr": "learning rate of the cells' weights in the search",
    "weights_lr_min": "its end value",
    "annealing_power": "power of its cosine annealing",
    "architecture_lr": "learning rate of α and β (Adam)",
    "architecture_betas": "Adam's betas for α and β",
    "architecture_weight_decay": "weight decay of α and β",
    "finetune_optimizer": "optimiser of the finetuning",
    "finetune_lr": "learning rate of the finetuning; with `adapt` 3e-4 where the whole network "
    "or its decoder is trained",
    "finetune_schedule": "`poly`: nnU-Net's decay",
    "ema_decay": "above 0, for example 0.99: the exponential moving average of the trained weights "
    "over the steps of the finetuning is validated, saved and predicted with; it reaches back "
    "about 1 / (1 − d) steps ([measured](../evidence/adaptation.md))",
    "retention": "how a run forgets less of its source; see [Adapt](../guide/adapt.md)",
    "retention_weight": "weight of the penalty of `l2-sp` "
    "([measured](../evidence/adaptation.md)), `ewc` or `lwf` (not tried)",
    "rehearsal_cases": "training cases of the source that are drawn for `rehearsal`",
    "deep_supervision": "deep supervision in these trainers; stock `nnUNetTrainer` always has it",
    "compile_cells": "compile the discrete cells while they are finetuned on CUDA; not measured "
    "yet",
    "seed": "seed of batches, first weights and ticket",
    "deterministic": "pick no algorithm by timing (augmentation, cuDNN)",
    "patient_pattern": "regular expression whose match in a case id is the patient",
    "backbone_trainer": "trainer whose model is the backbone",
    "backbone_plans": "plans of the backbone",
    "backbone_checkpoint": "path of the backbone's checkpoint, `{fold}` allowed",
    "score_source": "score an adapted model on the validation cases of its source, too, if they "
    "are at hand",
    "allow_leakage": "accept a backbone or cell that saw the fold's validation cases; every record "
    "then states it",
}
"""One for every setting."""

WRITTEN = "<!-- Written by `python docs/reference/pages.py` from the code: change it there. -->"


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, with an empty one after it."""
    yield from (row(*titles), f"|{'---|' * len(titles)}")
    yield from (row(*cells) for cells in rows)
    yield ""


def page(title: str, intro: str, lines: Iterable[str]) -> str:
    """Return a page."""
    return "\n".join([f"# {title}", "", WRITTEN, "", intro, "", *lines]).rstrip() + "\n"


# Settings


def allowed(hint: Any) -> str:
    """Return which values a setting may have, from the type of its field."""
    limit = ""
    if get_origin(hint) is Annotated:
        limit, hint = hint.__metadata__[0].allowed, hint.__origin__
    if get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        values = list(dict.fromkeys(value for kind in kinds for value in literals(kind)))
        return f"{', '.join(values) if values else _bounded(kinds[0], limit)}, or null"
    if values := literals(hint):
        return ", ".join(dict.fromkeys(values))
    return _bounded(hint, limit)


def _bounded(kind: Any, limit: str) -> str:
    if not limit:
        return _NAMES[kind]
    if limit[0] in "<>":
        return f"{_NAMES[kind]} {limit}"
    return f"number in {limit}" if limit[0] in "([" else limit


_NAMES = {int: "integer", float: "number", bool: "true, false", str: "text"}


def literals(hint: Any) -> list[str]:
    """Return the values of a Literal, those inside it too; none of another type."""
    if get_origin(hint) is not Literal:
        return []
    return [f"`{value}`" for value in get_args(hint)]


def default(name: str, value: Any) -> str:
    """Return the default of a setting as text."""
    if name in DEFAULTS:
        return DEFAULTS[name]
    if value is None:
        return "null"
    other = [f"`{p}` {_text(v[name])}" for p, v in PRESETS.items() if name in v]
    return f"`{_text(value)}`" + (f"; {', '.join(other)}" if other else "")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def users(name: str) -> str:
    """Return the trainers that use a setting, at least under some settings."""
    found = []
    for label, method in METHODS.items():
        if any(name in used_settings(method, Settings(**values)) for values in VARIANTS):
            found.append(label)
    return "all" if len(found) == len(METHODS) else ", ".join(found)


def settings_page() -> str:
    """Return the page on settings."""
    intro = (
        "Settings are keys in the section `iac` of a configuration in plans. "
        "`nnunet-iac plan --set KEY=VALUE` writes them into new plans. The defaults follow "
        "the papers, with the exceptions on the page [Deviations](../method/deviations.md); "
        "what methods and presets are worth is on the page "
        "[What a search is worth](../evidence/search.md). A setting that a trainer does not use is "
        "named in a warning; an unknown key or value is an error.\n\n"
        "*Used by*: LTH is `nnUNetTrainerIACLTH`, IAC `nnUNetTrainerIAC`, Discrete "
        "`nnUNetTrainerIACDiscrete`, Continue `nnUNetTrainerContinue`."
    )
    return page("Settings", intro, _settings_lines())


def _settings_lines() -> Iterator[str]:
    for part, title in PART_TITLES.items():
        fields = dataclasses.fields(PARTS[part])
        hints = typing.get_type_hints(PARTS[part], include_extras=True)
        yield from (f"## {title}", "")
        rows = (
            [f"`{key}`", allowed(hints[key]), default(key, value), users(key), MEANINGS[key]]
            for key, value in ((field.name, field.default) for field in fields)
        )
        yield from table(("key", "values", "default", "used by", "meaning"), rows)
    structural = ", ".join(f"`{name}`" for name in STRUCTURAL)
    yield from ("## Structural settings", "")
    yield (
        "These decide which network the plans describe, so all folds of a model must share them: "
        f"{structural} (`decoder_norms` and `implant` follow from `trainable_part`, `skip` and "
        "`genotype`)."
    )
    yield from ("", "## Old names", "")
    yield "Old names still work and are logged as deprecated:"
    yield ""
    old = [(f"`{before}`", f"`{now}`") for before, now in RENAMED.items()]
    old.append(("`decoder_norms=tuned`", "`trainable_part=cells+norms`"))
    yield from table(("old", "now"), old)


# Commands


def commands_page() -> str:
    """Return the page on commands."""
    intro = (
        "Every verb of `nnunet-iac` with its options; `nnunet-iac VERB --help` prints the same. "
        "The exit status is 0; 1 if `doctor` found a fault, a replay disagrees or an ONNX file "
        "differs from its network; 2 for an error; 130 after Ctrl-C."
    )
    return page("Commands", intro, _command_lines(cli._parser(), ()))


def _command_lines(parser: argparse.ArgumentParser, words: Sequence[str]) -> Iterator[str]:
    children = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in children:
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
        if not words:
            rows = [(f"[`{verb}`](#{verb})", helps.get(verb, "")) for verb in group.choices]
            yield from table(("verb", "what it does"), rows)
        for verb, child in group.choices.items():
            yield from (f"{'#' * (2 + len(words))} {' '.join([*words, verb])}", "")
            yield from _verb_lines(child, helps.get(verb, ""))
            yield from _command_lines(child, [*words, verb])


def _verb_lines(parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    yield parser.description or f"{summary[:1].upper()}{summary[1:]}."
    yield ""
    rows = [(_names(action), _help(parser, action)) for action in parser._actions if _shown(action)]
    if rows:
        yield from table(("option", "meaning"), rows)
    if parser.epilog:
        lines = [line for line in parser.epilog.splitlines() if not line.startswith("example")]
        yield from (f"    {line.strip()}" if line.strip() else "" for line in lines)
        yield ""


def _shown(action: argparse.Action) -> bool:
    other = (argparse._HelpAction, argparse._SubParsersAction)
    return not isinstance(action, other) and action.help is not argparse.SUPPRESS


def _names(action: argparse.Action) -> str:
    value = action.metavar or (action.choices and f"{{{','.join(action.choices)}}}")
    shown = "" if action.nargs == 0 else str(value or action.dest.upper())
    names = ", ".join(action.option_strings)
    text = f"`{f'{names} {shown}'.strip()}`"
    return f"{text} (required)" if action.option_strings and action.required else text


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    if action.choices is not None and action.metavar is not None:
        text += f" (one of {', '.join(map(str, action.choices))})"
    return text


# Messages


AREAS = {
    "search": "Settings, genotypes and searches",
    "runs": "Files of plans, runs and checkpoints",
    "nn": "Networks",
    "host": "nnU-Net's folders, plans and export",
    "training": "Trainings",
    "adaptation": "Adapting and adapters",
    "analysis": "Reports and comparisons",
    "benchmark": "Benchmarks",
    "width": "Widths",
    "workflow": "Studies",
    "cli": "Options of commands",
    "drawing": "Pictures",
}
"""Folders of the package, and what their messages are about."""

ERRORS = {"ValueError", "RuntimeError", "FileNotFoundError", "FileExistsError"}
ERRORS |= {"ArgumentTypeError", "OutOfMemoryError"}


def messages_page() -> str:
    """Return the page on messages."""
    intro = (
        "Every error message, with `…` where names and values are filled in. Each states what must "
        "hold, what was found, and what to do; search this page for any words of the message that "
        "are not such values. Common errors and all warnings are explained on the page "
        "[Troubleshooting](../troubleshooting.md)."
    )
    return page("Messages", intro, _message_lines())


def _message_lines() -> Iterator[str]:
    for folder, title in AREAS.items():
        found: dict[str, None] = {}
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            found.update(dict.fromkeys(messages(ast.parse(path.read_text(encoding="utf-8")))))
        if found:
            yield from (f"## {title}", "")
            yield from (f"- {_escaped(message)}" for message in found)
            yield ""


def messages(tree: ast.AST) -> Iterator[str]:
    """Yield the sentences of the errors that a module makes, `…` for what is filled in."""
    raised = {node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        text = _template(node.args[0])
        named = name in ERRORS or (node in raised and not name.endswith("Error"))
        if named and len(text.replace("…", "").split()) > 3:
            yield text


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split("\n"))
    if isinstance(node, ast.JoinedStr):
        parts = (part if isinstance(part, ast.Constant) else None for part in node.values)
        return "".join("…" if part is None else _template(part) for part in parts)
    return "…"


def _escaped(text: str) -> str:
    for mark in "*_<>[]":
        text = text.replace(mark, f"\\{mark}")
    return text


PAGES = {"commands": commands_page, "settings": settings_page, "messages": messages_page}


def main() -> None:
    """Write the pages."""
    for name, made in PAGES.items():
        write_text(HERE / f"{name}.md", made())


if __name__ == "__main__":
    main()
