"""Distances between the surfaces of prediction and truth: HD95 and NSD, by MONAI."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from jaxtyping import Bool, Int
from scipy.ndimage import find_objects

from nnunet_iac.runs.scores import labels_of

PERCENTILE = 95
TOLERANCE = 1.0
"""Millimetres a surface may be off, where nothing else is stated."""


@dataclass(frozen=True)
class SurfaceScore:
    """Distance of two surfaces; `hd95` is None and `nsd` 0 where one side lacks the class.

    HD95 is the larger of the two directed 95th percentiles of the distance from a boundary voxel to
    the other boundary, in mm; NSD (normalised surface Dice) the share of both sides' boundary
    voxels that lie within the tolerance of the other boundary.
    """

    hd95: float | None
    nsd: float


def surface_score(
    prediction: Bool[np.ndarray, "*space"],
    truth: Bool[np.ndarray, "*space"],
    spacing: Sequence[float],
    tolerance: float = TOLERANCE,
) -> SurfaceScore | None:
    """Return HD95 and NSD of one class in a 2-D or 3-D image; None where both sides lack it.

    A boundary voxel is one of the mask with a face to the outside, where the image's border counts
    as outside. Sources: Maier-Hein et al., Metrics reloaded, Nature Methods 21 (2024) for both;
    Seidlitz et al., arXiv 2111.05408, for the count of voxels as surface in NSD. `spacing` is in
    mm, in the order of the arrays' axes.
    """
    if not (prediction.any() or truth.any()):
        return None
    if not (prediction.any() and truth.any()):
        return SurfaceScore(hd95=None, nsd=0.0)
    import torch

    metrics = require_monai()
    # MONAI makes floats of whole images; nothing outside the foreground's box is a boundary.
    box = find_objects((prediction | truth).astype(np.uint8))[0]
    masks = [torch.from_numpy(mask[box].copy())[None, None] for mask in (prediction, truth)]
    how: dict[str, Any] = {"include_background": True, "spacing": tuple(spacing)}
    with warnings.catch_warnings():  # MONAI 1.6 calls its own functions in a way it deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = metrics.compute_hausdorff_distance(*masks, percentile=PERCENTILE, **how)
        nsd = metrics.compute_surface_dice(*masks, class_thresholds=[tolerance], **how)
    return SurfaceScore(hd95=float(hd95), nsd=float(nsd))


def read_surface_scores(
    prediction: Path, truth: Path, classes: Iterable[str], tolerance: float = TOLERANCE
) -> dict[str, SurfaceScore]:
    """Return HD95 and NSD per class of one case; classes that both sides lack are left out.

    Classes are named as in a summary.json: "1", or "(1, 2)" for a region.
    """
    require_tolerance(tolerance)
    (predicted, spacing), (true, other) = _read(prediction), _read(truth)
    if predicted.shape != true.shape or not np.allclose(spacing, other, rtol=1e-3):
        raise ValueError(
            "prediction and truth must have the same size and spacing; "
            f"{prediction} has {predicted.shape} at {_rounded(spacing)} mm and {truth} "
            f"{true.shape} at {_rounded(other)} mm: predict again from the images that belong to "
            "the truth"
        )
    scores = {}
    for name in classes:
        labels = labels_of(name)
        score = surface_score(np.isin(predicted, labels), np.isin(true, labels), other, tolerance)
        if score is not None:
            scores[name] = score
    return scores


def require_tolerance(tolerance: float) -> None:
    """Check that the tolerance of NSD is a positive number of millimetres."""
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(
            f"the tolerance must be a positive number of millimetres; got {tolerance}: take what "
            "two people who draw the same case differ by"
        )


def require_monai() -> Any:
    """Return MONAI's metrics; without that optional extra a RuntimeError."""
    try:
        with warnings.catch_warnings():  # On import MONAI warns of others' deprecations.
            warnings.simplefilter("ignore")
            import monai.metrics
    except ImportError as error:
        raise RuntimeError(
            f"HD95 and NSD need MONAI, which cannot be imported ({error}): run "
            "pip install '.[surface]' in the clone"
        ) from error
    return monai.metrics


def _read(path: Path) -> tuple[Int[np.ndarray, "*space"], tuple[float, ...]]:
    """Return an image's labels and its spacing in the order of the array's axes."""
    if not path.is_file():
        raise FileNotFoundError(
            f"HD95 and NSD are measured on the images; {path} does not exist: restore it, or leave "
            "--surface out"
        )
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]


def _rounded(spacing: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in spacing)
