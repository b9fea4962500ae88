"""A file of decoded pictures on the disk, one after the other, and beside it the catalogue that vouches for them.

The catalogue is replaced as a whole, after the pictures that it names are on the disk. So what an interrupted process
leaves behind is a catalogue of fewer pictures, and beyond them bytes that nobody looks at and the next one writes over:
an interrupted start is gone on with. Pictures that a catalogue has named are never written over, for others may have
them in use; what turns out to be damaged is removed, and its file lives on for those who have it open.

Damage is noticed when an album is opened: a catalogue that does not agree with its digest, a file that is too short,
and pictures that do not agree with theirs. All are compared if the file was written to since its catalogue was;
else as many as 64 MiB hold, spread over the file, the newest among them.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.catalogue import Catalogue, Digests, read_catalogue
from fromnoise.data.decoding import DIGEST, digest
from fromnoise.data.lock import locked_if_free
from fromnoise.files import write_whole

_COMPARED = 64 * 2**20  # bytes
_TOGETHER = 2**20  # bytes that are written at a time


SUFFIXES = (".index", ".u8", ".lock")
"""How the names of an album's files end: its catalogue, its pictures, its lock."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What an album holds."""

    catalogue: Catalogue
    pictures: NDArray[np.uint8]
    """(S, C, H, W), mapped from the file, not to be written to."""


@final
@dataclass(frozen=True, kw_only=True)
class Album:
    """The files PATH.index, PATH.u8 and PATH.lock."""

    path: Path
    """Without an ending."""

    kind: Mapping[str, Any]
    """Plain values that settle what the pictures are; among them "shape", (C, H, W)."""

    @property
    def index(self) -> Path:
        """The catalogue; when it was last modified is when the album was last used."""
        return self.path.with_suffix(SUFFIXES[0])

    @property
    def data(self) -> Path:
        """The pictures."""
        return self.path.with_suffix(SUFFIXES[1])

    @property
    def lock(self) -> Path:
        """To be held by whoever writes."""
        return self.path.with_suffix(SUFFIXES[2])

    def catalogue(self) -> Catalogue | None:
        """What is said to be there, if anything, and if that can be believed."""
        try:
            return read_catalogue(self.index.read_bytes(), self.kind)
        except OSError:
            return None

    def open(self, catalogue: Catalogue, *, held: bool = False) -> Content | None:
        """What ``catalogue`` names; None if that is damaged, and then it is removed.

        Raises nothing for what lies on the disk. ``held`` says that the caller holds the lock.
        """
        if held:
            return self._checked(catalogue, alone=True)
        try:
            with locked_if_free(self.lock) as alone:
                # Since it was read, another may have added pictures: it still tells what it names from damage, but is
                # no measure of the file, and must not be written back.
                return self._checked(catalogue, alone and catalogue.same(self.catalogue()))
        except OSError:  # nothing can be written here, not even a lock
            return self._checked(catalogue, alone=False)

    def touch(self) -> None:
        """Note that the album is used."""
        with suppress(OSError):
            os.utime(self.index)

    def remove(self) -> None:
        """Remove the pictures; to be called with the lock held."""
        for file in (self.index, self.data):
            file.unlink(missing_ok=True)

    @contextmanager
    def adding(self, content: Content | None) -> Iterator["Pen"]:
        """Where pictures are added behind ``content``, or to an empty album; to be called with the lock held.

        What was added before an error is kept; but if that was the system's (no room, most likely), all is removed.
        """
        if content is None:
            self.remove()
        with self.data.open("r+b" if content else "xb", buffering=0) as file:
            pen = Pen(self, content, file)
            try:
                yield pen
            except OSError:
                self.remove()
                raise
            except BaseException:
                with suppress(OSError):
                    pen.publish()
                raise

    def map(self, count: int) -> NDArray[np.uint8]:
        """The first ``count`` pictures, not to be written to."""
        if not count:
            return np.empty((0, *self.kind["shape"]), np.uint8)
        return np.asarray(np.memmap(self.data, np.uint8, mode="r", shape=(count, *self.kind["shape"])))

    def _checked(self, catalogue: Catalogue, alone: bool) -> Content | None:
        """As `open`; ``alone``: nobody else is writing, so the file may be as it was left, and may be changed."""
        try:
            content = Content(catalogue=catalogue, pictures=self.map(len(catalogue)))
            vouched = self.data.stat().st_mtime_ns == catalogue.modified
            if _agree(content, _COMPARED if vouched or not alone else None):
                if alone and not vouched:
                    now = replace(catalogue, modified=self.data.stat().st_mtime_ns)
                    with suppress(OSError):  # else all are compared the next time as well
                        write_whole(self.index, now.to_bytes(self.kind))
                return content
        except (OSError, ValueError):  # the latter: the file is too short
            pass
        if alone:
            with suppress(OSError):
                self.remove()
        return None


def _agree(content: Content, budget: int | None) -> bool:
    """Whether the pictures agree with their digests: as many as ``budget`` bytes hold, or all."""
    count = len(content.catalogue)
    looked_at = count if budget is None else min(count, max(1, budget // max(1, content.pictures[:1].nbytes)))
    places = np.linspace(count - 1, 0, looked_at).astype(int).tolist()
    return all(digest(content.pictures[k]) == content.catalogue.digests[k].tobytes() for k in places)


@final
class Pen:
    """Adds pictures to an album."""

    def __init__(self, album: Album, content: Content | None, file: FileIO) -> None:
        self._album, self._file = album, file
        self._identities = [content.catalogue.identities.tobytes()] if content else []
        self._digests = [content.catalogue.digests.tobytes()] if content else []
        self._waiting: list[bytes] = []
        self._bytes = self._unpublished = 0
        self._published = content
        end = content.pictures.nbytes if content else 0
        if file.seek(0, os.SEEK_END) != end:
            file.truncate(end)  # what an interrupted process left behind is in no catalogue
            file.seek(end)

    def add(self, identity: bytes, digest: bytes, picture: NDArray[np.uint8]) -> None:
        """Add one picture, (C, H, W). Raises OSError without room."""
        self._identities.append(identity)
        self._digests.append(digest)
        self._waiting.append(picture.tobytes())
        self._bytes += picture.nbytes
        self._unpublished += 1
        if self._bytes >= _TOGETHER:
            self._write()

    def publish(self) -> Content:
        """Let the catalogue name all that was added, once that is on the disk. Raises OSError without room."""
        if self._published is not None and not self._unpublished:
            return self._published
        self._write()
        os.fsync(self._file.fileno())
        catalogue = Catalogue(
            identities=_joined(self._identities),
            digests=_joined(self._digests),
            modified=os.fstat(self._file.fileno()).st_mtime_ns,
        )
        write_whole(self._album.index, catalogue.to_bytes(self._album.kind))
        self._published = Content(catalogue=catalogue, pictures=self._album.map(len(catalogue)))
        self._unpublished = 0
        return self._published

    def _write(self) -> None:
        rest = memoryview(b"".join(self._waiting))
        self._waiting, self._bytes = [], 0
        while rest:
            rest = rest[self._file.write(rest) :]


def _joined(parts: list[bytes]) -> Digests:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, DIGEST)
