"""An exported fold as an ONNX file, proven on real cases to be the same network."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import Tensor, nn

from nnunet_iac.host.export import Model
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import read_plans
from nnunet_iac.host.preprocessed import preprocessed_dataset
from nnunet_iac.nn.folding import fold_for_inference
from nnunet_iac.runs.atomic import replacing
from nnunet_iac.runs.folder import RunFolder

INPUT, OUTPUT = "patch", "logits"
LOGIT_TOLERANCE = 1e-3
"""Difference of two logits that is no longer rounding, as a share of the largest one's size."""
LEAST_DICE = 0.999
"""Mean Dice of the two segmentations of a case, at least."""


@dataclass(frozen=True)
class Parity:
    """Difference of the ONNX network from torch's, on a whole case by sliding window.

    Args:
        case: identifier.
        difference: largest absolute difference of two logits of a patch.
        scale: largest absolute logit of torch's network in a patch.
        dice: of the segmentations, as `agreement` returns it.
    """

    case: str
    difference: float
    scale: float
    dice: float

    @property
    def limit(self) -> float:
        """The limit of the difference: a share of the scale, which is at least 1 here."""
        return LOGIT_TOLERANCE * max(1.0, self.scale)

    @property
    def holds(self) -> bool:
        """Whether that is no more than rounding."""
        return self.difference < self.limit and self.dice >= LEAST_DICE

    def __str__(self) -> str:
        """The comparison as one line."""
        verdict = "same" if self.holds else "differs"
        return (
            f"{self.case}: logits of up to {self.scale:.3g} differ by at most "
            f"{self.difference:.2g} (limit {self.limit:.2g}), Dice {self.dice:.6f}: {verdict}"
        )


def export_fold(fold: Path) -> tuple[Any, Path]:
    """Write network.onnx into a fold of an exported model; return its predictor and the file."""
    predictor, path = predictor_of(fold), fold / "network.onnx"
    patch = tuple(predictor.configuration_manager.patch_size)
    channels = determine_num_input_channels(
        predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )
    export_onnx(predictor.network, channels, patch, path)
    return predictor, path


def compared(predictor: Any, path: Path, fold: Path, count: int) -> Iterator[Parity]:
    """Yield how far an ONNX file is from its network on validation cases of a trained fold."""
    for case, image in validation_images(fold, predictor, count).items():
        yield parity(predictor, path, case, image)


def predictor_of(fold: Path) -> Any:
    """Return nnU-Net's predictor of one fold of a model folder, on the CPU, without mirroring.

    Its network is not compiled, whatever nnUNet_compile is: ONNX is made from the plain one.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    off = dict.fromkeys(("use_mirroring", "perform_everything_on_device", "allow_tqdm"), False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), **off)
    number = fold.name.removeprefix("fold_")
    folds = (number if number == "all" else int(number),)
    predictor.initialize_from_trained_model_folder(str(fold.parent), folds)
    predictor.network = getattr(predictor.network, "_orig_mod", predictor.network)
    return predictor


def export_onnx(network: nn.Module, channels: int, patch: tuple[int, ...], path: Path) -> None:
    """Write a network that returns logits only, folded for inference, as ONNX for one patch."""
    network = fold_for_inference(network)
    example = torch.zeros(1, channels, *patch)
    with replacing(path) as temporary, warnings.catch_warnings(), _only_errors("onnxscript"):
        warnings.simplefilter("ignore")
        try:
            names: Any = {"input_names": [INPUT], "output_names": [OUTPUT]}
            program: Any = torch.onnx.export(
                network, (example,), dynamo=True, verbose=False, **names
            )
        except Exception as error:  # The exporter wraps whatever it meets, in many kinds.
            raise RuntimeError(
                "every operation of the network must be one that torch's ONNX exporter has; it "
                f"reported {_first_line(error)}: use the model folder without --onnx"
            ) from error
        program.save(temporary)


def require_comparable(model: Model) -> None:
    """Check that ONNX files of a model can be compared with their networks, before any is made."""
    if model.is_second_stage:
        raise ValueError(
            "an ONNX file takes images only; the second stage of a cascade takes predictions of "
            "the first, too: use the model folder without --onnx"
        )
    dataset = read_plans(model.folder / "plans.json")["dataset_name"]
    data = preprocessed_folder(dataset) / model.config["data_identifier"]
    cures = {data: "preprocess the data set (nnUNetv2_preprocess)"}
    for fold in model.folds:
        cures[RunFolder.of_fold(fold).split_file] = "name the folder of the run itself"
    for needed, cure in cures.items():
        if not needed.exists():
            raise FileNotFoundError(
                "an ONNX file is compared with its network on validation cases of the fold; "
                f"{needed} does not exist: {cure}, or export without --onnx"
            )


def validation_images(fold: Path, predictor: Any, count: int) -> dict[str, np.ndarray]:
    """Return the first preprocessed validation cases of a trained fold, by identifier."""
    dataset = predictor.plans_manager.dataset_name
    folder = preprocessed_folder(dataset) / predictor.configuration_manager.data_identifier
    cases = sorted(RunFolder.of_fold(fold).read_split()["validation"])[:count]
    data = preprocessed_dataset(folder, cases)
    return {case: np.asarray(data.load_case(case)[0]) for case in cases}


class OnnxNetwork(nn.Module):
    """An ONNX file as a network, run by onnxruntime on the CPU beside the one it was made from."""

    def __init__(self, path: Path, original: nn.Module) -> None:
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.original = original
        self.difference = self.scale = 0.0  # The largest of any patch so far.

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of (1, channels, *patch) that the file gives."""
        (found,) = self.session.run([OUTPUT], {INPUT: x.numpy()})
        logits, expected = torch.from_numpy(found), self.original(x)
        difference = float((logits - expected).abs().max())
        self.difference = max(
            self.difference, difference if math.isfinite(difference) else math.inf
        )
        self.scale = max(self.scale, float(expected.abs().max()))
        return logits


def parity(predictor: Any, path: Path, case: str, image: np.ndarray) -> Parity:
    """Return how far an ONNX file is from its network on a preprocessed (channels, *spatial)."""
    original, labels = predictor.network, []
    exported = OnnxNetwork(path, original)
    try:
        for network in (original, exported):
            predictor.network = network
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
            found = predictor.label_manager.convert_logits_to_segmentation(logits.float())
            labels.append(found.cpu().numpy())
    finally:
        predictor.network = original
    return Parity(case, exported.difference, exported.scale, agreement(*labels))


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean Dice over the foreground labels that either segmentation has; 1 for none."""
    found = sorted({*np.unique(a), *np.unique(b)} - {0})
    dice = [2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in found]
    return float(np.mean(dice)) if dice else 1.0


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Silence a logger's warnings: here, of constants that it does not fold."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first_line(error: BaseException) -> str:
    inner = error.__cause__ or error
    return f"{type(inner).__name__}: {(str(inner).strip() or 'nothing').splitlines()[0]}"
