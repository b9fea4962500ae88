"""A zip file of pictures, read where it lies: nothing is unpacked to the disk, nothing is written.

What is in it is taken as a folder is (`folder`): order, hidden names, sub-folders as classes, a table in it or beside
it; EDM's form is such a zip with a ``dataset.json``. An archive may come from anybody, so a picture in it is listed but
`Unreadable` where it is encrypted, packed in a way not known here, or too large (`unzip`); where its name leads out of
the archive; and where its bytes are not those that the archive's directory promises, in number or checksum. Archives in
archives are left closed, with a remark.
"""

import io
import os
from collections import Counter
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.conditions import Columns
from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.listing import Wish, is_hidden, leads_out, listing, suffix_of
from fromnoise.data.manifest import LARGEST, some
from fromnoise.data.source import Files, Unreadable, printable
from fromnoise.data.unzip import directory, fault, unpacked
from fromnoise.errors import WrongUse


@final
class Archive(Files):
    """The pictures in the zip file ``path``.

    Args:
        path: the file; ``~`` is understood.
        classes: take labels from ``dataset.json`` or another table of a usual name in it, else take its first folders
            as classes.
        labels: a table of what is said of the pictures (`manifest`), a file of its own or one in the archive.
        columns: what the columns of the table are called.

    Raises:
        WrongUse: there is no such file, or no pictures are in it, or the table or the classes make no sense.
        FromnoiseError: it is no zip file, or a damaged one.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: bool = False,
        labels: str | Path | None = None,
        columns: Columns | None = None,
    ) -> None:
        self._where = printable(str(path))
        self._path = os.path.abspath(os.path.expanduser(path))
        seen = [member for member in directory(self._path, self._where) if not is_hidden(member.name)]
        self._members = {member.name: member for member in seen}  # of two of one name the last, as where it is unpacked
        twice = sorted(name for name, count in Counter(member.name for member in seen).items() if count > 1)
        pictures = listing(
            list(self._members),
            [name for name in self._members if suffix_of(name) in SUFFIXES],
            wish=Wish(classes=classes, labels=labels, columns=columns or Columns()),
            where=self._where,
            root=self._path,
            read=self._content,
        )
        self._paths = pictures.paths
        self.remarks = pictures.remarks
        if twice:
            self.remarks += (f"there more than once, and only the last is read: {some(twice)}",)
        pictures.said.give(self)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return printable(f"{self._where}/{self._paths[index]}")

    def identity(self, index: int) -> str:
        """Its name, checksum and size, from the archive's directory."""
        path = self._paths[index]
        member = self._members.get(path)
        return f"{path}\0{member.crc:08x}\0{member.size}" if member else f"{path}\0missing"

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode(io.BytesIO(self.raw(index)), self.name(index))

    def raw(self, index: int) -> bytes:
        path, name = self._paths[index], self.name(index)
        member = self._members.get(path)
        if member is None:
            raise Unreadable(name, "the table names it, and it is not in the archive")
        why = leads_out(path) or fault(member)
        if why:
            raise Unreadable(name, why)
        return unpacked(self._path, member, name)

    def _content(self, path: str) -> bytes:
        """A table that lies in the archive."""
        name, member = printable(f"{self._where}/{path}"), self._members[path]
        why = fault(member, LARGEST)
        if why:
            raise WrongUse(f"{name}: {why}")
        return unpacked(self._path, member, name)
