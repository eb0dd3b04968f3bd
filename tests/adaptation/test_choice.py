"""An adapter is chosen by distance of the backbone's features."""

import math

import pytest
import torch
from torch import nn

from nnunet_iac.adaptation.choice import (
    NOISE,
    SLACK,
    TILES,
    Site,
    choose,
    statistics,
    tiles,
)

MANY = 10**9
"""Cases of a site whose mean is exact."""


def test_the_distance_is_the_root_mean_square_in_units_of_the_spread() -> None:
    spread = torch.tensor([1.0, 2.0])
    sites = {
        "none": Site(torch.tensor([0.0, 0.0]), MANY, 1.0),
        "site": Site(torch.tensor([3.0, 2.0]), 2, 2.0),
    }
    found = choose(torch.tensor([3.0, 0.0]), sites, spread)
    assert found.distances["none"] == pytest.approx(math.sqrt(9 / 2))
    assert found.distances["site"] == pytest.approx(math.sqrt(1 / 2 - NOISE / 2))
    assert found.name == "site"
    assert found.fits
    assert found.margin == pytest.approx((math.sqrt(4.5) - 0.5) / (math.sqrt(4.5) + 0.5))
    assert Site(torch.zeros(2), 1, math.nan).distance(torch.zeros(2), spread) == 0


def test_an_image_far_from_every_site_fits_none() -> None:
    places = {"a": 0.0, "b": 9.0}
    sites = {name: Site(torch.tensor([place]), MANY, 1.0) for name, place in places.items()}
    spread = torch.ones(1)
    assert choose(torch.tensor([-SLACK]), sites, spread).fits
    far = choose(torch.tensor([-SLACK - 0.1]), sites, spread)
    assert far.name == "a"
    assert not far.fits
    assert "unlike the cases of every site" in str(far)


def test_the_farthest_case_of_a_site_is_measured_to_the_mean_of_the_others() -> None:
    site = Site.of([torch.tensor([x]) for x in (0.0, 1.0, 5.0)], torch.ones(1))
    assert site.mean.tolist() == [2.0]
    assert site.cases == 3
    assert site.farthest == pytest.approx(math.sqrt(4.5**2 - NOISE / 2))
    assert math.isnan(Site.of([torch.zeros(1)], torch.ones(1)).farthest)


def test_a_site_of_one_case_borrows_the_limit_of_the_others() -> None:
    sites = {
        "none": Site(torch.tensor([9.0]), MANY, 2.0),
        "one": Site(torch.tensor([0.0]), MANY, math.nan),
    }
    assert choose(torch.tensor([-2.9]), sites, torch.ones(1)).fits
    assert not choose(torch.tensor([-3.1]), sites, torch.ones(1)).fits


@pytest.mark.parametrize(
    ("shape", "patch", "count"),
    [((1, 3, 8, 8), (8, 8), 3), ((1, 2, 9, 8), (8, 8), 4), ((2, 9, 8, 8), (8, 8, 8), 2)],
)
def test_tiles_cover_an_image(shape, patch, count) -> None:
    image = torch.rand(shape)
    found = list(tiles(image, patch))
    assert len(found) == count
    assert {tuple(tile.shape) for tile in found} == {(shape[0], *patch)}
    assert sum(tile.sum() for tile in found) == pytest.approx(float(image.sum()), rel=1e-5)


def test_no_more_than_so_many_tiles_of_a_large_image() -> None:
    for dimension, most in TILES.items():
        image, patch = torch.zeros(1, 3 * most - 1, *[4] * dimension), [4] * dimension
        assert most // 2 < len(list(tiles(image, patch))) <= most


def test_statistics_are_mean_and_deviation_of_all_features() -> None:
    def encoder(x):
        return [nn.Identity()(x), torch.cat((x, 2 * x), 1)]

    image = torch.arange(16.0).view(1, 1, 4, 4)
    found = statistics(encoder, image, (4, 4))
    std = float(image.std(correction=0))
    torch.testing.assert_close(found, torch.tensor([7.5, std, 7.5, 15, std, 2 * std]))
