"""The pictures of a source out of the cache, and into it those that are not there yet.

A picture is known by the identity that its source gives it and by all that settles its pixels: the fit, this decoder
and Pillow's version. So what was decoded once is found again wherever it is listed: after files were added (only those
are decoded), in a part of the folder, or under other labels. Added pictures go behind the others of the album that has
most of a set; unless more than half of it would then be none of the set: in that case an album of its own is begun,
and what is there is copied.

Whoever writes to an album holds its lock. A second process that wants the same pictures waits, and finds them done.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from fromnoise.data.album import Album, Content, Pen
from fromnoise.data.cache import Cache, NoCache, gib
from fromnoise.data.catalogue import Digests, as_digests
from fromnoise.data.decoding import Decoded, decoded, digest
from fromnoise.data.fit import Fit
from fromnoise.data.lock import locked
from fromnoise.data.remark import Remark, summed_up
from fromnoise.data.source import Source, Unreadable
from fromnoise.data.stored import Progress, Stored

DECODER = 1
"""To be raised when `decode` or `Fit` gives other pixels than before."""

_PUBLISH = 30.0  # seconds of decoding that an interruption may cost
_FEW = 64  # pictures missing that are tried without writing anything: unreadable ones are missing every time


class _Place(NamedTuple):
    """An album, what is in it, and where in that the pictures wanted are; −1 for those missing."""

    album: Album
    content: Content
    slots: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Set:
    """What is asked for."""

    source: Source
    fit: Fit
    wanted: Digests
    """Of the identities."""

    kind: Mapping[str, Any]
    folder: Path
    """Of the albums of this kind."""

    progress: Progress

    def __len__(self) -> int:
        return len(self.wanted)


def from_cache(cache: Cache, source: Source, fit: Fit, progress: Progress) -> Stored:
    """Every picture of ``source`` as ``fit`` makes it; those that are in ``cache`` count as done at once.

    Raises:
        NoCache: there is no room, nothing can be written, or the disk knows no locks.
    """
    shape = (fit.channels, fit.height, fit.width)
    total, one = len(source), int(np.prod(shape))
    if total * one > cache.limit:
        raise NoCache(f"{gib(total * one)} are needed and its limit is {gib(cache.limit)} (FROMNOISE_CACHE_LIMIT)")
    kind = {"fit": asdict(fit), "shape": shape, "decoder": DECODER, "pillow": PIL.__version__}
    name = hashlib.blake2b(json.dumps(kind).encode(), digest_size=4).hexdigest()
    folder = cache.albums / f"{fit.height}x{fit.width}x{fit.channels}-{name}"
    wanted = as_digests(source.identity(index) for index in range(total))
    asked = _Set(source=source, fit=fit, wanted=wanted, kind=kind, folder=folder, progress=progress)
    own = Album(path=folder / hashlib.blake2b(wanted.tobytes(), digest_size=8).hexdigest(), kind=kind)
    tried: dict[int, Decoded] = {}
    try:
        while True:
            best = _best(asked)
            missing = total if best is None else int((best.slots < 0).sum())
            if best and missing <= _FEW:
                _try(asked, np.flatnonzero(best.slots < 0), tried)
                lost = {k: one.outcome for k, one in tried.items() if isinstance(one.outcome, Unreadable)}
                if len(lost) == len(tried):
                    best.album.touch()
                    progress(total, total)
                    return _stored(best.content, best.slots, lost)
            goes_on = best and len(best.content.catalogue) + missing <= min(2 * total, cache.limit // one)
            album = best.album if best and goes_on else own
            folder.mkdir(parents=True, exist_ok=True)
            with locked(album.lock, _watch(asked, album, best)):
                now = _best(asked, album)  # As of the lock: pictures of no interest here may have been added.
                if _same(now, best):  # else somebody was quicker: look again
                    cache.make_room(missing * one, album.path)
                    return _add(asked, album, now, tried)
    except OSError as error:
        raise NoCache(error.strerror or " ".join(str(error).split())) from error


def _best(asked: _Set, held: Album | None = None) -> _Place | None:
    """The undamaged album with most of the pictures wanted; None if none has any. The lock of ``held`` is held."""
    found = []
    for index in sorted(asked.folder.glob("*.index")):
        album = Album(path=index.with_suffix(""), kind=asked.kind)
        if (catalogue := album.catalogue()) is not None:
            slots = catalogue.slots(asked.wanted)
            found.append((int((slots >= 0).sum()), album, catalogue, slots))
    for count, album, catalogue, slots in sorted(found, key=lambda one: one[0], reverse=True):
        if count and (content := album.open(catalogue, held=album == held)) is not None:
            return _Place(album, content, slots)
    return None


def _same(one: _Place | None, other: _Place | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.album == other.album and bool((one.slots == other.slots).all())


def _try(asked: _Set, missing: NDArray[np.int64], tried: dict[int, Decoded]) -> None:
    """Decode those ``missing`` that were not yet."""
    rest = [index for index in missing.tolist() if index not in tried]
    with closing(decoded(asked.source, asked.fit, rest)) as pictures:
        for one in pictures:
            tried[one.number] = one


def _watch(asked: _Set, album: Album, best: _Place | None) -> Callable[[], None]:
    """What to do while somebody else fills ``album``: show how far that is, by how much its file has grown."""
    one = int(np.prod(album.kind["shape"]))
    there = 0 if best is None else int((best.slots >= 0).sum())
    before = len(best.content.catalogue) if best and best.album == album else 0

    def waiting() -> None:
        with suppress(OSError):
            grown = max(0, album.data.stat().st_size // one - before)
            asked.progress(min(len(asked), there + grown), len(asked))

    return waiting


def _add(asked: _Set, album: Album, best: _Place | None, tried: Mapping[int, Decoded]) -> Stored:
    """The set, once all of it that can be read is in ``album``, whose lock is held."""
    content = best.content if best and best.album == album else None
    if content is None and (catalogue := album.catalogue()) is not None:  # begun, but another has more of the set
        content = album.open(catalogue, held=True)
    there = np.zeros(len(asked), bool) if content is None else content.catalogue.slots(asked.wanted) >= 0
    lost: dict[int, Unreadable] = {}
    said: list[Remark] = []
    with album.adding(content) as pen:
        if best is not None:
            there |= _copied(asked, best, ~there, pen)
        missing = np.flatnonzero(~there).tolist()
        at_once, published = len(asked) - len(missing), time.monotonic()
        if at_once:
            asked.progress(at_once, len(asked))
        known = [tried[index] for index in missing if index in tried]
        rest = decoded(asked.source, asked.fit, [index for index in missing if index not in tried])
        with closing(rest):
            for count, one in enumerate(chain(known, rest), at_once + 1):
                if isinstance(one.outcome, Unreadable):
                    lost[one.number] = one.outcome
                else:
                    pen.add(asked.wanted[one.number].tobytes(), one.digest, one.outcome)
                said += one.said
                asked.progress(count, len(asked))
                if time.monotonic() - published > _PUBLISH:
                    pen.publish()
                    published = time.monotonic()
        whole = pen.publish()
    return _stored(whole, whole.catalogue.slots(asked.wanted), lost, summed_up(said))


def _copied(asked: _Set, best: _Place, absent: NDArray[np.bool_], pen: Pen) -> NDArray[np.bool_]:
    """Which of the ``absent`` pictures were taken from ``best``: those it has, undamaged."""
    copied = np.zeros(len(asked), bool)
    for index in np.flatnonzero(absent & (best.slots >= 0)).tolist():
        picture = best.content.pictures[best.slots[index]]
        pixels = digest(picture)
        if pixels == best.content.catalogue.digests[best.slots[index]].tobytes():
            pen.add(asked.wanted[index].tobytes(), pixels, picture)
            copied[index] = True
    return copied


def _stored(
    content: Content, slots: NDArray[np.int64], lost: Mapping[int, Unreadable], remarks: tuple[str, ...] = ()
) -> Stored:
    kept = np.flatnonzero(slots >= 0)
    return Stored(
        images=content.pictures,
        rows=slots[kept],
        digests=content.catalogue.digests[slots[kept]],
        kept=kept,
        skipped=tuple(lost[index] for index in sorted(lost)),
        remarks=remarks,
    )
