"""The folder in which decoded pictures are kept between runs: where it is, and how much room it may take.

What is in it: for each way of fitting a folder, in that albums (`album`), found and filled by `kept`. All of it can be
made again, so anything may be removed at any time: what was not used for longest goes first when the folder would
grow beyond its limit, or the disk be nearly full.
"""

import os
import shutil
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


class NoCache(Exception):
    """The cache cannot be used, for the reason given."""


class _Entry(NamedTuple):
    """An album: when it was last used, in seconds; its bytes; its path without an ending."""

    used: float
    size: int
    path: Path


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

    def size(self) -> int:
        """The bytes that it takes."""
        return sum(entry.size for entry in self._entries())

    def clear(self) -> int:
        """Remove everything that no process is writing to; the bytes that this frees.

        Whoever has pictures of it in use keeps them, and they their room on the disk, until it ends.

        Raises:
            OSError: something may not be removed.
        """
        return sum(self._remove(entry) for entry in self._entries())

    def make_room(self, needed: int, keep: Path) -> None:
        """See that ``needed`` more bytes fit, by removing albums, the album ``keep`` not among them.

        Raises:
            NoCache: they do not fit, whatever is removed; nothing is then.
            OSError: something may not be removed.
        """
        entries = self._entries()
        others = sorted(entry for entry in entries if entry.path != keep)
        free = shutil.disk_usage(self.path).free - _RESERVE
        room = min(self.limit - sum(entry.size for entry in entries), free)
        if room + sum(entry.size for entry in others) < needed:
            what = "the disk" if free + sum(entry.size for entry in others) < needed else "its limit"
            raise NoCache(f"{gib(needed)} more are needed, for which {what} leaves no room")
        for entry in others:
            if room >= needed:
                return
            room += self._remove(entry)
        if room < needed:
            raise NoCache(f"{gib(needed)} more are needed, and what could make room is being written to")

    def _entries(self) -> list[_Entry]:
        """What there is, whatever it is like."""
        parts: dict[Path, list[Path]] = {}
        for file in self.albums.glob("*/*"):
            if file.suffix in SUFFIXES:
                parts.setdefault(file.with_suffix(""), []).append(file)
        entries = []
        for path, files in parts.items():
            used, size = 0.0, 0
            for file in files:
                with suppress(FileNotFoundError):  # removed just now
                    status = file.stat()
                    size += status.st_size
                    used = status.st_mtime if file == Album(path=path, kind={}).index else used
            entries.append(_Entry(used, size, path))
        return entries

    def _remove(self, entry: _Entry) -> int:
        """The bytes freed; 0 if somebody is writing."""
        album = Album(path=entry.path, kind={})
        with locked_if_free(album.lock) as idle:
            if not idle:
                return 0
            album.remove()
            album.lock.unlink(missing_ok=True)
        return entry.size


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
