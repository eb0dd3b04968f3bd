"""Adapt a trained model to another data set, and keep what was trained as an adapter."""

import argparse
import os
from pathlib import Path
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


def add_adapter(verbs: Verbs) -> None:
    """Add the verb adapter."""
    parser = verbs.add_parser(
        "adapter",
        help="save the cells of a run as a file, put them on their backbone, or list them",
        description="An adapter is what an adapted run adds to its backbone, which it leaves as "
        "it was: the cells, in one small file. It fits that backbone only.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    save = actions.add_parser("save", help="write the adapter of a finished run")
    save.add_argument("fold", metavar="FOLD", type=Path, help="fold folder of the run")
    text = "a new file, such as site.safetensors"
    save.add_argument("-o", metavar="FILE", type=Path, required=True, help=text)
    save.set_defaults(verb=_save)
    put = actions.add_parser("apply", help="write a model folder of a backbone with an adapter")
    text = "model folder of the backbone, TRAINER__PLANS__CONFIG"
    put.add_argument("model", metavar="MODEL", type=Path, help=text)
    text = "its file, or its name in MODEL/adapters"
    put.add_argument("adapter", metavar="ADAPTER", help=text)
    put.add_argument("-o", metavar="DIR", type=Path, required=True, help="a new folder")
    put.set_defaults(verb=_apply)
    show = actions.add_parser("list", help="print the adapters of a model, and whether they fit")
    show.add_argument("model", metavar="MODEL", type=Path, help="model folder of the backbone")
    text = "adapters elsewhere (default: all in MODEL/adapters)"
    show.add_argument("adapters", metavar="ADAPTER", nargs="*", help=text)
    show.set_defaults(verb=_list)


def add_predict(verbs: Verbs) -> None:
    """Add the verb predict."""
    parser = verbs.add_parser(
        "predict",
        help="predict with a model and its adapters",
        description="Predicts with nnUNetv2_predict_from_modelfolder, once per adapter. Further "
        "options are handed to that command, such as -npp, -nps, -step_size or --disable_tta.",
        epilog="example:\n  nnunet-iac predict -m MODEL --adapter site_b --adapter none -i IN -o O",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-m", metavar="MODEL", type=Path, required=True, help="model folder of the backbone")
    text = (
        "a file, a name in MODEL/adapters, none for the backbone alone, or auto for whichever "
        "suits an image; may be repeated"
    )
    add("--adapter", metavar="ADAPTER", action="append", required=True, help=text)
    add("-i", metavar="IN", type=Path, required=True, help="folder of images")
    text = "folder for the predictions; with more than one adapter each gets one inside"
    add("-o", metavar="OUT", type=Path, required=True, help=text)
    text = "folds of the backbone alone (default: all that are trained)"
    add("-f", metavar="FOLD", nargs="+", default=[], help=text)
    text = "default: cuda if there is one, else cpu"
    add("-device", choices=("cpu", "cuda", "mps"), help=text)
    parser.set_defaults(verb=_predict, more=())


def _save(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapter import Adapter

    adapter = Adapter.of_fold(arguments.fold, print)
    adapter.save(arguments.o)
    print(f"wrote {arguments.o} ({adapter.size / 1e6:.2f} MB)")
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapter import Adapter, adapter_file, apply
    from nnunet_iac.host.export import predict_command

    adapter = Adapter.read(adapter_file(arguments.adapter, arguments.model))
    model = apply(arguments.model, adapter, arguments.o)
    print(f"wrote {arguments.o}", f"  {predict_command(model, arguments.o)}", sep="\n")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapter import Adapter, adapter_file, adapters_of, backbone_of

    model = arguments.model
    named = [adapter_file(name, model) for name in arguments.adapters]
    for path in named or adapters_of(model):
        adapter = Adapter.read(path)
        try:
            fits = f"fits {backbone_of(model, adapter).parent.name}"
        except ValueError:
            fits = "does not fit: another backbone"
        origin, size = adapter.provenance, adapter.size / 1e6
        print(f"{path.stem}: {origin['dataset']}, {origin['trainer']}, {size:.2f} MB, {fits}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    import torch

    from nnunet_iac.adaptation.choice import AUTO
    from nnunet_iac.adaptation.prediction import predict, predict_chosen

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = ("-device", device, *arguments.more)
    folders = (arguments.i, arguments.o)
    names = arguments.adapter
    if AUTO in names:
        if len(names) > 1:
            raise ValueError(
                f"auto chooses among all adapters of the model; got {', '.join(names)}: give auto "
                "alone"
            )
        predict_chosen(arguments.m, *folders, arguments.f, options, print)
        return 0
    for folder in predict(arguments.m, names, *folders, arguments.f, options):
        print(f"predictions: {folder}")
    return 0


def _adapt(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.source import SourceModel, model_folder
    from nnunet_iac.adaptation.target import Target, mapped_target, next_commands, prepare

    if arguments.np < 1:
        raise ValueError(f"-np must be at least 1; got {arguments.np}")
    values = parse_settings(arguments.assignments)
    folder = model_folder(arguments.s, arguments.c, arguments.tr, arguments.p)
    source = SourceModel.at(folder, arguments.c, arguments.f)
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
