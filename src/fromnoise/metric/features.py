"""Pixel features: the pictures themselves, as long vectors.

The unit of a pixel is 1 = white, 0 = black, so a distance of 1 between two pictures is one sample (one channel of one
pixel) off by its full range, and a squared distance is a sum over all samples, not a mean.
"""

import torch
from torch import Tensor

from fromnoise.errors import WrongUse


def pixel_features(images: Tensor) -> Tensor:
    """uint8 ``images`` (B, C, H, W) -> float64 (B, C·H·W) in [0, 1], the picture divided by 255.

    Raises :class:`~fromnoise.errors.WrongUse` for another type or number of axes.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise WrongUse(
            f"pixel features need uint8 pictures of shape (B, C, H, W), not {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    return images.flatten(1).double() / 255
