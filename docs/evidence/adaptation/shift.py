"""Write the hippocampus as another scanner would show it: python shift.py.

Dataset032_HippocampusMild gets the test cases of Dataset004_Hippocampus, whose patients no network
has seen, from nnUNet_raw into nnUNet_raw. Nothing is random; every image is changed in three ways,
and the labels stay:

    contrast    intensities between their percentiles 0.5 and 99.5 are scaled to [0, 1] and raised
                to the power `GAMMA`
    bias field  they are multiplied by exp(`BIAS` . (x, y, z)), with coordinates from -1 to 1
    resolution  every second slice is left out along the first axis and interpolated again, after a
                Gaussian of `BLUR` voxels in all directions
"""

import shutil

import numpy as np
import SimpleITK

from nnunet_iac.host.folders import raw_folder
from nnunet_iac.runs.atomic import read_json, write_json

SOURCE, TARGET = "Dataset004_Hippocampus", "Dataset032_HippocampusMild"
GAMMA, BIAS, BLUR = 0.7, (0.22, -0.15, 0.15), 0.6
"""How the scanner differs."""

POOL = 12
"""Cases to draw from; the others are the test."""


def shifted(image: SimpleITK.Image) -> SimpleITK.Image:
    """Return an image as the other scanner shows it, on the same grid."""
    array = SimpleITK.GetArrayFromImage(image).astype(np.float64)
    low, high = np.percentile(array, (0.5, 99.5))
    contrast = np.clip((array - low) / (high - low), 0, 1) ** GAMMA
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape), indexing="ij")
    field = np.exp(sum(b * axis for b, axis in zip(BIAS, (x, y, z), strict=True)))
    found = SimpleITK.GetImageFromArray((contrast * field).astype(np.float32))
    found.CopyInformation(image)
    blurred = SimpleITK.DiscreteGaussian(found, variance=BLUR**2, useImageSpacing=False)
    coarse = SimpleITK.Shrink(blurred, (2, 1, 1))
    resample = SimpleITK.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetInterpolator(SimpleITK.sitkLinear)
    resample.UseNearestNeighborExtrapolatorOn()
    return resample.Execute(coarse)


def main() -> None:
    """Write the data set, unless it is there."""
    source, target = raw_folder(SOURCE), raw_folder(SOURCE).with_name(TARGET)
    if (target / "splits_final.json").is_file():  # Written last.
        return
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTs").iterdir())
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True, exist_ok=True)
    for case in cases:
        image = SimpleITK.ReadImage(str(source / "imagesTs" / f"{case}_0000.nii.gz"))
        SimpleITK.WriteImage(shifted(image), str(target / "imagesTr" / f"{case}_0000.nii.gz"))
        shutil.copy(source / "labelsTs" / f"{case}.nii.gz", target / "labelsTr")
    document = {**read_json(source / "dataset.json"), "numTraining": len(cases), "name": TARGET}
    write_json(target / "dataset.json", document)
    pool = cases[:: len(cases) // POOL][:POOL]
    rest = [case for case in cases if case not in pool]
    write_json(target / "splits_final.json", [{"train": pool, "val": rest}])


if __name__ == "__main__":
    main()
