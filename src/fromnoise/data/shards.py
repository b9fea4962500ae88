"""Tar files of pictures: plain ones, and the shards that webdataset trains from.

The files of one sample have the same path up to the first dot of the name, its key: ``000/17.jpg``, ``000/17.cls``
(the label, a number or a word), ``000/17.txt`` (the caption), ``000/17.json`` (an object with either, and numbers).
Where less than half of the pictures have such notes, tar files are taken as a folder is: sub-folders are classes, and a
table among the files or of its own is understood. The order is that in which pictures lie there, or with a table that
of their paths. Every shard is walked through once, when it is opened (`tar`); pictures are then read by their place.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from fromnoise.data.conditions import Columns, Conditions, from_folders
from fromnoise.data.decode import SUFFIXES, decode
from fromnoise.data.listing import Wish, is_hidden, leads_out, listing, suffix_of
from fromnoise.data.manifest import FOUND_BY_ITSELF, LARGEST
from fromnoise.data.notes import annotated, samples
from fromnoise.data.source import Files, Unreadable, printable, unreadable
from fromnoise.data.tar import Member, contents, read_member
from fromnoise.data.unzip import LARGEST_MEMBER
from fromnoise.errors import FromnoiseError, WrongUse

_NOWHERE = -1  # where a picture begins that only a table names


@final
class Shards(Files):
    """The pictures in tar files, one file after the other.

    Args:
        paths: the files.
        where: what messages call them together.
        classes: take labels from the notes of samples; where there are none, as `Folder` does.
        labels: a table of what is said of the pictures (`manifest`), a file of its own or one in a tar file.
        columns: which of several pictures of a sample to take (the end of its name, "left.png"); which note, or which
            key of the .json, is the label, the caption, the values.

    Raises:
        WrongUse: a file is not there or compressed, or no pictures are in them; or labels are missing or senseless.
        FromnoiseError: a single file is given, and it is no tar file or damaged from the start.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        where: str,
        *,
        classes: bool = False,
        labels: str | Path | None = None,
        columns: Columns | None = None,
    ) -> None:
        wish = Wish(classes=classes, labels=labels, columns=columns or Columns())
        self._shards = tuple(os.path.abspath(os.path.expanduser(path)) for path in paths)
        self._shown = tuple(printable(str(path)) for path in paths)
        files, self.remarks = self._walked()
        self._stamps = tuple(map(_stamp, self._shards))
        found = samples(files)
        if labels is None and found and 2 * sum(sample.has_notes for sample in found) >= len(found):
            self._pictures, said, remarks = annotated(found, wish, self._shards, self._shown)
            if classes and said.labels is None and said.values is None:
                by_folder = from_folders([member.name for _, member in self._pictures], where)
                said = replace(said, labels=by_folder.labels, classes=by_folder.classes)
        else:
            self._pictures, said, remarks = self._as_tree(files, wish, where)
        self.remarks += remarks
        if not self._pictures:
            raise WrongUse(f"no pictures in {where}: looked for names ending in {' '.join(SUFFIXES)}")
        said.give(self)

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, index: int) -> str:
        shard, member = self._pictures[index]
        return f"{self._shown[shard]}/{printable(member.name)}"

    def identity(self, index: int) -> str:
        """Path, size and time of the last change of its shard, and its place in that."""
        shard, member = self._pictures[index]
        return f"{self._stamps[shard]}\0{member.start}\0{member.size}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode(io.BytesIO(self.raw(index)), self.name(index))

    def raw(self, index: int) -> bytes:
        (shard, member), name = self._pictures[index], self.name(index)
        why = leads_out(member.name)
        if member.start == _NOWHERE:
            why = "the table names it, and it is in none of the tar files"
        if member.size > LARGEST_MEMBER:
            why = f"claims {member.size:,} bytes, above the limit of {LARGEST_MEMBER:,} in an archive"
        if why:
            raise Unreadable(name, why)
        try:
            data = self._bytes(shard, member)
        except MemoryError:
            raise Unreadable(name, "not enough memory to read it") from None
        except OSError as error:
            raise unreadable(name, error) from error
        if len(data) < member.size:
            raise Unreadable(name, f"cut short: {len(data):,} of {member.size:,} bytes are in the tar file")
        return data

    def _walked(self) -> tuple[list[tuple[int, Member]], tuple[str, ...]]:
        """All files that are not hidden, with the number of their shard; and remarks on damaged shards."""
        files: list[tuple[int, Member]] = []
        remarks: list[str] = []
        for number, path in enumerate(self._shards):
            try:
                inside = contents(path)
            except WrongUse:
                raise
            except FromnoiseError as error:
                if len(self._shards) == 1:
                    raise
                remarks.append(str(error))
                continue
            if inside.broken:
                before = f"the {len(inside.members)} files before that are used"
                remarks.append(f"{self._shown[number]} is damaged or cut short ({inside.broken}); {before}")
            files += [(number, member) for member in inside.members if not is_hidden(member.name)]
        return files, tuple(remarks)

    def _as_tree(
        self, files: list[tuple[int, Member]], wish: Wish, where: str
    ) -> tuple[list[tuple[int, Member]], Conditions, tuple[str, ...]]:
        """Pictures without notes: as in a folder if there is a table, else in the order in which they lie there."""
        named = {member.name: (shard, member) for shard, member in files}
        tables = {name for name in FOUND_BY_ITSELF if name in named}
        pictures = [(shard, member) for shard, member in files if suffix_of(member.name) in SUFFIXES]
        if wish.labels is None and not (wish.classes and tables):
            said = from_folders([member.name for _, member in pictures], where) if wish.classes else Conditions()
            return pictures, said, ()
        if len(named) < len(files):
            raise WrongUse(
                f"{where} has files of the same name, which a table cannot tell apart; give notes beside them"
            )
        found = listing(
            list(named),
            [member.name for _, member in pictures],
            wish=wish,
            where=where,
            root=self._shards[0],
            read=lambda name: self._table(*named[name]),
        )
        placed = [named.get(path, (0, Member(name=path, start=_NOWHERE, size=0))) for path in found.paths]
        return placed, found.said, found.remarks

    def _table(self, shard: int, member: Member) -> bytes:
        if member.size > LARGEST:
            raise WrongUse(f"{printable(member.name)} is larger than the {LARGEST >> 20} MiB that a table may have")
        return self._bytes(shard, member)

    def _bytes(self, shard: int, member: Member) -> bytes:
        with open(self._shards[shard], "rb") as file:
            return read_member(file, member)


def _stamp(path: str) -> str:
    status = os.stat(path)
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
