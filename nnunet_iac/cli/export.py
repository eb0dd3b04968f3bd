"""Make a model folder for stock nnU-Net, and ONNX files."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, require_extra

ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `onnx` brings."""


def add_export(verbs: Verbs) -> None:
    """Add the verb export."""
    parser = verbs.add_parser(
        "export",
        help="make a model folder that stock nnU-Net predicts with, and ONNX files",
        description="Writes a model folder whose plans name the retrofitted network, so that the "
        "stock nnUNetTrainer builds it and only this package must be installed. DIR appears when "
        "all of it is written; after an error nothing is left.",
    )
    add = parser.add_argument
    add("model", metavar="FOLD_OR_MODEL", type=Path, help="a fold folder, or a model folder")
    add("-o", metavar="DIR", type=Path, required=True, help="a new folder")
    add("-chk", metavar="FILE", default="checkpoint_final.pth", help="default: the final one")
    add(
        "--onnx",
        action="store_true",
        help="also an ONNX file per fold, compared on real cases; one that is not its network is "
        "left out, and the exit status is 1",
    )
    text = "validation cases to compare (default: 2)"
    add("--cases", metavar="N", type=int, default=2, help=text)
    parser.set_defaults(verb=_export)


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
            print(f"left out: {path.name} of {fold.name}, which is not its network")
            return False
    return True
