"""Decoded pictures of a source, kept somewhere: which they are, where they lie, and what is to be said about them."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.decoding import DIGEST, decoded
from fromnoise.data.fit import Fit
from fromnoise.data.remark import Remark, summed_up
from fromnoise.data.source import Source, Unreadable
from fromnoise.data.storage import shelf

Progress = Callable[[int, int], None]
"""Called with (done, total), in the calling thread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """The readable pictures of a source, in its order."""

    images: NDArray[np.uint8]
    """(S, C, H, W)."""

    rows: NDArray[np.int64] | None
    """Which of ``images`` they are, (N,); None: all."""

    digests: NDArray[np.uint8]
    """Of their pixels, (N, 16)."""

    kept: NDArray[np.int64]
    """Which of the source they are, (N,)."""

    skipped: tuple[Unreadable, ...]
    """The others."""

    remarks: tuple[str, ...] = ()
    """One line each."""


def without_cache(source: Source, fit: Fit, progress: Progress) -> Stored:
    """Every picture decoded, and kept for as long as this process has use for it.

    Raises:
        FromnoiseError: no room for the pictures, in memory or on the disk.
    """
    total = len(source)
    kept: list[int] = []
    digests: list[bytes] = []
    skipped: list[Unreadable] = []
    said: list[Remark] = []
    with closing(shelf(total, (fit.channels, fit.height, fit.width))) as store:
        with closing(decoded(source, fit, range(total))) as pictures:
            for index, outcome, digest, remarks in pictures:
                if isinstance(outcome, Unreadable):
                    skipped.append(outcome)
                else:
                    store.append(outcome)
                    digests.append(digest)
                    kept.append(index)
                said += remarks
                progress(index + 1, total)
        return Stored(
            images=store.finish(),
            rows=None,
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST),
            kept=np.array(kept, dtype=np.int64),
            skipped=tuple(skipped),
            remarks=summed_up(said),
        )
