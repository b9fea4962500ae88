"""The folder in which decoded pictures are kept between runs: where it is, and how much room it may take.

What is in it: below ``pictures``, for each way of fitting a folder, in that albums (`album`), found and filled by
`kept`; and in ``shards`` tar files that were fetched (`streamed`). All of it can be made or fetched again, so anything
may be removed at any time: what was not used for longest goes first when the folder would grow beyond its limit, or the
disk be nearly full.

A shard that was read in the last two days may be in use: pictures are read out of it until the last is decoded, and
fetching it again may take hours. So it is neither removed to make room nor counted to the limit. Two days, for most
systems write down only once a day that a file was read.
"""

import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from fromnoise.data.album import SUFFIXES, Album
from fromnoise.data.lock import locked_if_free
from fromnoise.errors import WrongUse

LIMIT = 20 * 2**30
"""Bytes that the cache may take, unless FROMNOISE_CACHE_LIMIT says otherwise: 20 GiB."""

_RESERVE = 2**30  # bytes of the disk that are left to others
_IN_USE = 48 * 3600.0  # seconds since a shard was read
_ASIDE = 3600.0  # seconds since a part of a file was written to, after which nobody is writing to it any more
_SHARD = re.compile(r"\.?[\w-]*-[0-9a-f]{16}\.tar(\.\d+\.part)?", re.ASCII)  # as `streamed` names them


class NoCache(Exception):
    """The cache cannot be used, for the reason given."""


class _Entry(NamedTuple):
    """An album: when it was last used, in seconds; its bytes; its path without an ending. Or a shard, with its path."""

    used: float
    size: int
    path: Path
    is_shard: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where decoded pictures are kept, and how much room they may take."""

    path: Path
    """The folder; made when needed."""

    limit: int = LIMIT
    """In bytes; 0 keeps nothing."""

    @classmethod
    def from_environment(cls) -> "Cache":
        """The folder $FROMNOISE_CACHE, else $XDG_CACHE_HOME/fromnoise, else ~/.cache/fromnoise.

        Its limit is $FROMNOISE_CACHE_LIMIT in GiB, 0 for no cache.

        Raises:
            WrongUse: the limit is no number, or below 0.
        """
        own, common = os.environ.get("FROMNOISE_CACHE"), os.environ.get("XDG_CACHE_HOME")
        path = Path(os.path.expanduser(own)) if own else Path(common or os.path.expanduser("~/.cache")) / "fromnoise"
        said = os.environ.get("FROMNOISE_CACHE_LIMIT", "")
        try:
            limit = int(float(said) * 2**30) if said else LIMIT
        except (ValueError, OverflowError):
            limit = -1
        if limit < 0:
            raise WrongUse(f"FROMNOISE_CACHE_LIMIT is {said!r}; it is a number of GiB, 0 for no cache")
        return cls(path=path, limit=limit)

    @property
    def albums(self) -> Path:
        """The folder of folders of albums."""
        return self.path / "pictures"

    @property
    def shards(self) -> Path:
        """The folder of tar files that were fetched."""
        return self.path / "shards"

    def size(self) -> int:
        """The bytes that it takes."""
        return sum(entry.size for entry in self._entries())

    def clear(self) -> int:
        """Remove everything that no process is writing to; the bytes that this frees.

        Whoever has pictures of it in use keeps them, and they their room on the disk, until it ends. Shards stay while
        any album is written to, for its pictures may come from them.

        Raises:
            OSError: something may not be removed.
        """
        freed = [self._remove(entry) for entry in self._entries() if not entry.is_shard]
        if None not in freed:
            freed += [self._remove(entry) for entry in self._entries() if entry.is_shard]
        return sum(size or 0 for size in freed)

    def make_room(self, needed: int, keep: Path) -> None:
        """See that ``needed`` more bytes fit, by removing albums, the album ``keep`` not among them, and old shards.

        Raises:
            NoCache: they do not fit, whatever is removed; nothing is then.
            OSError: something may not be removed.
        """
        now = time.time()
        entries = [entry for entry in self._entries() if not entry.is_shard or now - entry.used > _IN_USE]
        others = sorted(entry for entry in entries if entry.path != keep)
        free = shutil.disk_usage(self.path).free - _RESERVE
        room = min(self.limit - sum(entry.size for entry in entries), free)
        if room + sum(entry.size for entry in others) < needed:
            what = "the disk" if free + sum(entry.size for entry in others) < needed else "its limit"
            raise NoCache(f"{gib(needed)} more are needed, for which {what} leaves no room")
        for entry in others:
            if room >= needed:
                return
            room += self._remove(entry) or 0
        if room < needed:
            raise NoCache(f"{gib(needed)} more are needed, and what could make room is being written to")

    def _entries(self) -> list[_Entry]:
        """What there is, whatever it is like."""
        parts: dict[Path, list[Path]] = {}
        for file in self.albums.glob("*/*"):
            if file.suffix in SUFFIXES:
                parts.setdefault(file.with_suffix(""), []).append(file)
            elif file.suffix == ".part":  # .NAME.index.PROCESS.part, of a process that was killed, most likely
                parts.setdefault(file.with_name(file.name[1:].partition(".")[0]), []).append(file)
        entries = []
        for path, files in parts.items():
            used, size = 0.0, 0
            for file in files:
                with suppress(FileNotFoundError):  # removed just now
                    status = file.stat()
                    size += status.st_size
                    used = status.st_mtime if file == Album(path=path, kind={}).index else used
            entries.append(_Entry(used, size, path))
        for file in self.shards.glob("*"):
            if not _SHARD.fullmatch(file.name):  # somebody else's
                continue
            with suppress(FileNotFoundError):
                status = file.stat()
                entries.append(_Entry(max(status.st_atime, status.st_mtime), status.st_size, file, is_shard=True))
        return entries

    def _remove(self, entry: _Entry) -> int | None:
        """The bytes freed; None if somebody is writing."""
        if entry.is_shard:
            if entry.path.suffix == ".part" and time.time() - entry.used < _ASIDE:
                return None
            entry.path.unlink(missing_ok=True)
            return entry.size
        album = Album(path=entry.path, kind={})
        with locked_if_free(album.lock) as idle:
            if not idle:
                return None
            album.remove()
            for part in album.path.parent.glob(f".{album.path.name}.*.part"):
                part.unlink(missing_ok=True)
            album.lock.unlink(missing_ok=True)
        return entry.size


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
