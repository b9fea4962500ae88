"""Pictures that are the rows of a table: a column of pictures, and columns of what is said of them.

A cell holds the picture's file as bytes, or the path of that file, or both (as data sets of the Hugging Face hub do:
``{"bytes": …, "path": …}``, where either may be missing). Paths are taken from the folder of the table. Where the table
lies, and how a cell is fetched, is the business of `Rows`: of parquet files (`parquet`) or of Arrow ones (`arrow`).
"""

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, final

import numpy as np
from numpy.typing import NDArray

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
from fromnoise.data.decode import decode
from fromnoise.data.source import Files, Gone, Unreadable, printable, unreadable, whole
from fromnoise.errors import WrongUse, nearest

USUAL_PICTURES = ("image", "img", "picture", "photo", "jpg", "png", "image_path", "file_name", "path")
"""What the column of pictures is usually called."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What is known of a column without reading it."""

    kind: str
    """"picture" (a struct of bytes and path), "bytes", "text" or "other"."""

    is_picture: bool = False
    """Whether the table declares it to be pictures."""

    names: tuple[str, ...] | None = field(default=None)
    """The names of the classes that its numbers stand for, if the table declares them."""


class Rows(ABC):
    """A table, read by the cell. May be used from several threads at once."""

    columns: Mapping[str, Column]

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What a row is called in messages: printable."""

    @abstractmethod
    def identity(self, row: int) -> str:
        """What stands for the content of a row."""

    @abstractmethod
    def folder(self, row: int) -> str:
        """From where the paths in a row are taken."""

    @abstractmethod
    def cells(self, column: str) -> list[Any]:
        """A whole column, as Python's own values. Raises FromnoiseError if the file is damaged."""

    @abstractmethod
    def paths(self, column: str) -> Sequence[str | None]:
        """The paths in a column of pictures, without the bytes; None where a cell has none."""

    @abstractmethod
    def cell(self, column: str, row: int) -> Any:
        """One cell. Raises anything if the file is damaged."""


@final
class Table(Files):
    """The pictures in a column of ``rows``.

    Args:
        rows: the table.
        where: what messages call it.
        classes: take labels from the column that declares class names, or has a usual name.
        columns: what the columns are called.
        remarks: what is to be said about the choice of ``rows``.

    Raises:
        WrongUse: there is no such column, or none or several that could be meant; or it has no rows.
    """

    def __init__(
        self,
        rows: Rows,
        where: str,
        *,
        classes: bool = False,
        columns: Columns | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        columns = columns or Columns()
        self.remarks = remarks
        self._rows = rows
        if not len(rows):
            raise WrongUse(f"no pictures in {where}: it has no rows")
        self._column = _picture_column(rows.columns, columns.picture, where)
        self._paths = rows.paths(self._column)
        said = Conditions()
        if classes or columns.label is not None:
            column = _label_column(rows.columns, columns.label, where)
            said = from_labels(rows.cells(column), self.name, rows.columns[column].names)
        caption = _found(rows.columns, columns.caption, USUAL_CAPTIONS, where)
        if caption is not None and caption != self._column:
            said = replace(said, captions=tuple(map(_line, rows.cells(caption))))
        usual = [name for name in USUAL_VALUES if name in rows.columns]
        for name in usual if columns.values is None else columns.values:
            values = as_values(rows.cells(str(_found(rows.columns, name, (), where))), self.name)
            width = range(len(values[0]))
            names = (printable(name),) if len(width) == 1 else tuple(f"{printable(name)} {k}" for k in width)
            said = joined(said, values=values, value_names=names)
        said.give(self)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        path = self._paths[index]
        return self._rows.name(index) + (f" ({printable(path)})" if path else "")

    def identity(self, index: int) -> str:
        """That of its row; of a path in it also size and time of the last change."""
        status = self._status(index)
        changed = "" if status is None else f"\0{status.st_size}\0{status.st_mtime_ns}"
        return f"{self._rows.identity(index)}\0{self._column}\0{self._paths[index] or ''}{changed}"

    def read(self, index: int) -> NDArray[np.uint8]:
        with self._opened(index) as file:
            return decode(file, self.name(index))

    def raw(self, index: int) -> bytes | None:
        with self._opened(index) as file:
            return whole(file)

    @contextmanager
    def _opened(self, index: int) -> Iterator[BinaryIO]:
        name = self.name(index)
        try:
            cell = self._rows.cell(self._column, index)
        except MemoryError:
            raise Unreadable(name, "not enough memory to read it") from None
        except Exception as error:  # Arrow's own, OSError, zlib's …
            if isinstance(error, OSError) and isinstance(gone := unreadable(name, error), Gone):
                raise gone from error
            raise Unreadable(name, f"damaged ({type(error).__name__}: {error})") from error
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            yield io.BytesIO(data)
            return
        path = self._path(index)
        if path is None:
            raise Unreadable(name, "the cell is empty")
        status = self._status(index)
        if status is not None and not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise Unreadable(name, "its path is no file")
        try:
            with open(path, "rb") as file:
                yield file
        except (OSError, ValueError) as error:
            raise Unreadable(name, (error.strerror if isinstance(error, OSError) else None) or str(error)) from error

    def _path(self, index: int) -> str | None:
        path = self._paths[index]
        return os.path.join(self._rows.folder(index), path) if path else None

    def _status(self, index: int) -> os.stat_result | None:
        path = self._path(index)
        try:
            return os.stat(path) if path else None
        except (OSError, ValueError):
            return None


def _picture_column(columns: Mapping[str, Column], asked: str | None, where: str) -> str:
    if asked is not None:
        name = str(_found(columns, asked, (), where))
        if columns[name].kind == "other":
            raise WrongUse(f"the column {printable(asked)} of {where} holds no pictures: neither bytes nor paths")
        return name
    declared = [name for name, column in columns.items() if column.is_picture or column.kind == "picture"]
    usual = [name for name in USUAL_PICTURES if name in columns and columns[name].kind != "other"]
    binary = [name for name, column in columns.items() if column.kind == "bytes"]
    for likely in (declared, usual, binary):
        if len(likely) > 1 and likely is not usual:
            several = ", ".join(map(printable, likely))
            raise WrongUse(f"several columns of {where} may be the pictures, name one of them: {several}")
        if likely:
            return likely[0]
    raise WrongUse(f"no column of pictures in {where}; its columns are {', '.join(map(printable, columns)) or 'none'}")


def _label_column(columns: Mapping[str, Column], asked: str | None, where: str) -> str:
    name = _found(columns, asked, USUAL_LABELS, where)
    if name is not None:
        return name
    declared = [name for name, column in columns.items() if column.names is not None]
    if len(declared) == 1:
        return declared[0]
    if declared:
        raise WrongUse(
            f"several columns of {where} are classes, name one of them: {', '.join(map(printable, declared))}"
        )
    raise WrongUse(f"no column of labels in {where}; its columns are {', '.join(map(printable, columns))}")


def _found(columns: Mapping[str, Column], asked: str | None, usual: Sequence[str], where: str) -> str | None:
    if asked is not None and asked not in columns:
        raise WrongUse(f"{where} has no column {printable(asked)}; {nearest(asked, map(printable, columns))}")
    return asked if asked is not None else next((name for name in usual if name in columns), None)


def _line(cell: Any) -> str:
    """A caption; the first of several."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    return "" if cell is None else str(cell)
