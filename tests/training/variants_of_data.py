"""Tiny data sets in nnU-Net's raw layout, made from the embedded cases, one per kind of data."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from scipy.ndimage import gaussian_filter
from skimage import io

from nnunet_iac.runs.atomic import write_json

EMBEDDED = Path(str(files("nnunet_iac") / "data" / "Dataset004_Hippocampus"))
REGIONS = "Dataset005_Regions"
SLICES = "Dataset006_Slices"
IGNORED = 3
IGNORED_COLUMNS = 14
KEPT_SLICES = slice(8, 24)
VOLUMES = 4
SLICES_OF_A_VOLUME = (0.4, 0.5, 0.6)


def write_regions(raw: Path) -> list[str]:
    """Write volumes of two channels whose labels are regions and partly ignored; return cases.

    The second channel is the first, smoothed. The left of every volume is ignored. The volumes
    are thin, for speed.
    """
    folder = raw / REGIONS
    names = sorted(path.name for path in (EMBEDDED / "labelsTr").iterdir())[:VOLUMES]
    for name in names:
        case = name.removesuffix(".nii.gz")
        _write_channels(EMBEDDED / "imagesTr", folder / "imagesTr", case)
        label = SimpleITK.ReadImage(str(EMBEDDED / "labelsTr" / name))[:, :, KEPT_SLICES]
        values = SimpleITK.GetArrayFromImage(label)
        values[..., :IGNORED_COLUMNS] = IGNORED
        _write_like(label, values, folder / "labelsTr" / name)
    _write_channels(EMBEDDED / "imagesTs", folder / "imagesTs", "hippocampus_007")
    description = {
        "channel_names": {"0": "MRI", "1": "smooth"},
        "labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": IGNORED},
        "regions_class_order": [1, 2],
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", description)
    return [name.removesuffix(".nii.gz") for name in names]


def write_slices(raw: Path) -> list[str]:
    """Write single slices as 8-bit PNG, several of each patient; return cases."""
    folder = raw / SLICES
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    cases = []
    names = sorted(path.name for path in (EMBEDDED / "labelsTr").iterdir())[:VOLUMES]
    for name in names:
        patient = name.removesuffix(".nii.gz")
        image = _values(EMBEDDED / "imagesTr" / f"{patient}_0000.nii.gz")
        label = _values(EMBEDDED / "labelsTr" / name)
        image = np.clip(255 * image / np.percentile(image, 99.5), 0, 255).astype(np.uint8)
        for share in SLICES_OF_A_VOLUME:
            index = int(share * len(image))
            case = f"{patient}_slice{index}"
            cases.append(case)
            _save_png(folder / "imagesTr" / f"{case}_0000.png", image[index])
            _save_png(folder / "labelsTr" / f"{case}.png", label[index].astype(np.uint8))
        _save_png(folder / "imagesTs" / f"{patient}_test_0000.png", image[len(image) // 2 + 1])
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(cases),
        "file_ending": ".png",
    }
    write_json(folder / "dataset.json", description)
    return cases


def _write_channels(source: Path, target: Path, case: str) -> None:
    image = SimpleITK.ReadImage(str(source / f"{case}_0000.nii.gz"), SimpleITK.sitkFloat32)
    image = image[:, :, KEPT_SLICES]
    values = SimpleITK.GetArrayFromImage(image)
    for channel, content in enumerate((values, gaussian_filter(values, 1))):
        _write_like(image, content, target / f"{case}_{channel:04d}.nii.gz")


def _write_like(image: SimpleITK.Image, values: np.ndarray, path: Path) -> None:
    written = SimpleITK.GetImageFromArray(values)
    written.CopyInformation(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(written, str(path))


def _values(path: Path) -> Any:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _save_png(path: Path, values: np.ndarray) -> None:
    io.imsave(path, values, check_contrast=False)
