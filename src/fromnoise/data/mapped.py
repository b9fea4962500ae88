"""Pictures at random out of a mapped file: all of a batch are asked for at once, before any is waited for.

Reading a mapping where the file is not in memory stops at every picture until the disk has brought it, and the system
reads far ahead of it (128 KiB usually, megabytes on some machines), of which the next picture of a random batch needs
nothing. So the places of a batch are announced first (``madvise``, WILLNEED): the disk gets all of them together, and
nothing beside them. Where the file is in memory that costs about a microsecond a picture.
"""

import mmap
import sys

import numpy as np
from numpy.typing import NDArray

_MOST = 4096  # pictures: more are no batch, and might be more than memory holds


def taken(store: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """``store[rows]``, a copy. IndexError beyond the end."""
    if len(rows) <= _MOST:
        announce(store, rows)
    return np.take(store, rows, axis=0)


def announce(store: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    """Let the system begin to read ``store[rows]``, if that lies in a mapped file; rows that are not there are none."""
    if sys.platform == "win32" or not store.flags.c_contiguous or not len(store):
        return
    file = _mapping(store)
    if file is None:
        return
    one = store[0].nbytes
    first = store.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data  # the store may be a part of what is mapped
    there = rows[(rows >= 0) & (rows < len(store))]
    starts = first + there * one
    pages = starts - starts % mmap.PAGESIZE
    for page, length in zip(pages.tolist(), (starts + one - pages).tolist(), strict=True):
        file.madvise(mmap.MADV_WILLNEED, page, length)


def _mapping(store: NDArray[np.uint8]) -> mmap.mmap | None:
    """The mapping that ``store`` is a view of."""
    base: object = store
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
