"""The widths among which one is chosen: a U-Net's channels per stage under a cap.

XTinyU-Net (arXiv 2605.09639), candidates. Everything but the channels stays: stages, strides,
patch, batch size and `data_identifier`, so that all candidates share their preprocessed data.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST_CANDIDATES = 5
"""With fewer candidates the curve has too few points."""

FEATURES = "features_per_stage"


@dataclass(frozen=True)
class Candidate:
    """A width: the cap, and the channels per stage under it."""

    cap: int
    features: tuple[int, ...]


def caps_of(features: Sequence[int]) -> tuple[int, ...]:
    """Return the published caps: the largest number of channels, halved in integers down to 1.

    320 gives 320, 160, 80, 40, 20, 10, 5, 2, 1.
    """
    return tuple(max(features) >> halvings for halvings in range(max(features).bit_length()))


def candidates(
    architecture: Mapping[str, Any], caps: Sequence[int] | None = None
) -> tuple[Candidate, ...]:
    """Return the candidates of a network in plans, the widest first.

    `caps` may be others than `caps_of`, in any order; one given twice counts once.
    """
    wanted = caps_of(features_of(architecture)) if caps is None else caps
    chosen = [candidate(architecture, cap) for cap in sorted(set(wanted), reverse=True)]
    if len(chosen) < FEWEST_CANDIDATES:
        raise ValueError(
            f"a width is chosen among at least {FEWEST_CANDIDATES} candidates; got the "
            f"{len(chosen)} caps {', '.join(str(each.cap) for each in chosen)}: give more with "
            "--caps, or take one with --cap"
        )
    return tuple(chosen)


def candidate(architecture: Mapping[str, Any], cap: int) -> Candidate:
    """Return one candidate of a network in plans; errors as of `candidates`."""
    features = features_of(architecture)
    if not 1 <= cap <= max(features):
        raise ValueError(
            f"a cap must be between 1 and the widest stage, {max(features)} channels; got {cap}"
        )
    return Candidate(cap, capped_features(features, cap))


def with_widest(architecture: Mapping[str, Any], cap: int) -> tuple[Candidate, ...]:
    """Return the widest candidate and that of a cap; one where they are the same."""
    widest = max(features_of(architecture))
    return tuple(candidate(architecture, each) for each in sorted({widest, cap}, reverse=True))


def capped_features(features: Sequence[int], cap: int) -> tuple[int, ...]:
    """Return min(cap, F_i) for the channels F_i of every stage."""
    return tuple(min(cap, width) for width in features)


def capped(architecture: Mapping[str, Any], cap: int) -> dict[str, Any]:
    """Return a full copy of a network in plans with no stage wider than `cap`.

    It must be full, since nnU-Net's configurations inherit whole sections only.
    """
    result = copy.deepcopy(dict(architecture))
    kwargs = result["arch_kwargs"]
    kwargs[FEATURES] = list(candidate(architecture, cap).features)
    for key in ("stem_channels", "bottleneck_channels"):  # Of residual encoders.
        if isinstance(given := kwargs.get(key), list):
            kwargs[key] = list(capped_features(given, cap))
        elif given is not None:
            kwargs[key] = min(cap, given)
    return result


def features_of(architecture: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the channels per stage of a network in plans, which must not shrink."""
    found = architecture["arch_kwargs"].get(FEATURES)
    if found is None:
        encoder = architecture["arch_kwargs"].get("encoder", "another one")
        raise ValueError(
            f"a width is chosen for networks with {FEATURES} in their plans, such as nnU-Net's "
            f"PlainConvUNet and ResidualEncoderUNet; the plans describe a "
            f"{architecture['network_class_name']} (encoder {encoder}), whose width is fixed: "
            "start from plans of nnU-Net's own planners"
        )
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(width, int) and width >= 1 for width in found)
        or found != sorted(found)
    ):
        raise ValueError(
            f"{FEATURES} must be whole numbers from 1 that never shrink from stage to stage, for "
            f"a cap to order the candidates; the plans have {found}: correct them"
        )
    return tuple(found)
