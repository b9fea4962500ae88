"""What suits a data set of which nobody has said it: how many channels, and which size.

Both are found from a few pictures, spread evenly over the source: to read a hundred thousand would take minutes, and
what is rare among them decides neither.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.source import Gone, Source, Unreadable

USUAL_SIDES = (8, 16, 32, 64)
"""Pixels; larger pictures must be asked for, for they take a GPU."""


def auto_channels(source: Source, look: int = 64) -> int:
    """How many channels suit ``source``: 1 if every picture looked at is grey, else 3.

    Grey is what shows no colour: also an RGB picture whose channels are equal, and whatever colours lie under fully
    transparent pixels. Alpha never asks for a fourth channel, for it is composited over the background: ask for
    four to have the network make alpha. At most ``look`` pictures are read; unreadable ones are passed over, and 3 is
    the answer where none can be read.
    """
    seen = False
    for picture in some_pictures(source, look):
        seen = True
        if _shows_colour(picture):
            return 3
    return 1 if seen else 3


def auto_side(source: Source, look: int = 32) -> int:
    """The side of the square that suits ``source``: `usual_side` of the pictures looked at, at most ``look``.

    64 where none of them can be read.
    """
    sides: dict[int, int] = {}
    for picture in some_pictures(source, look):
        side = min(picture.shape[:2])
        sides[side] = sides.get(side, 0) + 1
    return usual_side(sides) if sides else USUAL_SIDES[-1]


def usual_side(short_sides: Mapping[int, int]) -> int:
    """The largest usual side that at least half of the pictures fill without being enlarged; 8 if none is.

    Args:
        short_sides: how many pictures have this short side; at least one has any.
    """
    whole, reached = sum(short_sides.values()), 0
    for side in sorted(short_sides, reverse=True):
        reached += short_sides[side]
        if 2 * reached >= whole:
            return max((usual for usual in USUAL_SIDES if usual <= side), default=USUAL_SIDES[0])
    raise ValueError("no picture has a side")


def some_indices(source: Source, most: int) -> list[int]:
    """At most ``most`` indices, evenly from all over ``source``, rising."""
    return np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(int)).tolist()


def some_pictures(source: Source, most: int) -> Iterator[NDArray[np.uint8]]:
    """The pictures at `some_indices`, without those that cannot be read. Raises `Gone`: the rest may be gone, too."""
    for index in some_indices(source, most):
        try:
            yield source.read(index)
        except Gone:
            raise
        except Unreadable:
            continue


def _shows_colour(picture: NDArray[np.uint8]) -> bool:
    if picture.shape[-1] < 3:
        return False
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    coloured = (red != green) | (green != blue)
    if picture.shape[-1] == 4:
        coloured &= picture[..., 3] > 0
    return bool(coloured.any())
