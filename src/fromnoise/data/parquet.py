"""Parquet files: the rows of one file after the other, groups of rows at a time.

A parquet file is read by the group of rows, hundreds or thousands, of which it unpacks pages in order; it has no cheap
way to one row. So a cursor walks through the group that is being read, a few rows at a time, and keeps the last it
passed for the threads that lag behind. Reading in order costs every page once; a row behind the cursor starts
its group anew.
"""

import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, final

from fromnoise.data.arrow import described, pyarrow
from fromnoise.data.source import one_line, printable
from fromnoise.data.table import Rows
from fromnoise.errors import FromnoiseError, WrongUse

_STEP = 16  # rows at a time
_KEPT = 8  # steps that are kept


@final
class ParquetRows(Rows):
    """The rows of parquet files, which have the same columns.

    Args:
        paths: the files, in the order of their rows.
        where: what messages call them.

    Raises:
        WrongUse: a file is not there, or pyarrow is not, or columns of the first file are not in another.
        FromnoiseError: a file is damaged or cut short.
    """

    def __init__(self, paths: Sequence[str], where: str) -> None:
        self._module = pyarrow("parquet", where)
        self._paths, self._where = tuple(paths), where
        self._folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
        self._stamps: list[str] = []
        self._groups: list[tuple[int, int]] = []  # file, group in it
        sizes: list[int] = []
        for number, path in enumerate(paths):
            try:
                status = os.stat(path)
                with self._module.ParquetFile(path) as file:
                    schema, metadata = file.schema_arrow, file.metadata
            except FileNotFoundError:
                raise WrongUse(f"there is no file {printable(path)}") from None
            except Exception as error:
                raise FromnoiseError(f"{printable(path)} is damaged or cut short ({one_line(error)})") from None
            self._stamps.append(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}")
            if not number:
                self.columns = described(schema)
            elif missing := set(self.columns) - set(schema.names):
                raise WrongUse(f"{printable(path)} has no column {printable(min(missing))}, which {paths[0]} has")
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._ends = list(accumulate(sizes))
        self._lock = threading.Lock()
        self._kept: deque[tuple[str, int, Any]] = deque(maxlen=_KEPT)  # column, first row, cells
        self._steps: Iterator[tuple[int, Any]] = iter(())
        self._place: tuple[str, int, int] = ("", -1, 0)  # column, group, the row that the next step begins with

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def name(self, row: int) -> str:
        file, first = self._file(row)
        return f"{printable(self._paths[file])}[{row - first}]"

    def identity(self, row: int) -> str:
        file, first = self._file(row)
        return f"{self._stamps[file]}\0{row - first}"

    def folder(self, row: int) -> str:
        return self._folders[self._file(row)[0]]

    def cells(self, column: str) -> list[Any]:
        return [cell for part in self._parts(column) for cell in part.column(0).to_pylist()]

    def paths(self, column: str) -> Sequence[str | None]:
        kind = self.columns[column].kind
        if kind == "bytes":
            return [None] * len(self)
        if kind == "text":
            return self.cells(column)
        parts = self._parts(f"{column}.path")  # of a struct, this leaf alone is read
        return [None if cell is None else cell.get("path") for part in parts for cell in part.column(0).to_pylist()]

    def cell(self, column: str, row: int) -> Any:
        with self._lock:
            cells, first = self._step(column, row)
        return cells[row - first].as_py()

    def _step(self, column: str, row: int) -> tuple[Any, int]:
        """The cells of a few rows around ``row``, and the first of these rows."""
        for kept, first, cells in self._kept:
            if kept == column and first <= row < first + len(cells):
                return cells, first
        group = bisect_right(self._ends, row)
        if self._place[:2] != (column, group) or row < self._place[2]:
            self._steps = self._walk(column, group)
            self._place = (column, group, 0)
        for first, cells in self._steps:
            self._place = (column, group, first + len(cells))
            self._kept.append((column, first, cells))
            if row < first + len(cells):
                return cells, first
        self._place = ("", -1, 0)
        raise EOFError(f"the group ends before row {row}")

    def _walk(self, column: str, group: int) -> Iterator[tuple[int, Any]]:
        number, within = self._groups[group]
        first = self._ends[group - 1] if group else 0
        with self._module.ParquetFile(self._paths[number], memory_map=True) as file:
            for batch in file.iter_batches(_STEP, row_groups=[within], columns=[column], use_threads=False):
                yield first, batch.column(0)
                first += batch.num_rows

    def _parts(self, column: str) -> Iterator[Any]:
        """One column of every file, as a table each."""
        for path in self._paths:
            try:
                with self._module.ParquetFile(path, memory_map=True) as file:
                    yield file.read(columns=[column], use_threads=False)
            except Exception as error:
                raise FromnoiseError(
                    f"{printable(path)} is damaged ({one_line(error)}); make or fetch it again"
                ) from None

    def _file(self, row: int) -> tuple[int, int]:
        """The file that ``row`` is in, and that file's first row."""
        group = bisect_right(self._ends, row)
        number, within = self._groups[group]
        first = group - within
        return number, self._ends[first - 1] if first else 0
