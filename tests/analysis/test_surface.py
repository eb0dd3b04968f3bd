"""HD95 and NSD against values by hand and an independent nearest-neighbour search."""

import math
import sys

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import cKDTree

from nnunet_iac.analysis.scores.surface import (
    SurfaceScore,
    read_surface_scores,
    require_monai,
    require_tolerance,
    surface_score,
)


def _mask(shape, *voxels):
    mask = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


# -- by hand -------------------------------------------------------------------------------------


def test_equal_masks_touch_everywhere():
    cube = _mask((5, 6, 7), (slice(1, 4), slice(1, 4), slice(1, 4)))
    assert surface_score(cube, cube, (1, 1, 1)) == SurfaceScore(0.0, 1.0)


@pytest.mark.parametrize(("axis", "distance"), [(0, 3 * 2.0), (1, 3 * 0.5), (2, 3 * 1.25)])
def test_the_distance_of_two_voxels_counts_the_spacing_of_their_axis(axis, distance):
    spacing = (2.0, 0.5, 1.25)
    moved = [1, 1, 1]
    moved[axis] += 3
    one, other = _mask((6, 6, 6), (1, 1, 1)), _mask((6, 6, 6), tuple(moved))
    assert surface_score(one, other, spacing, tolerance=distance) == SurfaceScore(distance, 1.0)
    assert surface_score(one, other, spacing, tolerance=distance - 0.01).nsd == 0.0


def test_hd95_is_the_larger_of_the_two_directed_percentiles():
    # The truth is the voxel 0; the prediction the voxels 0 to 20 of a line at 0.5 mm. Truth to
    # prediction is 0 everywhere; prediction to truth is 0, 0.5 to 10 mm in 21 equal steps, whose
    # 95th percentile is the 20th of 21 values: 9.5 mm.
    line = _mask((1, 21), (0, slice(None)))
    start = _mask((1, 21), (0, 0))
    assert surface_score(line, start, (1.0, 0.5)).hd95 == pytest.approx(9.5)
    assert surface_score(start, line, (1.0, 0.5)).hd95 == pytest.approx(9.5)


def test_nsd_is_the_share_of_both_boundaries_within_the_tolerance():
    # Of the prediction's 21 voxels 0, 0.5 and 1 mm lie within 1 mm of the truth's one voxel, and
    # that one on the prediction: (3 + 1) / (21 + 1).
    line = _mask((1, 21), (0, slice(None)))
    start = _mask((1, 21), (0, 0))
    assert surface_score(line, start, (1.0, 0.5), 1.0).nsd == pytest.approx(4 / 22)


def test_the_inside_is_no_surface():
    # 5 x 5 around 3 x 3: 16 boundary pixels to 8, of which the 4 corners have the distance
    # sqrt(2). The other way all 8 are 1 away. 95th percentile of twelve 1 and four sqrt(2):
    # sqrt(2). Within 1 mm lie (12 + 8) / (16 + 8).
    large = _mask((9, 9), (slice(2, 7), slice(2, 7)))
    small = _mask((9, 9), (slice(3, 6), slice(3, 6)))
    found = surface_score(large, small, (1, 1), 1.0)
    assert found.hd95 == pytest.approx(math.sqrt(2))
    assert found.nsd == pytest.approx(20 / 24)


def test_a_class_that_both_lack_has_no_score_and_one_that_one_lacks_no_distance():
    voxel, nothing = _mask((3, 3), (1, 1)), _mask((3, 3))
    assert surface_score(nothing, nothing, (1, 1)) is None
    assert surface_score(voxel, nothing, (1, 1)) == SurfaceScore(None, 0.0)
    assert surface_score(nothing, voxel, (1, 1)) == SurfaceScore(None, 0.0)


# -- an independent implementation ---------------------------------------------------------------


def _boundary(mask, spacing):
    """Return the mm positions of mask voxels with a neighbour by a face that is outside."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            neighbour = np.roll(padded, step, axis)
            inside &= neighbour[(slice(1, -1),) * mask.ndim]
    return np.argwhere(mask & ~inside) * np.asarray(spacing)


def _independent(prediction, truth, spacing, tolerance):
    one, other = (_boundary(mask, spacing) for mask in (prediction, truth))
    there, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    directed = [np.percentile(distances, 95) for distances in (there, back)]
    return max(directed), near / (len(there) + len(back))


MASKS = st.sampled_from([(9, 7), (5, 6, 4)]).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape).filter(np.any)] * 2)
)


@given(MASKS, st.lists(st.sampled_from([0.4, 0.7, 1.0, 2.5]), min_size=3, max_size=3))
def test_both_agree_with_an_independent_search_of_nearest_voxels(masks, spacing):
    spacing = spacing[: masks[0].ndim]
    tolerance = 1.1  # No distance of these spacings, which rounding could put on either side.
    hd95, nsd = _independent(*masks, spacing, tolerance)
    found = surface_score(*masks, spacing, tolerance)
    assert found.hd95 == pytest.approx(hd95, abs=1e-5)
    assert found.nsd == pytest.approx(nsd, abs=1e-6)
    assert surface_score(*masks[::-1], spacing, tolerance).hd95 == pytest.approx(hd95, abs=1e-5)


def test_both_agree_on_blobs_that_reach_the_border():
    grid = np.stack(np.meshgrid(*map(np.arange, (12, 30, 26)), indexing="ij"), axis=-1)
    spacing = (3.0, 0.8, 0.8)
    masks = [
        np.linalg.norm((grid - centre) * spacing, axis=-1) < radius
        for centre, radius in (((2, 4, 5), 9.0), ((3.3, 7.7, 4.1), 8.0))
    ]
    found = surface_score(*masks, spacing, 1.1)
    hd95, nsd = _independent(*masks, spacing, 1.1)
    assert 0 < nsd < 1
    assert (found.hd95, found.nsd) == pytest.approx((hd95, nsd), abs=1e-5)


# -- files ---------------------------------------------------------------------------------------


def _write(path, array, spacing):
    """Write an image; the spacing is given as the array's axes run."""
    image = SimpleITK.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(tuple(map(float, spacing[::-1])))
    SimpleITK.WriteImage(image, str(path))
    return path


def test_files_are_measured_in_their_headers_millimetres_per_class(tmp_path):
    predicted, true = np.zeros((4, 5, 6)), np.zeros((4, 5, 6))
    predicted[0, 0, 0], true[2, 0, 0] = 1, 1  # Two slices of 3 mm apart.
    predicted[3, 4, 5] = 2  # And nowhere in the truth.
    spacing = (3.0, 0.5, 0.25)
    found = read_surface_scores(
        _write(tmp_path / "a.nii.gz", predicted, spacing),
        _write(tmp_path / "b.nii.gz", true, spacing),
        ("1", "2", "3"),
        tolerance=1.0,
    )
    assert found == {"1": SurfaceScore(6.0, 0.0), "2": SurfaceScore(None, 0.0)}


def test_a_region_is_all_of_its_labels(tmp_path):
    predicted, true = np.zeros((5, 5)), np.zeros((5, 5))
    predicted[1:3, 1], true[1, 1], true[2, 1] = 1, 1, 2
    paths = [
        _write(tmp_path / f"{name}.nii.gz", array, (1, 1))
        for name, array in (("a", predicted), ("b", true))
    ]
    found = read_surface_scores(*paths, ("(1, 2)", "2"))
    assert found == {"(1, 2)": SurfaceScore(0.0, 1.0), "2": SurfaceScore(None, 0.0)}


def test_images_of_another_size_or_spacing_are_refused(tmp_path):
    truth = _write(tmp_path / "truth.nii.gz", np.ones((4, 4)), (1, 1))
    for array, spacing, message in (
        (np.ones((4, 5)), (1, 1), r"a\.nii\.gz has \(4, 5\) at 1 x 1 mm and .*\(4, 4\)"),
        (np.ones((4, 4)), (1, 2), r"a\.nii\.gz has \(4, 4\) at 1 x 2 mm and .* at 1 x 1 mm"),
    ):
        prediction = _write(tmp_path / "a.nii.gz", array, spacing)
        with pytest.raises(ValueError, match=message):
            read_surface_scores(prediction, truth, ("1",))


def test_a_missing_image_is_named(tmp_path):
    truth = _write(tmp_path / "truth.nii.gz", np.ones((4, 4)), (1, 1))
    with pytest.raises(FileNotFoundError, match=r"absent\.nii\.gz does not exist"):
        read_surface_scores(tmp_path / "absent.nii.gz", truth, ("1",))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, math.inf])
def test_a_tolerance_that_is_no_length_is_refused(tolerance):
    with pytest.raises(ValueError, match=f"millimetres; got {tolerance}"):
        require_tolerance(tolerance)


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(RuntimeError, match=r"monai.*pip install '\.\[surface\]'"):
        require_monai()
