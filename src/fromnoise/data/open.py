"""From what a person types to a source of pictures, chosen by what it is: a built-in name, a path, an address.

========================================================  ==========================================================
``digits``, ``emoji``                                     the embedded pictures
a folder of pictures                                      `Folder`
a folder that ``save_to_disk`` of ``datasets`` wrote      `Table`, over `arrow`
a folder without pictures, of .parquet or .tar files      `Table` over `parquet`, or `Shards`
.zip                                                      `Archive`
.npy, .npz                                                `Arrays`
.parquet, .arrow                                          `Table`
.tar; several, as ``{00..11}.tar`` or ``*.tar``           `Shards`
``https://…/{00..11}.tar``, ``pipe:command``              `Shards`, fetched (`streamed`)
``hub:OWNER/NAME``                                        `Table`, fetched (`hub`)
========================================================  ==========================================================

A file's first bytes say what it is, and where they do not, its name (`kind`).
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fromnoise.data.archive import Archive
from fromnoise.data.arrays import Arrays
from fromnoise.data.arrow import chosen_split, is_saved, open_arrow, open_saved
from fromnoise.data.cache import Cache
from fromnoise.data.conditions import Columns
from fromnoise.data.digits import Digits
from fromnoise.data.emoji import Emoji
from fromnoise.data.folder import File, Folder, walk
from fromnoise.data.hub import PREFIX, open_hub
from fromnoise.data.kind import kind_of, refusal
from fromnoise.data.listing import suffix_of
from fromnoise.data.manifest import some
from fromnoise.data.parquet import ParquetRows
from fromnoise.data.pattern import expanded, is_pattern, matching
from fromnoise.data.shards import Shards
from fromnoise.data.source import Source, printable
from fromnoise.data.streamed import fetched, is_address
from fromnoise.data.table import Rows, Table
from fromnoise.errors import WrongUse, nearest

BUILT_IN: dict[str, Callable[[], Source]] = {"digits": Digits, "emoji": Emoji}
"""Sources that come with the package, by name. A folder of the same name is meant by ``./name``."""

_SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev)(?=[/_.-])")


def open_source(
    path_or_name: str | Path,
    classes: bool = False,
    *,
    labels: str | Path | None = None,
    columns: Columns | None = None,
    split: str | None = None,
) -> Source:
    """The source that ``path_or_name`` means, by the table above; a `Path` is never a name.

    Args:
        path_or_name: what a person typed; ``~`` is understood.
        classes: whether to take the labels that the pictures have, by the rule of each source. The embedded pictures
            have theirs in any case.
        labels: a table of labels, captions or values to take instead (`manifest`); of .npy and .npz an .npy file.
        columns: what the columns of a table, or the arrays of an .npz, are called.
        split: which split of a data set that has several; None for "train", or the only one.

    Raises:
        WrongUse: there is no such thing, it is of a kind that is not read here, it holds no pictures, or not the
            labels, columns or split asked for; or an extra that it needs is not installed.
        FromnoiseError: it is damaged, or cannot be fetched.
    """
    opening = _Opening(classes, labels, columns or Columns(), split)
    shown = printable(str(path_or_name))
    if path_or_name == "":
        raise WrongUse(f"an empty name; give a folder of pictures or a built-in name: {', '.join(BUILT_IN)}")
    if isinstance(path_or_name, str):
        if path_or_name in BUILT_IN:
            opening.refuse(shown, "labels", "columns", "split")
            return BUILT_IN[path_or_name]()
        if path_or_name.startswith(PREFIX):
            rows, remarks = open_hub(path_or_name, split)
            return opening.table(rows, shown, remarks)
        if is_address(path_or_name):
            return opening.streamed(path_or_name, shown)
    path = os.path.expanduser(path_or_name)
    if os.path.isdir(path):
        return opening.folder(path, shown)
    if os.path.isfile(path):
        return opening.files([path], shown)
    if not os.path.lexists(path) and is_pattern(path):
        return opening.files(matching(path), shown)
    if not os.path.lexists(path) and os.sep not in path:  # one word that names nothing: perhaps a built-in, misspelt
        raise WrongUse(f"there is no folder {shown}, and no built-in data of that name; {nearest(shown, BUILT_IN)}")
    if not os.path.lexists(path) and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise WrongUse(f"there is no folder {shown}; a data set of the hub is written {PREFIX}{shown}")
    return Folder(path_or_name)  # which says what is wrong with it


@final
@dataclass(frozen=True)
class _Opening:
    """What is asked of the source, whatever it is."""

    classes: bool
    labels: str | Path | None
    columns: Columns
    split: str | None

    def refuse(self, shown: str, *names: str) -> None:
        """Raise ``WrongUse`` where something is asked for that this kind of source has not."""
        asked = {
            "labels": self.labels is not None and "have their labels with them; leave out the table of labels",
            "columns": self.columns != Columns() and "have no columns; leave them out",
            "split": self.split is not None and "have no splits; leave it out",
        }
        for name in names:
            if asked[name]:
                raise WrongUse(f"the pictures of {shown} {asked[name]}")

    def folder(self, path: str, shown: str) -> Source:
        if is_saved(path):
            rows, remarks = open_saved(path, shown, self.split)
            return self.table(rows, shown, remarks)
        files = list(walk(path))
        if self.labels is None and not any(file.is_picture for file in files):
            tables = _of(files, ".parquet")
            shards = _of(files, ".tar")
            if tables and shards:
                raise WrongUse(
                    f"{shown} holds .parquet and .tar files, {tables[0]} and {shards[0]}; give one kind of them"
                )
            if tables:
                chosen, remarks = self._of_split(tables, shown)
                return self.table(ParquetRows([os.path.join(path, name) for name in chosen], shown), shown, remarks)
            if shards:
                return self.shards([os.path.join(path, name) for name in shards], shown)
        self.refuse(shown, "split")
        return Folder(path, classes=self.classes, labels=self.labels, columns=self.columns, files=files)

    def files(self, paths: Sequence[str], shown: str) -> Source:
        kinds = {kind_of(path) for path in paths}
        if len(kinds) > 1:
            raise WrongUse(
                f"{shown} stands for files of several kinds, {', '.join(sorted(kinds))}; give one kind of them"
            )
        kind = kinds.pop()
        if kind == ".parquet":
            return self.table(ParquetRows(paths, shown), shown, ())
        if kind == ".arrow":
            rows, remarks = open_arrow(paths, shown)
            return self.table(rows, shown, remarks)
        if kind == ".tar":
            return self.shards(paths, shown)
        if kind not in _ONE_FILE:
            raise WrongUse(refusal(kind, shown))
        if len(paths) > 1:
            raise WrongUse(f"{shown} stands for {len(paths)} files, {some(paths)}; of {kind} files give one")
        self.refuse(shown, "split")
        return _ONE_FILE[kind](paths[0], classes=self.classes, labels=self.labels, columns=self.columns)

    def streamed(self, address: str, shown: str) -> Source:
        addresses = [address] if address.startswith("pipe:") else expanded(address)
        if not address.startswith("pipe:") and not all(suffix_of(one.partition("?")[0]) == ".tar" for one in addresses):
            raise WrongUse(f"{shown} is no address of a .tar shard; fetch what else is there, and give its path")
        return self.shards(fetched(addresses, Cache.from_environment().path / "shards"), shown)

    def shards(self, paths: Sequence[str | Path], shown: str) -> Source:
        self.refuse(shown, "split")
        return Shards(paths, shown, classes=self.classes, labels=self.labels, columns=self.columns)

    def table(self, rows: Rows, shown: str, remarks: tuple[str, ...]) -> Source:
        self.refuse(shown, "labels")
        return Table(rows, shown, classes=self.classes, columns=self.columns, remarks=remarks)

    def _of_split(self, tables: Sequence[str], shown: str) -> tuple[Sequence[str], tuple[str, ...]]:
        """The files of the split wanted, where the names of all tell theirs."""
        found = [_SPLIT.search(name) for name in tables]
        splits = sorted({match[1] for match in found if match})
        if None in found or (len(splits) == 1 and self.split is None):
            self.refuse(shown, "split")
            return tables, ()
        wanted = chosen_split(splits, self.split, shown)
        chosen = [name for name, match in zip(tables, found, strict=True) if match and match[1] == wanted]
        return chosen, (f"of {shown}, the split {wanted} is taken; there are {', '.join(splits)}",)


_ONE_FILE = {".zip": Archive, ".npz": Arrays, ".npy": Arrays}


def _of(files: Sequence[File], suffix: str) -> list[str]:
    return sorted(file.relative for file in files if suffix_of(file.relative) == suffix)
