"""Pictures that a person gives, as a model sees them. Each is refused in one line if it does not fit."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromnoise.config import Config
from fromnoise.data import Fit, Unreadable
from fromnoise.data.decode import decode
from fromnoise.errors import WrongUse
from fromnoise.types import Images

_Pixels = NDArray[np.uint8]


def read_picture(path: Path, config: Config, *, fit: bool = False) -> Images:
    """A picture of the model's size, uint8 (1, C, H, W); with ``fit``, of any, resized and cropped as for training.

    Raises ``WrongUse`` for another size and for what cannot be read.
    """
    return _fitted(_of_size(_decoded(path), path, config, fit), config, _size(config))


def read_hole(path: Path, mask: Path, config: Config, *, fit: bool = False) -> tuple[Images, Tensor]:
    """A picture as by :func:`read_picture`, and where to make it anew: bool (1, 1, H, W), where ``mask`` is white.

    With ``fit``, the mask goes through what the picture goes through. Raises ``WrongUse``, too, for a mask of another
    size than the picture and for one without white.
    """
    array, white = _decoded(path), _decoded(mask)
    if white.shape[:2] != array.shape[:2]:
        raise WrongUse(f"the mask {mask} has {_sides(white)} pixels (height x width), the picture {_sides(array)}")
    picture = _fitted(_of_size(array, path, config, fit), config, _size(config))
    height, width = _size(config)
    # What is transparent in a mask is not white.
    same = Fit(
        height=height,
        width=width,
        channels=1,
        background=(0, 0, 0),
        fit=config.data.fit,
        filter=config.data.filter,
    )
    hole = torch.from_numpy(same(white) > 127)[None]
    if not hole.any():
        raise WrongUse(f"the mask {mask} has no white, so there is nothing to fill in")
    return picture, hole


def read_small(path: Path, config: Config) -> tuple[Images, int]:
    """A picture to be enlarged to the model's size, uint8 (1, C, h, w), and the whole factor. Raises ``WrongUse``."""
    array, (height, width) = _decoded(path), _size(config)
    small = array.shape[0], array.shape[1]
    factor = height // small[0]
    if factor < 2 or (small[0] * factor, small[1] * factor) != (height, width):
        near = [f"{height // k}x{width // k}" for k in (2, 4) if not (height % k or width % k)]
        raise WrongUse(
            f"{path} has {_sides(array)} pixels (height x width): this model makes {height}x{width}, so the picture to "
            f"enlarge should be a whole part of that, for one {' or '.join(near) or 'smaller'}"
        )
    return _fitted(array, config, small), factor


def _size(config: Config) -> tuple[int, int]:
    data = config.data
    assert data.height is not None and data.width is not None
    return data.height, data.width


def _of_size(array: _Pixels, path: Path, config: Config, fit: bool) -> _Pixels:
    height, width = _size(config)
    if array.shape[:2] != (height, width) and not fit:
        raise WrongUse(
            f"{path} has {_sides(array)} pixels (height x width), and this model makes {height}x{width}: give a "
            f"picture of that size, or --fit to resize and crop it"
        )
    return array


def _fitted(array: _Pixels, config: Config, size: tuple[int, int]) -> Images:
    data = config.data
    assert data.channels is not None
    made = Fit(
        height=size[0],
        width=size[1],
        channels=data.channels,
        background=data.background,
        fit=data.fit,
        filter=data.filter,
    )(array)
    return torch.from_numpy(made.copy())[None]


def _sides(array: _Pixels) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


def _decoded(path: Path) -> _Pixels:
    try:
        with path.open("rb") as file:
            return decode(file, str(path))
    except OSError as error:
        raise WrongUse(f"cannot read {path}: {error.strerror or error}") from error
    except Unreadable as error:
        raise WrongUse(f"cannot read {error}") from error
