"""What the numbers of an array of pictures mean: which axis is the channels, and which values are black and white.

What may be in it, and what is made of it (v a value, the result rounded to the nearest level):

==========================================  ============================================================================
uint8                                       as it is
bool                                        0 and 255
float, all within [0, 1]                    255 v
float, all within [−1, 1], some below 0     255 (v + 1) / 2
other whole numbers; floats up to 255       refused: nobody knows whether their white is 255, 4095 or 65535
(N, H, W)                                   grey
(N, H, W, C) or (N, C, H, W), C = 1 … 4     told apart by which axis is that short; refused if both are, or none
(H, W, C): three axes, the last short       refused: one picture, or H of them in grey?
==========================================  ============================================================================

A picture with values that are not finite is `Unreadable`; the others are read. A float may pass the end of its range by
`_SLACK`, as rounding makes it do, and is then clipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromnoise.errors import WrongUse

_SLACK = 1e-3
_BLOCK = 2**24  # bytes looked at at a time


@dataclass(frozen=True)
class Law:
    """255 (v + shift) / span is the level of the value v."""

    shift: float
    span: float


UNIT = Law(0.0, 1.0)
"""Floats from 0 to 1."""

SIGNED = Law(1.0, 2.0)
"""Floats from −1 to 1."""


def levels(picture: NDArray[Any], law: Law | None) -> NDArray[np.uint8] | None:
    """One picture as levels, contiguous and a copy; None if some of its values are not finite."""
    if law is None:
        return np.array(picture, dtype=np.uint8, order="C") * np.uint8(255 if picture.dtype == bool else 1)
    values = picture.astype(np.float64)
    if not np.isfinite(values).all():
        return None
    scaled = np.rint((values + law.shift) * (255 / law.span)).clip(0, 255)
    return np.ascontiguousarray(scaled, dtype=np.uint8)


def channels_last(images: NDArray[Any], where: str) -> NDArray[Any]:
    """A view of pictures as (N, H, W, C). Raises ``WrongUse`` where the shape leaves two readings, or none."""
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape:
        raise WrongUse(f"{where} is an array of {shape}; pictures are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    last, first = shape[-1] <= 4, shape[1] <= 4
    if images.ndim == 3:
        if last:
            raise WrongUse(
                f"{where} is an array of {shape}: one picture or {shape[0]} grey ones of {shape[1]}x{shape[2]}? "
                "save it with four axes, (N, H, W, C)"
            )
        return images[..., None]
    if last == first:
        which = "both the second and the last axis" if last else "neither the second nor the last axis"
        raise WrongUse(f"{where} is an array of {shape}, where {which} may be 1 to 4 channels; sides are longer than 4")
    return images if last else np.moveaxis(images, 1, -1)


def law_of(images: NDArray[Any], where: str) -> Law | None:
    """How the values of (N, …) become levels; None if they are levels already. Raises ``WrongUse`` if nobody knows."""
    if images.dtype in (np.uint8, np.bool_):
        return None
    if images.dtype.kind != "f":
        raise WrongUse(
            f"{where} has values of type {images.dtype}, whose black and white nobody knows; "
            "save uint8, or floats from 0 to 1 or from −1 to 1"
        )
    low, high = np.inf, -np.inf
    for block in _blocks(images):
        finite = block[np.isfinite(block)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if -_SLACK <= low <= high <= 1 + _SLACK:
        return UNIT
    if -1 - _SLACK <= low <= high <= 1 + _SLACK:
        return SIGNED
    found = f"from {low:g} to {high:g}" if low <= high else "none of them finite"
    raise WrongUse(f"{where} has floats {found}, neither within [0, 1] nor [−1, 1]; scale them, or save uint8")


def _blocks(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    step = max(1, _BLOCK // images[:1].nbytes)
    return (images[start : start + step] for start in range(0, len(images), step))
