"""Every picture of a source, decoded and fitted once, as one array of bytes.

Decoding costs more than training on small pictures, so it is done once, in threads (Pillow lets go of Python's lock
while it works), and the result is kept: N · C · H · W bytes, in memory or in a temporary file (`storage`). The order
is the source's; pictures that cannot be read leave no gap, they are listed in `Dataset.skipped`.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromnoise.data.fit import Fit
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.source import Source, Unreadable
from fromnoise.data.storage import shelf
from fromnoise.errors import WrongUse

Indices = Sequence[int] | NDArray[np.integer] | Tensor

_NAMED = 3  # how many unreadable pictures a message names
_BLOCK = 2**24  # bytes that move at a time where a whole set would be too many


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Pictures as the network sees them, with their labels; made by `load`."""

    images: NDArray[np.uint8]
    """(N, C, H, W)."""

    labels: Tensor | None
    """int64, (N,): class numbers; None where pictures have no classes."""

    classes: tuple[str, ...]
    """The names of the classes; empty where pictures have none."""

    skipped: tuple[Unreadable, ...] = ()
    """The pictures of the source that are not here, because they could not be read."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits (BLAKE2b) over shape, pixels and labels: equal only for equal training data."""
        digest = hashlib.blake2b(repr(self.images.shape).encode(), digest_size=16)
        for block in _blocks(len(self), self.images[:1].nbytes):
            digest.update(np.ascontiguousarray(self.images[block]).data)
        if self.labels is not None:
            digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def batch(self, indices: Indices) -> Tensor:
        """The pictures at ``indices``, copied: uint8, (B, C, H, W), on the CPU. IndexError beyond the end."""
        return torch.from_numpy(np.take(self.images, _as_array(indices), axis=0))

    def subset(self, indices: Indices) -> "Dataset":
        """A data set of the pictures at ``indices``, in that order; ``skipped`` is left behind.

        The pictures are copied, to a temporary file if they are too many for memory.
        """
        chosen = _as_array(indices)
        with closing(shelf(len(chosen), self.images.shape[1:])) as store:
            for block in _blocks(len(chosen), self.images[:1].nbytes):
                for picture in np.take(self.images, chosen[block], axis=0):
                    store.append(picture)
            images = store.finish()
        labels = None if self.labels is None else self.labels[torch.from_numpy(chosen)]
        return Dataset(images=images, labels=labels, classes=self.classes)


def load(
    source: Source, fit: Fit, *, strict: bool = False, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Decode and fit every picture of ``source``.

    Args:
        source: the pictures.
        fit: what the network sees of each.
        strict: refuse a source with unreadable pictures, instead of skipping them.
        progress: called with (done, total) after every picture, in the calling thread.

    Raises:
        WrongUse: no picture can be read; or, if ``strict``, some cannot.
        FromnoiseError: no room for the pictures, in memory or on the disk.
    """
    total = len(source)
    kept: list[int] = []
    skipped: list[Unreadable] = []
    with pillow_quiet(), closing(shelf(total, (fit.channels, fit.height, fit.width))) as store:
        for index, outcome in enumerate(_decoded(source, fit)):
            if isinstance(outcome, Unreadable):
                skipped.append(outcome)
            else:
                store.append(outcome)
                kept.append(index)
            if progress is not None:
                progress(index + 1, total)
        images = store.finish()
    if not kept:
        raise WrongUse(f"none of the {total} pictures can be read{_naming(skipped)}")
    if strict and skipped:
        raise WrongUse(f"{len(skipped)} of {total} pictures cannot be read{_naming(skipped)}")
    labels = None if source.labels is None else torch.tensor([source.labels[index] for index in kept])
    return Dataset(images=images, labels=labels, classes=source.classes, skipped=tuple(skipped))


def _decoded(source: Source, fit: Fit) -> Iterator[NDArray[np.uint8] | Unreadable]:
    """Every picture in order, decoded ahead by threads; only a few are ever waiting, whatever the source's length."""

    def one(index: int) -> NDArray[np.uint8] | Unreadable:
        try:
            return fit(source.read(index))
        except Unreadable as error:
            return error
        except MemoryError:
            return Unreadable(source.name(index), "not enough memory to resize it")

    workers = min(16, os.cpu_count() or 1)
    waiting: deque[Future[NDArray[np.uint8] | Unreadable]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for index in range(len(source)):
                waiting.append(pool.submit(one, index))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: do not decode what nobody takes


def _as_array(indices: Indices) -> NDArray[np.int64]:
    values = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise WrongUse(f"indices are whole numbers, not {values.dtype}")
    return values.astype(np.int64)


def _blocks(count: int, nbytes: int) -> Iterator[slice]:
    """0 … count in slices of about `_BLOCK` bytes, given the bytes of one picture."""
    step = max(1, _BLOCK // max(1, nbytes))
    return (slice(start, start + step) for start in range(0, count, step))


def _naming(skipped: list[Unreadable]) -> str:
    """ ": first; second; third; and 7 more", or nothing."""
    named = "; ".join(str(error) for error in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f": {named}{more}" if named else ""
