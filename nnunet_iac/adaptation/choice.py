"""Which adapter suits an image, by statistics of the frozen backbone's features.

The statistics s(x) of an image are the mean and the standard deviation, over all voxels, of every
channel of all the encoder's feature maps. An adapter stores their mean m over its n training cases
and over training cases of the source, and their standard deviation sigma over the latter. The
distance of an image to a site is

    d(x) = sqrt(max(mean_f ((s_f(x) - m_f) / sigma_f)^2 - NOISE / n, 0)),

and the nearest site wins; the source's is the backbone without an adapter. A mean of n cases is off
by sigma^2 / n if they vary as the source's do, which would make every image look far from a site of
few cases. Stages and `NOISE` were chosen in docs/evidence/adaptation/choice.py, on cases that are
neither tested nor validated on.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Features = Float[Tensor, " features"]
CaseImage = Float[Tensor, "channels *spatial"]
"""A preprocessed case; in front of the axes of a 2-D patch its slices."""

NO_ADAPTER = "none"
"""The name of the backbone without an adapter."""

AUTO = "auto"
"""Instead of an adapter: whichever suits an image."""

TILES = {2: 64, 3: 8}
"""At most so many patches of an image are looked at, evenly spread, by their dimension."""

NOISE = 0.5
"""How much of the squared error of a site's mean is taken off a squared distance, in sigma^2."""

SLACK = 1.5
"""An image fits a site up to this multiple of the distance of the site's own farthest case."""


@dataclass(frozen=True)
class Site:
    """Distribution of the images of one site.

    Args:
        mean: m, over the site's cases.
        cases: n, how many these are.
        farthest: the largest distance of one of its cases to the mean of the others; NaN of one
            case alone.
    """

    mean: Features
    cases: int
    farthest: float

    @classmethod
    def of(cls, cases: Sequence[Features], spread: Features) -> "Site":
        """Return the site of the statistics of its cases."""
        total, count = sum(cases, torch.zeros_like(cases[0])), len(cases)
        others = [(total - case) / (count - 1) for case in cases] if count > 1 else []
        far = [
            distance(case, mean, count - 1, spread)
            for case, mean in zip(cases, others, strict=False)
        ]
        return cls(total / count, count, max(far, default=math.nan))

    def distance(self, case: Features, spread: Features) -> float:
        """Return d of an image."""
        return distance(case, self.mean, self.cases, spread)


@dataclass(frozen=True)
class AdapterChoice:
    """The site chosen for an image.

    Args:
        name: of the adapter, or `none`.
        distances: to every site, by name.
        margin: (d2 - d1) / (d2 + d1) of the nearest two: 0 is a toss-up; 1 is an image that lies on
            the mean of its site.
        fits: whether the image is about as near as the site's own cases.
    """

    name: str
    distances: Mapping[str, float]
    margin: float
    fits: bool

    def __str__(self) -> str:
        order = sorted(self.distances.items(), key=lambda item: item[1])
        found = ", ".join(f"{name} {distance:.2f}" for name, distance in order)
        warning = "" if self.fits else "; WARNING: the image is unlike the cases of every site"
        return f"{self.name} (margin {self.margin:.2f}; distances: {found}){warning}"


def choose(case: Features, sites: Mapping[str, Site], spread: Features) -> AdapterChoice:
    """Return the nearest of at least two sites."""
    distances = {name: site.distance(case, spread) for name, site in sites.items()}
    first, second = sorted(distances, key=lambda name: distances[name])[:2]
    near, next_ = distances[first], distances[second]
    known = [site.farthest for site in sites.values() if not math.isnan(site.farthest)]
    own = sites[first].farthest
    limit = SLACK * (max(known, default=math.inf) if math.isnan(own) else own)
    return AdapterChoice(first, distances, (next_ - near) / max(next_ + near, 1e-12), near <= limit)


@torch.no_grad()
def statistics(encoder: Any, image: CaseImage, patch: Any, device: str = "cpu") -> Features:
    """Return s of a preprocessed image, whose patches of the plans' size tile it.

    The encoder is on the device.

    Of a 2-D network the patches are slices; an image that is no multiple of the patch is padded
    with zeros, as nnU-Net does.
    """
    found = []
    for tile in tiles(image, tuple(patch)):
        maps = [features.flatten(2) for features in encoder(tile[None].to(device))]
        found.append(torch.cat([s[0] for m in maps for s in (m.mean(2), m.std(2, correction=0))]))
    return torch.stack(found).mean(0).cpu()


def tiles(image: CaseImage, patch: Sequence[int]) -> Iterable[Tensor]:
    """Yield the patches that tile an image, (channels, *patch), at most `TILES` of them."""
    stack = image.ndim - 1 - len(patch)
    sizes = image.shape[1 + stack :]
    counts = [-(-size // side) for size, side in zip(sizes, patch, strict=True)]
    padding = [
        end
        for size, side, count in zip(sizes[::-1], patch[::-1], counts[::-1], strict=True)
        for end in (0, count * side - size)
    ]
    padded = functional.pad(image, padding)
    places = list(product(*map(range, (*image.shape[1 : 1 + stack], *counts))))
    for place in places[:: -(-len(places) // TILES[len(patch)])]:
        corner: list[Any] = [
            slice(n * side, (n + 1) * side) for n, side in zip(place[stack:], patch, strict=True)
        ]
        at: tuple[Any, ...] = (slice(None), *place[:stack], *corner)
        yield padded[at]


def distance(
    case: Features, mean: Features, cases: int, spread: Features, noise: float = NOISE
) -> float:
    """Return d of an image to a site of so many cases."""
    square = float(((case - mean) / spread).square().mean())
    return math.sqrt(max(square - noise / cases, 0.0))
