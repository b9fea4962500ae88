"""A table beside the pictures that says what each of them is (`rows` has its forms): labels, captions, numbers.

The table decides which pictures there are: one that it does not name is left out (and counted in a remark), one that
is named but missing is listed, so that reading it says so. File names are taken from the folder of the pictures or from
that of the table, whichever of them finds more.
"""

import csv
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from fromnoise.data.conditions import (
    USUAL_CAPTIONS,
    USUAL_LABELS,
    USUAL_VALUES,
    Columns,
    Conditions,
    as_values,
    from_labels,
    joined,
)
from fromnoise.data.rows import Row, read_rows
from fromnoise.data.source import one_line, printable
from fromnoise.errors import WrongUse, nearest

USUAL_FILES = ("file_name", "filename", "file", "path", "image", "picture", "img", "image_path", "name")
"""What the column of file names is usually called."""

FOUND_BY_ITSELF = ("dataset.json", "metadata.csv", "metadata.jsonl")
"""The tables that are taken without being named: EDM's, and those of folders on the hub."""

LARGEST = 2**28
"""Bytes a table may have; ten million pictures need as much."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The pictures a manifest names, by their paths from the root, sorted."""

    paths: tuple[str, ...]
    rows: tuple[Row, ...]
    missing: frozenset[str]
    """Those of ``paths`` that are not there. They may be anything, also paths that lead elsewhere: never open them."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A table that has been read: which rows it has, and which of their cells say what."""

    where: str
    rows: tuple[Row, ...]
    file: str
    label: str | None
    caption: str | None
    values: tuple[str, ...]

    def place(self, have: Collection[str], shift: str, root: str) -> Placed:
        """The rows as paths from ``root`` (absolute, of a folder or an archive), which holds the files ``have``.

        ``shift`` is the way from the root to the folder of the table, "" if that is nowhere.

        Raises:
            WrongUse: none of the rows names a file that is there, or two name the same.
        """
        found = set(have)
        paths = self._paths("", root, found)
        if not found.issuperset(paths):
            paths = max(paths, self._paths(shift, root, found), key=lambda names: sum(map(found.__contains__, names)))
        if not any(map(found.__contains__, paths)):
            first = printable(str(self.rows[0][self.file]))
            other = printable(min(found)) if found else "nothing"
            raise WrongUse(
                f"none of the {len(self.rows)} rows of {self.where} names a file of {printable(root)}: "
                f"the first row says {first}, and the first file there is {other}"
            )
        by_path = dict(zip(paths, self.rows, strict=True))
        if len(by_path) < len(paths):
            seen: set[str] = set()
            twice = next(path for path in paths if path in seen or seen.add(path))
            raise WrongUse(f"{self.where} names {printable(twice)} twice; one row for each picture")
        names = sorted(by_path)
        return Placed(
            paths=tuple(names), rows=tuple(by_path[name] for name in names), missing=frozenset(by_path.keys() - found)
        )

    def _paths(self, shift: str, root: str, have: set[str]) -> list[str]:
        return [_path(str(row[self.file]), shift, root, have) for row in self.rows]

    def conditions(self, placed: Placed) -> Conditions:
        """What the table says of the placed pictures, in their order. Raises ``WrongUse`` for senseless cells."""

        def name(index: int) -> str:
            return f"{self.where}: {printable(placed.paths[index])}"

        said = Conditions()
        if self.label is not None:
            said = from_labels([row.get(self.label) for row in placed.rows], name)
        if self.caption is not None:
            captions = tuple("" if row.get(self.caption) is None else str(row[self.caption]) for row in placed.rows)
            said = replace(said, captions=captions)
        for column in self.values:
            numbers = as_values([row.get(column) for row in placed.rows], name)
            width = len(numbers[0])
            names = (printable(column),) if width == 1 else tuple(f"{printable(column)} {k}" for k in range(width))
            said = joined(said, values=numbers, value_names=names)
        return said


def read_manifest(data: bytes, name: str, columns: Columns) -> Manifest:
    """The table in ``data``; the end of its file's ``name`` says of which kind it is.

    Raises:
        WrongUse: it is no table of a kind above, or has no file names; or not what ``columns`` asks for; or nothing
            that could be a label, a caption or asked-for values.
    """
    where = printable(name)
    table = manifest_or_none(data, name, columns)
    if table is None:
        raise WrongUse(f'{where} has no labels: its "labels" are null')
    if table.label is None and table.caption is None and not table.values:
        raise WrongUse(
            f"{where} has no column of labels or captions: its columns are {_listed(table.rows)}; "
            f"usual names are {', '.join((*USUAL_LABELS[:2], *USUAL_CAPTIONS[:2]))}"
        )
    return table


def manifest_or_none(data: bytes, name: str, columns: Columns) -> Manifest | None:
    """:func:`read_manifest`, also of a table with nothing but file names; None for EDM's without labels."""
    where = printable(name)
    try:
        rows = read_rows(data.decode("utf-8-sig"), os.path.splitext(name)[1].lower(), where)
    except UnicodeDecodeError:
        raise WrongUse(f"{where} is not UTF-8 text; save it as UTF-8") from None
    except RecursionError:
        raise WrongUse(f"{where} is not a table: it is nested too deep") from None
    except (ValueError, csv.Error) as error:  # of the parsers; a WrongUse is a ValueError too
        if isinstance(error, WrongUse):
            raise
        raise WrongUse(f"{where} cannot be read: {one_line(error)}") from None
    if rows is None:
        return None
    if not rows:
        raise WrongUse(f"{where} has no rows")
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(dict.fromkeys(row))
    file = _column(columns.picture, USUAL_FILES, keys, where)
    if file is None:
        raise WrongUse(
            f"{where} has no column of file names: the first line or object has {_listed(rows)}; call it file"
        )
    label = _column(columns.label, USUAL_LABELS, keys, where)
    caption = _column(columns.caption, USUAL_CAPTIONS, keys, where)
    if columns.values is not None:
        values = tuple(str(_column(asked, (), keys, where)) for asked in columns.values)
    else:
        values = tuple(key for key in keys if key.strip().lower() in USUAL_VALUES)
    unnamed = next((k for k, row in enumerate(rows) if not isinstance(row.get(file), str) or not row[file]), None)
    if unnamed is not None:
        raise WrongUse(f"{where}: row {unnamed + 1} names no file in its column {printable(file)}")
    return Manifest(where=where, rows=tuple(rows), file=file, label=label, caption=caption, values=values)


def left_out(paths: Sequence[str], where: str) -> tuple[str, ...]:
    """The remark on pictures that a table does not name; none if it names all."""
    if not paths:
        return ()
    return (f"left out, for they are not in {where}: {some(paths)}",)


def some(paths: Sequence[str], most: int = 3) -> str:
    """The first few of ``paths`` in one line, and how many more there are."""
    return ", ".join(map(printable, paths[:most])) + (f" and {len(paths) - most:,} more" if len(paths) > most else "")


def _column(given: str | None, usual: Sequence[str], keys: Collection[str], where: str) -> str | None:
    """The column called ``given``, or that of the first usual name there is."""
    if given is not None:
        if given not in keys:
            raise WrongUse(f"{where} has no column {printable(given)}; {nearest(given, map(printable, keys))}")
        return given
    spelt = {key.strip().lower(): key for key in reversed(list(keys))}
    return next((spelt[name] for name in usual if name in spelt), None)


def _listed(rows: Sequence[Row]) -> str:
    keys = [printable(key) for key in rows[0]]
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")


def _path(name: str, shift: str, root: str, have: set[str]) -> str:
    """A file name of the table as a path from the root, with slashes and without detours."""
    if not shift and name in have:
        return name
    slashed = name if "/" in name else name.replace("\\", "/")
    full = os.path.normpath(os.path.join(root, shift, slashed))  # which is ``slashed`` alone if that is absolute
    inside = full.startswith(root + os.sep)
    return (full[len(root) + 1 :] if inside else os.path.relpath(full, root)).replace(os.sep, "/")
