"""Make a model folder for stock nnU-Net, and ONNX files."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, require_extra

ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra `onnx` brings."""


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "export",
        help="make a model folder that stock nnU-Net predicts with, and ONNX files",
        description="Writes a model folder whose plans name the retrofitted network, so that the "
        "stock nnUNetTrainer builds it and only this package must be installed.",
    )
    parser.add_argument(
        "model", metavar="FOLD_OR_MODEL", type=Path, help="a fold folder, or a model folder"
    )
    parser.add_argument("-o", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "-chk", metavar="FILE", default="checkpoint_final.pth", help="default: the final one"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="also an ONNX file per fold, compared on real cases"
    )
    parser.add_argument(
        "--cases", metavar="N", type=int, default=2, help="validation cases to compare (default: 2)"
    )
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.host.export import Model, export_model

    if arguments.cases < 1:
        raise ValueError(f"--cases must be at least 1; got {arguments.cases}")
    if arguments.onnx:
        require_extra("onnx", *ONNX_MODULES)
    model = Model.at(arguments.model, arguments.chk)
    if arguments.onnx:
        from nnunet_iac.host.onnx_export import compared, export_fold, require_comparable

        require_comparable(model)
    folds = export_model(model, arguments.o, arguments.chk)
    numbers = " ".join(fold.name.removeprefix("fold_") for fold in folds)
    print(f"exported: {arguments.o}")
    print(f"  nnUNetv2_predict_from_modelfolder -m {arguments.o} -f {numbers} -i IMAGES -o OUT")
    if not arguments.onnx:
        return 0
    alike = True
    for source, fold in zip(model.folds, folds, strict=True):
        predictor, path = export_fold(fold)
        print(f"exported: {path}")
        for found in compared(predictor, path, source, arguments.cases):
            print(f"  {found}", flush=True)
            if not found.holds:
                alike = False
                path.unlink(missing_ok=True)
                print(f"removed: {path}, which must not be used")
                break
    return 0 if alike else 1
