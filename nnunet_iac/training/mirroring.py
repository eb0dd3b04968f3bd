"""Mirroring, in training and in prediction, along axes that the backbone was mirrored along too."""

import functools
from collections.abc import Iterator
from typing import Any

CONFIGURE = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
"""nnU-Net's method that decides, besides other things, along which axes a trainer mirrors."""

Axes = tuple[int, ...] | None
"""Axes that are mirrored; None, as in nnU-Net, for none."""


def keep_to(trainer: Any, axes: Axes) -> None:
    """Let a trainer mirror along no other axes than its backbone, and predict with the same."""
    configure = getattr(trainer, CONFIGURE)

    @functools.cache
    def log(own: Axes) -> None:
        for line in _differences(type(trainer).__name__, own, axes):
            trainer.print_to_log_file(line)

    def kept() -> tuple[Any, ...]:
        *others, own = configure()
        log(own)
        trainer.inference_allowed_mirroring_axes = shared = common_axes(own, axes)
        return *others, shared

    setattr(trainer, CONFIGURE, kept)


def common_axes(own: Axes, others: Axes) -> Axes:
    """Return the axes in both, in the first one's order."""
    return tuple(axis for axis in own or () if axis in (others or ())) or None


def _differences(name: str, own: Axes, backbone: Axes) -> Iterator[str]:
    """Yield what must be known where a trainer by itself would mirror other than its backbone."""
    shared = common_axes(own, backbone)
    if shared != own:
        yield (
            f"Training and prediction have {_text(shared)}, since the backbone's had "
            f"{_text(backbone)}; {name} by itself has {_text(own)}"
        )
    if shared != common_axes(backbone, backbone):
        yield (
            f"WARNING: {name} has {_text(shared)}, also where it validates the backbone, whose own "
            f"validation had {_text(backbone)}: compare the run with its iac/reference"
        )


def _text(axes: Axes) -> str:
    return f"mirroring along {', '.join(map(str, axes))}" if axes else "no mirroring"
