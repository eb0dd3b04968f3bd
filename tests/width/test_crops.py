import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.width.crops import central_crops, spread_cases, training_cases

CASES = [f"case_{number}" for number in range(6)]


def test_only_training_cases_of_the_fold_are_used(source):
    assert training_cases(source(), 0) == CASES[:4]
    assert training_cases(source(), "1") == CASES[2:]
    assert training_cases(source(), "all") == CASES


def test_without_a_file_of_splits_nnunets_own_is_used_and_not_written(source):
    given = source()
    splits = given.folder / "splits_final.json"
    splits.unlink()
    expected = generate_crossval_split(CASES, seed=12345, n_splits=5)[2]["train"]
    assert training_cases(given, 2) == sorted(expected)
    assert not splits.exists()


def test_a_fold_beyond_the_file_is_nnunets_random_split(source):
    draw = np.random.RandomState(seed=12345 + 7).choice(6, 4, replace=False)  # 80 % of 6
    assert training_cases(source(), 7) == sorted(CASES[index] for index in draw)


def test_cases_are_spread_evenly(source):
    assert spread_cases(source(), "all", 3) == ("case_0", "case_2", "case_4")
    assert spread_cases(source(), 0, 4) == tuple(CASES[:4])


@pytest.mark.parametrize("images", [0, 5, 16])
def test_more_images_than_cases_are_refused_with_both_numbers(source, images):
    with pytest.raises(ValueError, match=f"the 4 training cases of fold 0.* got {images}"):
        spread_cases(source(), 0, images)


def test_a_crop_for_slices_is_the_middle_of_the_middle_slice(source):
    (crop,) = central_crops(source(), ["case_3"])
    image = np.random.default_rng(3).standard_normal((2, 8, 20, 14)).astype(np.float32)
    # 20 rows are cut to the 16 from 2 on; 14 columns get a zero on each side.
    assert crop.shape == (1, 2, 16, 16)
    assert torch.equal(crop[0, 0, :, 1:15], torch.from_numpy(image[0, 4, 2:18]))
    assert torch.equal(crop[0, 1, :, 1:15], torch.full((16, 14), 4.0))
    assert not crop[..., 0].any()
    assert not crop[..., 15].any()


def test_a_crop_for_volumes_keeps_all_slices(source):
    (crop,) = central_crops(source("3d_fullres"), ["case_0"])
    assert crop.shape == (1, 2, 8, 16, 16)
    assert torch.equal(crop[0, 1, :, 8, 8], torch.arange(8.0))


def test_values_that_are_not_finite_are_refused_by_case(source, tmp_path):
    given = source(data_identifier="broken")
    folder = given.folder / "broken"
    folder.mkdir()
    data = np.full((2, 8, 20, 14), np.nan, dtype=np.float32)
    labels = np.zeros((1, 8, 20, 14), dtype=np.int8)
    shapes = {"chunks_seg": labels.shape, "blocks_seg": labels.shape}
    nnUNetDatasetBlosc2.save_case(
        data, labels, {}, str(folder / "case_9"), data.shape, data.shape, **shapes
    )
    with pytest.raises(ValueError, match="must be finite; case_9"):
        central_crops(given, ["case_9"])


def test_data_that_are_not_preprocessed_print_the_command_that_does(source):
    given = source(data_identifier="nnUNetPlans_absent")
    with pytest.raises(FileNotFoundError, match="nnUNetPlans_absent has no cases") as caught:
        training_cases(given, 0)
    assert "nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 2d" in str(caught.value)


def test_too_few_cases_for_nnunets_split_are_refused(source):
    given = source(data_identifier="few")
    (given.folder / "few").mkdir()
    for case in CASES[:2]:
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (given.folder / "few" / f"{case}{ending}").touch()
    (given.folder / "splits_final.json").unlink()
    with pytest.raises(ValueError, match=r"needs 5 cases .* and 2 are preproc"):
        training_cases(given, 0)


def test_a_file_of_splits_with_foreign_cases_is_refused(source):
    given = source()
    write_json(given.folder / "splits_final.json", [{"train": ["case_8"], "val": CASES[:1]}])
    with pytest.raises(ValueError, match="case_8 under 'train' of fold 0"):
        training_cases(given, 0)
