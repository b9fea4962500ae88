"""Every picture of a source, decoded and fitted once, as bytes.

Decoding costs more than training on small pictures, so it is done once, by all cores (`decoding`), and what comes of it
is kept: N · C · H · W bytes, in a cache that outlasts this process (`kept`), or, where there is none, in memory or a
temporary file (`storage`). The order is the source's; pictures that cannot be read leave no gap, they are listed in
`Dataset.skipped`.

A set is an array of pictures and a list of which of its rows are meant. So a part of a set copies nothing, and a set
that is larger than memory is read where it lies: a batch touches the bytes of its own pictures and no others
(`mapped`).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromnoise.data.cache import Cache, NoCache
from fromnoise.data.decoding import DIGEST, digest
from fromnoise.data.fit import Fit
from fromnoise.data.kept import from_cache
from fromnoise.data.mapped import taken
from fromnoise.data.quiet import pillow_quiet
from fromnoise.data.remark import naming
from fromnoise.data.source import Source, Unreadable, printable
from fromnoise.data.stored import Progress, Stored, without_cache
from fromnoise.errors import WrongUse

Indices = Sequence[int] | NDArray[np.integer] | Tensor

SMALL = 2**20
"""Bytes: a set that takes less is decoded anew every time, which is quick, and keeps the cache for what is worth it."""


@final
class Dataset:
    """Pictures as the network sees them, with what is known of them; made by `load`.

    Args:
        images: uint8, (S, C, H, W).
        rows: which of ``images`` the N pictures are, in their order; None: all of them.
        digests: of the pictures' pixels, (N, 16), where they are known already.
        labels, classes, captions, values, value_names, skipped, remarks: the attributes of the same name.
    """

    labels: Tensor | None
    """int64, (N,): class numbers; None where pictures have no classes."""

    classes: tuple[str, ...]
    """The names of the classes; empty where pictures have none."""

    captions: tuple[str, ...] | None
    """A text on every picture, or None."""

    values: Tensor | None
    """float32, (N, K): continuous conditions, or label sets as 0 and 1; None where pictures have none."""

    value_names: tuple[str, ...]
    """What the columns of ``values`` are called."""

    skipped: tuple[Unreadable, ...]
    """The pictures of the source that are not here, because they could not be read."""

    remarks: tuple[str, ...]
    """What a person should be told of the source and of the loading, in lines."""

    def __init__(
        self,
        *,
        images: NDArray[np.uint8],
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        captions: tuple[str, ...] | None = None,
        values: Tensor | None = None,
        value_names: tuple[str, ...] = (),
        skipped: tuple[Unreadable, ...] = (),
        remarks: tuple[str, ...] = (),
        rows: NDArray[np.int64] | None = None,
        digests: NDArray[np.uint8] | None = None,
    ) -> None:
        self.labels, self.classes = labels, classes
        self.captions, self.values, self.value_names = captions, values, value_names
        self.skipped, self.remarks = skipped, remarks
        if rows is not None and _in_order(rows):
            images, rows = images[rows[0] : rows[-1] + 1] if len(rows) else images[:0], None
        self._store, self._rows = images, rows
        self._known_digests = digests

    def __len__(self) -> int:
        return len(self._store) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self._store.shape
        return channels, height, width

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, C, H, W): all pictures, not to be written to. A copy where they do not lie side by side: use `batch`."""
        return self._store if self._rows is None else np.take(self._store, self._rows, axis=0)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits (BLAKE2b): equal only for equal training data.

        Over the shape, the digests of all pictures and what is known of them. The digests are those of `load`, so
        nothing large is read here.
        """
        total = hashlib.blake2b(repr((len(self), *self.shape)).encode(), digest_size=16)
        total.update(np.ascontiguousarray(self._digests).data)
        if self.labels is not None:
            total.update(b"labels" + self.labels.numpy().astype("<i8").tobytes())
        if self.values is not None:
            total.update(b"values" + repr(tuple(self.values.shape)).encode())
            total.update(self.values.numpy().astype("<f4").tobytes())
        if self.captions is not None:
            total.update(b"captions" + json.dumps(self.captions).encode())
        return total.hexdigest()

    def batch(self, indices: Indices) -> Tensor:
        """The pictures at ``indices``, copied: uint8, (B, C, H, W), on the CPU. IndexError beyond the end."""
        return torch.from_numpy(taken(self._store, self._in_store(_as_array(indices))))

    def subset(self, indices: Indices) -> "Dataset":
        """A data set of the pictures at ``indices``, in that order; ``skipped`` and ``remarks`` are left behind.

        It shares the pictures with this one. IndexError beyond the end.
        """
        chosen = _as_array(indices)
        rows = np.take(np.arange(len(self)) if self._rows is None else self._rows, chosen)
        picked = torch.from_numpy(chosen)
        return Dataset(
            images=self._store,
            rows=rows,
            digests=None if self._known_digests is None else self._known_digests[chosen],
            labels=None if self.labels is None else self.labels[picked],
            classes=self.classes,
            captions=None if self.captions is None else tuple(self.captions[k] for k in chosen.tolist()),
            values=None if self.values is None else self.values[picked],
            value_names=self.value_names,
        )

    @property
    def _digests(self) -> NDArray[np.uint8]:
        """(N, 16)."""
        if self._known_digests is not None:
            return self._known_digests
        rows = self._in_store(np.arange(len(self))).tolist()
        return np.frombuffer(b"".join(digest(self._store[row]) for row in rows), np.uint8).reshape(-1, DIGEST)

    def _in_store(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Their rows of the store, which refuses those beyond its end where the rows are all of it."""
        return chosen if self._rows is None else np.take(self._rows, chosen)


def load(
    source: Source,
    fit: Fit,
    *,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
) -> Dataset:
    """Decode and fit every picture of ``source``, or take what was decoded before.

    Args:
        source: the pictures.
        fit: what the network sees of each.
        strict: refuse a source with unreadable pictures, instead of skipping them.
        progress: called with (done, total) after every picture, in the calling thread; what the cache has counts at
            once.
        cache: where decoded pictures are kept; None: where the environment says. Sets below 1 MiB are not kept, and
            what hinders the cache is no more than a remark.

    Raises:
        WrongUse: no picture can be read; or, if ``strict``, some cannot; or the environment says nonsense.
        FromnoiseError: no room for the pictures, neither in the cache nor in memory or a temporary file.
    """
    total = len(source)
    with pillow_quiet():
        found = _stored(source, fit, progress or _nobody, cache or Cache.from_environment())
    skipped = found.skipped
    if not len(found.kept):
        raise WrongUse(f"none of the {total} pictures can be read{_why(skipped)}")
    if strict and skipped:
        raise WrongUse(f"{len(skipped)} of {total} pictures cannot be read{_why(skipped)}")
    kept = found.kept.tolist()
    labels, captions, values = source.labels, source.captions, source.values
    return Dataset(
        images=found.images,
        rows=found.rows,
        digests=found.digests,
        labels=None if labels is None else torch.tensor([labels[k] for k in kept]),
        classes=source.classes,
        captions=None if captions is None else tuple(captions[k] for k in kept),
        values=None if values is None else torch.tensor([values[k] for k in kept], dtype=torch.float32),
        value_names=source.value_names,
        skipped=skipped,
        remarks=(*source.remarks, *found.remarks),
    )


def _stored(source: Source, fit: Fit, progress: Progress, cache: Cache) -> Stored:
    if not cache.limit or len(source) * fit.channels * fit.height * fit.width < SMALL:
        return without_cache(source, fit, progress)
    try:
        return from_cache(cache, source, fit, progress)
    except NoCache as why:
        where = printable(str(cache.path))
        remark = f"the cache {where} is not used, so pictures are decoded anew every time: {why}"
    found = without_cache(source, fit, progress)
    return replace(found, remarks=(remark, *found.remarks))


def _nobody(done: int, total: int) -> None:
    pass


def _in_order(rows: NDArray[np.int64]) -> bool:
    """Whether they lie side by side."""
    return not len(rows) or bool((np.diff(rows) == 1).all())


def _as_array(indices: Indices) -> NDArray[np.int64]:
    values = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise WrongUse(f"indices are whole numbers, not {values.dtype}")
    return values.astype(np.int64)


def _why(skipped: Sequence[Unreadable]) -> str:
    """ ": first; second; third; and 7 more", or nothing."""
    return f": {naming([str(error) for error in skipped])}" if skipped else ""
