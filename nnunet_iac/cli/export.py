"""Make a model folder for stock nnU-Net, and ONNX files."""

import argparse
from pathlib import Path

from nnunet_iac.cli.options import Verbs, add_output, add_verb, require_extra

ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
"""Modules that the extra `onnx` installs."""


def add_export(verbs: Verbs) -> None:
    """Add the verb export."""
    parser = add_verb(
        verbs,
        "export",
        "make a model folder that stock nnU-Net predicts with, and ONNX files",
        "Writes a model folder whose plans name the retrofitted network, so that the stock "
        "nnUNetTrainer builds it and only this package must be installed. DIR appears when all of "
        "it is written; after an error nothing is left. The exit status is 1 if an ONNX file "
        "differs from its network.",
        run=_export,
        examples="""
        nnunet-iac export FOLD -o exported --onnx
        nnUNetv2_predict_from_modelfolder -m exported -f 0 -i IMAGES -o OUT
        """,
    )
    add = parser.add_argument
    add("model", metavar="FOLD_OR_MODEL", type=Path, help="fold folder, or model folder")
    add_output(parser, "DIR", "the exported model folder, a new folder", required=True)
    add("-chk", metavar="FILE", default="checkpoint_final.pth", help="checkpoint of each fold")
    text = (
        "also write an ONNX file per fold, compare it with its network on real cases, and remove "
        "it if they differ; needs the extra onnx"
    )
    add("--onnx", action="store_true", help=text)
    text = "with --onnx: validation cases to compare"
    add("--cases", metavar="N", type=int, default=2, help=text)


def _export(arguments: argparse.Namespace) -> int:
    # Where an ONNX file is not its network, the model folder is right in itself and written.
    from nnunet_iac.host.export import Model, exporting, predict_command

    if arguments.cases < 1:
        raise ValueError(
            f"--cases must be at least 1; got {arguments.cases}: give a number of validation "
            "cases, or export without --onnx"
        )
    if arguments.onnx:
        require_extra("onnx", *ONNX_MODULES)
    model = Model.at(arguments.model, arguments.chk)
    if arguments.onnx:
        from nnunet_iac.host.onnx_export import require_comparable

        require_comparable(model)
    for fold in model.left_out:
        print(f"left out: {fold.name}, which has no {arguments.chk}")
    with exporting(model, arguments.o, arguments.chk) as folds:
        alike = [
            _written_as_onnx(fold, source, arguments.cases)
            for fold, source in zip(folds, model.folds, strict=True)
            if arguments.onnx
        ]
    print(f"exported: {arguments.o}")
    print(f"  {predict_command(model, arguments.o)}")
    return 0 if all(alike) else 1


def _written_as_onnx(fold: Path, source: Path, cases: int) -> bool:
    """Return whether the ONNX file of an exported fold is its network, and leave it only then."""
    from nnunet_iac.host.onnx_export import compared, export_fold

    predictor, path = export_fold(fold)
    for found in compared(predictor, path, source, cases):
        print(f"{fold.name}, {found}", flush=True)
        if not found.holds:
            path.unlink()
            print(f"removed: {path.name} of {fold.name}, whose output differs from its network's")
            return False
    return True
