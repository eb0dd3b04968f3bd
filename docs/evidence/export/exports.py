"""Export finished folds as ONNX, compare and time them on validation cases, into exports.json.

    python docs/evidence/export/exports.py CASES FOLD...

FOLD: fold folders of retrofits.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch

from nnunet_iac.benchmark.timing import interleaved
from nnunet_iac.host.export import Model, exporting
from nnunet_iac.host.onnx_export import INPUT, compared, export_fold
from nnunet_iac.host.plans import configuration_of
from nnunet_iac.nn.folding import fold_for_inference
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL
from nnunet_iac.training.provenance import circumstances

REPEATS = 15


def exported(fold: Path, cases: int) -> dict[str, Any]:
    """Return how far the exported network of a fold is from the original, and how fast."""
    model = Model.at(fold, FINAL)
    config = configuration_of(read_json(model.folder / "plans.json"), model.configuration)
    with TemporaryDirectory() as folder, exporting(model, Path(folder) / "model") as folds:
        predictor, path = export_fold(folds[0])
        network, lean = predictor.network, fold_for_inference(predictor.network)
        parities = list(compared(predictor, path, fold, cases))
        if not all(parity.holds for parity in parities):
            raise RuntimeError(f"an export must be its network; {fold}: {parities}")
        patch = torch.randn(1, 1, *config["patch_size"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options)
        with torch.inference_mode():
            seconds = interleaved(
                {
                    "torch": lambda: network(patch),
                    "simplified": lambda: lean(patch),
                    "onnxruntime": lambda: session.run(None, {INPUT: patch.numpy()}),
                },
                REPEATS,
                "cpu",
            )
        size = path.stat().st_size
    return {
        "model": fold.parent.name,
        "network": config["architecture"]["network_class_name"].rpartition(".")[2],
        "patch": config["patch_size"],
        "bytes": size,
        "cases": [vars(parity) for parity in parities],
        "seconds": seconds,
    }


def main() -> None:
    """Export, compare and time every fold."""
    cases, folds = int(sys.argv[1]), [Path(word) for word in sys.argv[2:]]
    write_json(
        Path(__file__).with_name("exports.json"),
        {
            **circumstances(),
            "repeats": REPEATS,
            "models": [exported(fold, cases) for fold in folds],
        },
    )


if __name__ == "__main__":
    main()
