"""The pictures of a source, decoded and fitted by all cores (`ahead`), in order.

A picture that cannot be read is an answer like any other, and so is one that brings down the process that decodes it.
One that is gone since it was listed is not: with a folder that is moved or a disk that is taken away, most are.
"""

import hashlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.ahead import ahead
from fromnoise.data.fit import Fit
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.remark import Remark, remarks
from fromnoise.data.source import Gone, Source, Unreadable

DIGEST = 16
"""Bytes of the digest of one picture."""


class Decoded(NamedTuple):
    """Picture ``number`` of a source: (C, H, W) and its digest, or why not; and what there is to say about it."""

    number: int
    outcome: NDArray[np.uint8] | Unreadable
    digest: bytes
    said: tuple[Remark, ...]


def digest(picture: NDArray[np.uint8]) -> bytes:
    """What stands for the pixels of one picture: BLAKE2b, 16 bytes."""
    return hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=DIGEST).digest()


def decoded(source: Source, fit: Fit, numbers: Sequence[int]) -> Generator[Decoded, None, None]:
    """The pictures ``numbers``, in that order; a few wait to be taken, whatever the source's length.

    Raises:
        Gone: one was there when the source was opened, and is not any more.
    """

    def unreadable(place: int, why: str) -> Decoded:
        return Decoded(numbers[place], Unreadable(source.name(numbers[place]), why), b"", ())

    def one(place: int) -> Decoded:
        with remarks() as said:
            try:
                picture = fit(source.read(numbers[place]))
            except Gone:
                raise
            except Unreadable as error:
                return Decoded(numbers[place], error, b"", ())
            except MemoryError:
                return unreadable(place, "not enough memory to resize it")
        return Decoded(numbers[place], picture, digest(picture), tuple(said))

    def lost(place: int, how: str) -> Decoded:
        return unreadable(place, f"the process that decoded it was ended ({how}): no memory, or it breaks the decoder")

    with pillow_quiet():
        yield from ahead(one, len(numbers), lost=lost, uses=source)
