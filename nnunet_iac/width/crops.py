"""The images that sensitivities are measured on: central crops of the fold's training cases."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from nnunetv2.utilities.crossval_split import generate_crossval_split
from torch import Tensor

from nnunet_iac.host.planning import preprocess_command
from nnunet_iac.host.preprocessed import preprocessed_cases, preprocessed_dataset
from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.splits import FOLDS, SPLIT_SEED, SPLITS, require_splits
from nnunet_iac.width.source import Source

FoldName = int | str
"""A number, or `all`."""


def spread_cases(source: Source, fold: FoldName, images: int) -> tuple[str, ...]:
    """Return so many of the fold's training cases, evenly spread over their sorted names."""
    cases = training_cases(source, fold)
    if not 1 <= images <= len(cases):
        raise ValueError(
            f"the number of images must be between 1 and the {len(cases)} training cases of fold "
            f"{fold}, one from each; got {images}: use -K {min(len(cases), max(images, 1))}"
        )
    return tuple(cases[index * len(cases) // images] for index in range(images))


def training_cases(source: Source, fold: FoldName) -> list[str]:
    """Return the sorted names of the cases that nnU-Net trains a fold on; nothing is written.

    Without a splits_final.json they are those of the one that nnU-Net would write.
    """
    folder = source.data_folder
    if not (cases := preprocessed_cases(folder)):
        names = source.folder.name, source.plans["plans_name"], source.configuration
        raise FileNotFoundError(
            f"the data must be preprocessed; {folder} has no cases: run\n"
            f"  {preprocess_command(*names)}"
        )
    if fold == "all":
        return cases
    if not str(fold).isdecimal():
        raise ValueError(f"the fold must be a number from 0, or all; got {fold!r}")
    number = int(fold)
    path = source.folder / SPLITS
    require_splits(path, number, cases)
    if path.is_file():
        splits = read_json(path)
    else:
        splits = generate_crossval_split(cases, seed=SPLIT_SEED, n_splits=FOLDS)
    if number < len(splits):
        return sorted(map(str, splits[number]["train"]))
    # nnU-Net's draw for a fold beyond the file.
    draw = np.random.RandomState(seed=SPLIT_SEED + number)
    chosen = draw.choice(len(cases), int(len(cases) * 0.8), replace=False)
    return sorted(cases[index] for index in chosen)


def central_crops(
    source: Source, cases: Sequence[str]
) -> list[Float[Tensor, "1 channels *spatial"]]:
    """Return the middle of every case, cropped or padded with zeros to the patch.

    Of a volume that is cut into slices for a two-dimensional network, the middle slice.
    """
    folder = source.data_folder
    data = preprocessed_dataset(folder, cases)
    crops = []
    for case in cases:
        image = data.load_case(case)[0]
        middle = slice(None) if len(source.patch_size) == 3 else image.shape[1] // 2
        crop = _central(np.asarray(image[:, middle], dtype=np.float32), source.patch_size)
        if not np.isfinite(crop).all():
            raise ValueError(
                f"preprocessed images must be finite; {case} in {folder} is not: preprocess it anew"
            )
        crops.append(torch.from_numpy(crop)[None])
    return crops


def _central(
    image: Float[np.ndarray, " channels *spatial"], patch_size: Sequence[int]
) -> Float[np.ndarray, " channels *spatial"]:
    result = np.zeros((len(image), *patch_size), dtype=np.float32)
    there, here = [slice(None)], [slice(None)]
    for size, wanted in zip(image.shape[1:], patch_size, strict=True):
        common = min(size, wanted)
        there.append(slice((size - common) // 2, (size - common) // 2 + common))
        here.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
    result[tuple(here)] = image[tuple(there)]
    return result
