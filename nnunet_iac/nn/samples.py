"""Images as samples of voxels with the channels innermost, as both cells compute with them."""

import torch
from jaxtyping import Float
from torch import Tensor

from nnunet_iac.nn.cell import Image

Samples = Float[Tensor, "_ _ _"]
"""(samples, voxels, channels): the voxels of an image one after another.

Statistics are those of one sample: an image for instance norm, the whole batch for batch norm.
"""


def samples_of(image: Image, over_batch: bool) -> Samples:
    """Return an image as samples: one of all its batch if `over_batch`."""
    return joined_samples(image.movedim(1, -1).flatten(1, -2), over_batch)


def joined_samples(x: Samples, over_batch: bool) -> Samples:
    """Return samples of one image each as samples whose voxels share their statistics."""
    return x.reshape(1, -1, x.shape[2]) if over_batch else x


def image_of(x: Samples, shape: torch.Size) -> Image:
    """Return a view of samples as an image of batch and spatial axes as in `shape`."""
    return x.view(shape[0], *shape[2:], x.shape[2]).movedim(-1, 1)
