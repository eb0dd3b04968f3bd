"""Adapt a trained model to another data set, and keep what was trained as an adapter."""

import argparse
import os
from pathlib import Path
from typing import Any

from nnunet_iac.cli.options import (
    Verbs,
    add_configuration,
    add_dataset,
    add_device,
    add_fold,
    add_folds,
    add_new_plans,
    add_output,
    add_plans,
    add_settings,
    add_trainer,
    add_verb,
    device_of,
    parse_settings,
)


def add_adapt(verbs: Verbs) -> None:
    """Add the verb adapt."""
    parser = add_verb(
        verbs,
        "adapt",
        "prepare another data set for adapting a trained model to it",
        "Preprocesses the target under the plans of the source model and writes plans whose "
        "settings name that model as the backbone. Every trainer then adapts it. The source model "
        "and its data are not changed, and its data are not needed.",
        run=_adapt,
        examples="""
        nnunet-iac adapt -s 27 -d 30 -c 2d
        nnUNetv2_train 30 2d 0 -p nnUNetPlansFrom027 -tr nnUNetTrainerIACDiscrete
        """,
    )
    text = "trained model: a data set's id or name, or a model folder TRAINER__PLANS__CONFIG"
    parser.add_argument("-s", metavar="SOURCE", required=True, help=text)
    add_dataset(parser, "raw data set to adapt to")
    add_configuration(parser)
    text = "fold of the source model (default: all if it is trained, else the first)"
    add_fold(parser, text, str)
    add_trainer(parser, "trainer of the source model")
    add_plans(parser, "plans of the source model")
    add_new_plans(parser, "PLANSFrom and the source's number, such as nnUNetPlansFrom027")
    text = "worker processes for preprocessing (default: 8, or the number of cores if it is less)"
    parser.add_argument(
        "-np", metavar="N", type=int, default=min(8, os.cpu_count() or 1), help=text
    )
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    text = (
        "labels of the target and the source's names for them, such as tumor=lesion; background "
        "drops a label (default: the names are the same)"
    )
    parser.add_argument("--map", metavar="TARGET=SOURCE", **many, help=text)
    text = "labels of the source that the target's images do not show (default: none)"
    parser.add_argument("--absent", metavar="SOURCE", **many, help=text)
    text = "raw data set to write mapped labels to, such as Dataset130_Mapped (default: none)"
    parser.add_argument("--mapped-dataset", metavar="NAME", help=text)
    add_settings(parser, "settings besides those of preset=adapt")


def add_adapter(verbs: Verbs) -> None:
    """Add the verb adapter."""
    parser = add_verb(
        verbs,
        "adapter",
        "save the cells of a run as a file, put them on their backbone, or list them",
        "An adapter is what an adapted run adds to its backbone, which stays unchanged: the cells, "
        "in one small file. It fits that backbone only.",
        run=None,
        examples="""
        nnunet-iac adapter save FOLD -o MODEL/adapters/site_b.safetensors
        nnunet-iac adapter list MODEL
        nnunet-iac adapter apply MODEL site_b -o MODEL_AT_SITE_B
        """,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    save = add_verb(
        actions,
        "save",
        "write the adapter of a finished run",
        run=_save,
        examples="nnunet-iac adapter save FOLD -o MODEL/adapters/site_b.safetensors",
    )
    save.add_argument("fold", metavar="FOLD", type=Path, help="fold folder of the run")
    add_output(save, "FILE", "the adapter, a new file such as site.safetensors", required=True)
    add_device(save)
    put = add_verb(
        actions,
        "apply",
        "write a model folder of a backbone with an adapter",
        "nnUNetv2_predict_from_modelfolder predicts with the new folder wherever nnunet-iac is "
        "installed.",
        run=_apply,
        examples="nnunet-iac adapter apply MODEL site_b -o MODEL_AT_SITE_B",
    )
    _add_model(put)
    text = "the adapter's file, or its name in MODEL/adapters"
    put.add_argument("adapter", metavar="ADAPTER", help=text)
    add_output(put, "DIR", "the model folder with the adapter, a new folder", required=True)
    show = add_verb(
        actions,
        "list",
        "print the adapters of a model, and whether they fit",
        run=_list,
        examples="nnunet-iac adapter list MODEL",
    )
    _add_model(show)
    text = "files, or names in MODEL/adapters (default: all in MODEL/adapters)"
    show.add_argument("adapters", metavar="ADAPTER", nargs="*", help=text)


def add_predict(verbs: Verbs) -> None:
    """Add the verb predict."""
    parser = add_verb(
        verbs,
        "predict",
        "predict with a model and its adapters",
        "Runs nnUNetv2_predict_from_modelfolder once per adapter. Further options are handed to "
        "that command, such as -npp, -nps, -step_size or --disable_tta.",
        run=_predict,
        examples="nnunet-iac predict -m MODEL --adapter site_b --adapter none -i IMAGES -o OUT",
    )
    add = parser.add_argument
    add("-m", metavar="MODEL", type=Path, required=True, help="model folder of the backbone")
    text = (
        "a file, a name in MODEL/adapters, or none for the backbone alone; may be repeated; or "
        "auto, given alone, for the adapter that suits each image"
    )
    add("--adapter", metavar="ADAPTER", action="append", required=True, help=text)
    text = "folder of images called CASE_0000, CASE_0001 and so on, a number per channel"
    add("-i", metavar="IMAGES", type=Path, required=True, help=text)
    text = "folder of the predictions, with one subfolder per adapter if there are several"
    add_output(parser, "OUT", text, required=True)
    text = (
        "folds of the backbone alone (default: the numbered ones that are trained, else all); an "
        "adapter has its own"
    )
    add_folds(parser, text, str, [])
    add_device(parser)
    parser.set_defaults(more=())


def _add_model(parser: argparse.ArgumentParser) -> None:
    text = "model folder of the backbone, TRAINER__PLANS__CONFIG"
    parser.add_argument("model", metavar="MODEL", type=Path, help=text)


def _save(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapter import Adapter, require_new_file

    require_new_file(arguments.o)
    adapter = Adapter.of_fold(arguments.fold, device_of(arguments), print)
    adapter.save(arguments.o)
    print(f"wrote {arguments.o} ({adapter.size / 1e6:.2f} MB)")
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapted_model import adapter_file, apply
    from nnunet_iac.adaptation.adapter import Adapter
    from nnunet_iac.host.export import predict_command

    adapter = Adapter.read(adapter_file(arguments.adapter, arguments.model))
    model = apply(arguments.model, adapter, arguments.o)
    print(f"wrote {arguments.o}", f"  {predict_command(model, arguments.o)}", sep="\n")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapted_model import adapter_file, adapters_of, listing

    model = arguments.model
    named = [adapter_file(name, model) for name in arguments.adapters]
    print(*listing(model, named or adapters_of(model)), sep="\n")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.choice import AUTO, NO_ADAPTER
    from nnunet_iac.adaptation.prediction import predict, predict_chosen

    names, folds = arguments.adapter, arguments.f
    given = arguments.i, arguments.o, folds, device_of(arguments), arguments.more, print
    if AUTO in names:
        if len(names) > 1:
            raise ValueError(
                f"auto chooses among all adapters of the model; got {', '.join(names)}: give auto "
                "alone"
            )
        predict_chosen(arguments.m, *given)
        return 0
    if folds and NO_ADAPTER not in names:
        raise ValueError(
            "-f chooses folds of the backbone alone, and an adapter has the fold it was trained "
            f"on; got -f {' '.join(folds)}: leave it out, or add --adapter none"
        )
    for folder in predict(arguments.m, names, *given):
        print(f"predictions: {folder}")
    return 0


def _adapt(arguments: argparse.Namespace) -> int:
    from nnunet_iac.adaptation.adapted_plans import require_settings
    from nnunet_iac.adaptation.labels import mapped_values
    from nnunet_iac.adaptation.next_commands import next_commands
    from nnunet_iac.adaptation.preparation import prepare, require_valid
    from nnunet_iac.adaptation.source import SourceModel, model_folder
    from nnunet_iac.adaptation.target import (
        Target,
        mapped_target,
        require_adaptable,
        require_other_patients,
    )
    from nnunet_iac.host.planning import preprocessed_folder
    from nnunet_iac.runs.fold import full_disk_named

    if arguments.np < 1:
        raise ValueError(f"-np must be at least 1; got {arguments.np}")
    values = parse_settings(arguments.assignments)
    folder = model_folder(arguments.s, arguments.c, arguments.tr, arguments.p)
    source = SourceModel.at(folder, arguments.c, arguments.f)
    print(f"source: {source.checkpoint}")
    target = Target.of(arguments.d)
    name = arguments.o or source.default_plans
    require_adaptable(source, target, name)
    data = require_settings(source, target, name, values)
    for note in require_other_patients(source, target, data):
        print(note)
    pairs = [_pair(text) for text in arguments.map]
    if len(renamed := dict(pairs)) < len(pairs):
        raise ValueError(
            f"--map must name every label of the target once; got {' '.join(arguments.map)}"
        )
    if (renamed or arguments.absent) and arguments.mapped_dataset is None:
        raise ValueError(
            "mapped labels need a raw data set to be written to: name one with "
            "--mapped-dataset, such as Dataset130_Mapped"
        )
    again = "run the same command again"
    if (mapped := arguments.mapped_dataset) is not None:
        mapped_values(source.dataset, target.dataset, renamed, arguments.absent)
        require_valid(target, arguments.np)  # Before its labels are written anew.
        with full_disk_named(target.raw.with_name(mapped), again):
            target = mapped_target(source, target, mapped, renamed, arguments.absent)
    with full_disk_named(preprocessed_folder(target.name), again):
        path = prepare(source, target, name, values, arguments.np, print)
    print(f"plans: {path}", *next_commands(path, source, target), sep="\n")
    return 0


def _pair(text: str) -> tuple[str, str]:
    target, separator, source = text.partition("=")
    if not (target and separator and source):
        raise ValueError(f"a mapping must have the form TARGET=SOURCE; got {text!r}")
    return target, source
