"""Adapt a trained model to another data set."""

import argparse
import os
from typing import Any

from nnunet_iac.cli.shared import Verbs, add_settings, parse_settings

EXAMPLE = """example:
  nnunet-iac adapt -s 27 -d 30 -c 2d
  nnUNetv2_train 30 2d 0 -p nnUNetPlansFrom027 -tr nnUNetTrainerIACLTH"""


def add_adapt(verbs: Verbs) -> None:
    """Add the verb adapt."""
    parser = verbs.add_parser(
        "adapt",
        help="prepare another data set for adapting a trained model to it",
        description="Preprocesses the target under the plans of the source model and writes plans "
        "whose settings name that model as the backbone. Every trainer then adapts it. The source "
        "model and its data are not changed, and its data are not needed.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = "trained model: a data set's id or name, or a model folder TRAINER__PLANS__CONFIG"
    add("-s", metavar="SOURCE", required=True, help=text)
    add("-d", metavar="TARGET", required=True, help="raw data set to adapt to, id or name")
    add("-c", metavar="CONFIG", required=True, help="configuration, such as 2d")
    text = "fold of the source model (default: all if it is trained, else the first)"
    add("-f", metavar="FOLD", help=text)
    text = "trainer of the source model (default: nnUNetTrainer)"
    add("-tr", metavar="TRAINER", default="nnUNetTrainer", help=text)
    text = "plans of the source model (default: nnUNetPlans)"
    add("-p", metavar="PLANS", default="nnUNetPlans", help=text)
    text = "identifier of the new plans (default: the source's with From and its number)"
    add("-o", metavar="NEW_ID", help=text)
    text = "worker processes (default: 8, or as many as there are cores)"
    add("-np", metavar="N", type=int, default=min(8, os.cpu_count() or 1), help=text)
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    text = "a label of the target and what the source calls it; background drops a label"
    add("--map", metavar="TARGET=SOURCE", **many, help=text)
    text = "labels of the source that the target's images do not show"
    add("--absent", metavar="SOURCE", **many, help=text)
    text = "raw data set to write mapped labels to, such as Dataset130_Mapped"
    add("--mapped-dataset", metavar="NAME", help=text)
    add_settings(parser, "settings besides those of preset=adapt; may be given more than once")
    parser.set_defaults(verb=_adapt)


def _adapt(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.source import Source, model_folder
    from nnunet_iac.adaptation.target import Target, mapped_target, next_commands, prepare

    if arguments.np < 1:
        raise ValueError(f"-np must be at least 1; got {arguments.np}")
    values = parse_settings(arguments.assignments)
    folder = model_folder(arguments.s, arguments.c, arguments.tr, arguments.p)
    source = Source.at(folder, arguments.c, arguments.f)
    target = Target.of(arguments.d)
    renamed = dict(_pair(text) for text in arguments.map)
    if renamed or arguments.absent:
        if arguments.mapped_dataset is None:
            raise ValueError(
                "mapped labels need a raw data set to be written to: name one with "
                "--mapped-dataset, such as Dataset130_Mapped"
            )
        others = (renamed, arguments.absent)
        target = mapped_target(source, target, arguments.mapped_dataset, *others)
    name = arguments.o or source.default_plans
    path = prepare(source, target, name, values, arguments.np, print)
    print(f"plans: {path}", *next_commands(path, source, target), sep="\n")
    return 0


def _pair(text: str) -> tuple[str, str]:
    target, separator, source = text.partition("=")
    if not (target and separator and source):
        raise ValueError(f"a mapping must have the form TARGET=SOURCE; got {text!r}")
    return target, source
