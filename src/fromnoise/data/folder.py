"""A folder of pictures, searched with all its sub-folders.

The order is that of the relative paths written with slashes, character by character: the same on every machine.
Suffixes count in any case. What begins with a dot is skipped, files and folders alike. Links to files and folders are
followed, except a link to a folder that it lies in, which would never end. A folder that links make appear more than
`_MOST_WAYS` times is refused: thirty folders with two links each to the next are a thousand million paths.

A picture whose link leads nowhere or that may not be opened is listed like any other; reading it raises `Unreadable`,
so that it is counted and named rather than silently missing. One that was there when the folder was listed and is not
when it is read raises `Gone`. A sub-folder that may not be listed is refused at once, for nobody knows how many
pictures it hides.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.conditions import Columns
from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.listing import Wish, listing, suffix_of
from fromnoise.data.manifest import LARGEST
from fromnoise.data.source import Files, Unreadable, printable, unreadable, whole
from fromnoise.errors import FromnoiseError, WrongUse

_MOST_WAYS = 64


@final
class Folder(Files):
    """The pictures in ``path`` and below.

    Args:
        path: the folder; ``~`` is understood.
        classes: take labels from the table that lies in ``path`` under a usual name (``dataset.json``,
            ``metadata.csv``, ``metadata.jsonl``), else take the folders directly in ``path`` as classes, numbered in
            the order of their names. A folder without pictures is no class.
        labels: a table of what is said of the pictures (`manifest`), a file of its own or one in the folder.
        columns: what the columns of the table are called.
        files: what `walk` found there, if that is known already.

    Raises:
        WrongUse: ``path`` is missing, no folder, not listable or without pictures; or, with ``classes``, a picture
            lies directly in it, in no class; or the table makes no sense.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: bool = False,
        labels: str | Path | None = None,
        columns: Columns | None = None,
        files: "Sequence[File] | None" = None,
    ) -> None:
        self._root = Path(os.path.expanduser(path))
        self._absolute = os.path.abspath(self._root)
        found = list(walk(path)) if files is None else files
        pictures = listing(
            [file.relative for file in found],
            [file.relative for file in found if file.is_picture],
            wish=Wish(classes=classes, labels=labels, columns=columns or Columns()),
            where=printable(str(path)),
            root=self._absolute,
            read=self._content,
        )
        self._paths, self.remarks = pictures.paths, pictures.remarks
        # What was not there to begin with, and why; by paths from the root.
        self._absent = {file.relative: file.absent for file in found if file.absent}
        self._absent |= dict.fromkeys(pictures.missing, "the table names it, and there is no such file in the folder")
        self._lost: dict[int, int] = {}  # errors of the system, by number of the picture
        pictures.said.give(self)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return printable((self._root / self._paths[index]).as_posix())

    def identity(self, index: int) -> str:
        """Absolute path, size, time of the last change. What is not to be found counts as unreadable from then on."""
        path = f"{self._absolute}/{self._paths[index]}"
        try:
            status = os.stat(path) if self._paths[index] not in self._absent else None
        except OSError as error:
            # It may come back before it is read: its pixels must not be known by what stands for a missing file.
            self._lost[index] = error.errno or errno.EIO
            status = None
        return f"{path}\0{status.st_size}\0{status.st_mtime_ns}" if status else f"{path}\0missing"

    def read(self, index: int) -> NDArray[np.uint8]:
        with self._opened(index) as file:
            return decode(file, self.name(index))

    def raw(self, index: int) -> bytes | None:
        with self._opened(index) as file:
            return whole(file)

    @contextmanager
    def _opened(self, index: int) -> Iterator[BinaryIO]:
        if why := self._absent.get(self._paths[index]):
            raise Unreadable(self.name(index), why)
        try:
            if code := self._lost.get(index):
                raise OSError(code, os.strerror(code))
            with (self._root / self._paths[index]).open("rb") as file:
                yield file
        except OSError as error:
            raise unreadable(self.name(index), error) from error

    def _content(self, relative: str) -> bytes:
        """A table that lies in the folder."""
        path = self._root / relative
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise FromnoiseError(f"cannot read {printable(path.as_posix())}: {_why(error)}") from None
        if len(data) > LARGEST:
            raise WrongUse(f"{printable(path.as_posix())} is larger than the {LARGEST >> 20} MiB a table may have")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file below a folder."""

    relative: str
    """From the root, with slashes."""

    is_picture: bool
    absent: str = ""
    """Why it is not there although it is listed: a link that leads nowhere. "" if it is."""


def walk(path: str | Path) -> Iterator[File]:
    """All regular files below ``path`` that are not hidden, and links that lead nowhere; pictures by suffix.

    Raises:
        WrongUse: it is missing or no folder, or it or a folder in it may not be listed.
    """
    root, where = Path(os.path.expanduser(path)), printable(str(path))
    try:
        top = _identity(root)
        _list(root)
    except FileNotFoundError:
        raise WrongUse(f"there is no folder {where}; give a folder of pictures") from None
    except NotADirectoryError:
        raise WrongUse(f"{where} is not a folder; give the folder that holds the pictures") from None
    except (OSError, ValueError) as error:  # not permitted, name too long; a null character in the name
        raise WrongUse(f"cannot list the folder {where}: {_why(error)}") from None
    # Folders still to list, each with the identities of those it lies in: a link back to one of them is a loop.
    waiting = [("", frozenset([top]))]
    ways: Counter[tuple[int, int]] = Counter()
    while waiting:
        folder, above = waiting.pop()
        try:
            for entry in _list(root / folder):
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if not _holds(entry.is_dir):
                    absent = "" if _holds(entry.is_file) else _absent(entry)
                    if absent is not None:
                        is_picture = suffix_of(entry.name) in SUFFIXES
                        yield File(relative=relative, is_picture=is_picture, absent=absent)
                elif (identity := _identity(entry)) not in above:
                    ways[identity] += 1
                    if ways[identity] > _MOST_WAYS:
                        inner = printable((root / relative).as_posix())
                        raise WrongUse(f"more than {_MOST_WAYS} links lead to one folder, {inner}; remove some of them")
                    waiting.append((relative, above | {identity}))
        except OSError as error:
            inner = printable((root / folder).as_posix())
            raise WrongUse(f"cannot list the folder {inner}: {_why(error)}") from None


def _list(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _identity(folder: os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _holds(question: Callable[[], bool]) -> bool:
    """``question()`` of a directory entry; no, if asking fails, as it does for a link to itself."""
    try:
        return question()
    except OSError:
        return False


def _absent(entry: os.DirEntry[str]) -> str | None:
    """Why what is listed and no file is not there: a dead link. None if it is, for pipes and devices are no files."""
    try:
        os.stat(entry.path)
    except FileNotFoundError:
        return "the link leads nowhere" if _holds(entry.is_symlink) else ""  # else removed since it was listed
    except OSError as error:
        return _why(error)
    return None


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
