"""A folder of pictures, searched with all its sub-folders.

The order is that of the relative paths written with slashes, character by character: the same on every machine.
Suffixes count in any case. What begins with a dot is skipped, files and folders alike. Links to files and folders are
followed, except a link to a folder that it lies in, which would never end.

A picture whose link leads nowhere or that may not be opened is listed like any other; reading it raises `Unreadable`,
so that it is counted and named rather than silently missing. A sub-folder that may not be listed is refused at once,
for nobody knows how many pictures it hides.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.source import Source, Unreadable, printable
from fromnoise.errors import WrongUse


@final
class Folder(Source):
    """The pictures in ``path`` and below.

    Args:
        path: the folder; ``~`` is understood.
        classes: take the folders directly in ``path`` as classes, numbered in the order of their names. A folder
            without pictures is no class.

    Raises:
        WrongUse: ``path`` is missing, no folder, not listable or without pictures; or, with ``classes``, a picture
            lies directly in it, in no class.
    """

    def __init__(self, path: str | Path, *, classes: bool = False) -> None:
        self._root = Path(os.path.expanduser(path))
        where = printable(str(path))
        files = sorted(_walk(self._root, where), key=lambda file: file.relative)
        self._paths = tuple(file.relative for file in files if file.is_picture)
        if not self._paths:
            others = f"; other files in it: {len(files)}" if files else "; there are no other files in it either"
            raise WrongUse(f"no pictures in {where}: looked for names ending in {' '.join(SUFFIXES)}{others}")
        self.labels = None
        self.classes = ()
        if classes:
            self._take_classes(where)

    def _take_classes(self, where: str) -> None:
        loose = next((path for path in self._paths if "/" not in path), None)
        if loose is not None:
            raise WrongUse(
                f"{printable(loose)} lies directly in {where}, in no class: "
                "with classes, every picture belongs in a sub-folder that names its class"
            )
        names = [path.partition("/")[0] for path in self._paths]
        known = sorted(set(names))
        number = {name: k for k, name in enumerate(known)}
        self.labels = tuple(number[name] for name in names)
        self.classes = tuple(printable(name) for name in known)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return printable((self._root / self._paths[index]).as_posix())

    def read(self, index: int) -> NDArray[np.uint8]:
        path = self._root / self._paths[index]
        try:
            with path.open("rb") as file:
                return decode(file, self.name(index))
        except FileNotFoundError:
            why = "the link leads nowhere" if path.is_symlink() else "the file is gone"
            raise Unreadable(self.name(index), why) from None
        except OSError as error:
            raise Unreadable(self.name(index), _why(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    relative: str
    """From the root, with slashes."""

    is_picture: bool


def _walk(root: Path, where: str) -> Iterator[_File]:
    """All files below ``root`` that are not hidden; pictures by suffix, links that lead nowhere among them."""
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
    while waiting:
        folder, above = waiting.pop()
        try:
            for entry in _list(root / folder):
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if not _holds(entry.is_dir):
                    named_so = os.path.splitext(entry.name)[1].lower() in SUFFIXES
                    # What does not exist although it is listed is a dead link. Pipes and devices are no pictures.
                    readable = _holds(entry.is_file) or not os.path.exists(entry.path)
                    yield _File(relative=relative, is_picture=named_so and readable)
                elif (identity := _identity(entry)) not in above:
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


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
