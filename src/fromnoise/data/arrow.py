"""Arrow tables: data sets that Hugging Face's ``datasets`` saved, single ``.arrow`` files, and tables of the hub.

This is the only file that knows pyarrow's types; it is imported when a table is opened, and comes with the extra
``hub``. Files are mapped, so that a table may be larger than memory.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, final

from fromnoise.data.manifest import some
from fromnoise.data.source import one_line, printable
from fromnoise.data.table import Column, Rows
from fromnoise.errors import FromnoiseError, WrongUse, nearest

_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream, which may also just end (columnar format, "IPC Streaming Format")


def pyarrow(part: str, where: str) -> Any:
    """A module of pyarrow ("" for its root). Raises ``WrongUse`` with what to install."""
    try:
        return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError:
        raise WrongUse(f"reading {where} needs pyarrow: pip install 'fromnoise[hub]'") from None


def described(schema: Any) -> dict[str, Column]:
    """What a schema says of its columns, with what ``datasets`` has noted about them."""
    features = _features(schema.metadata)
    return {field.name: _column(field.type, features.get(field.name)) for field in schema}


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The features that ``datasets`` writes into the metadata of its tables; none if it did not."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(kind: Any, feature: Any) -> Column:
    types = pyarrow("types", "a table")
    feature = feature if isinstance(feature, dict) else {}
    inner = feature.get("feature") if isinstance(feature.get("feature"), dict) else feature  # a list of classes
    names = inner.get("names") if inner.get("_type") == "ClassLabel" else None
    if types.is_struct(kind) and {"bytes", "path"} <= {kind.field(k).name for k in range(kind.num_fields)}:
        word = "picture"
    elif types.is_binary(kind) or types.is_large_binary(kind):
        word = "bytes"
    elif types.is_string(kind) or types.is_large_string(kind):
        word = "text"
    else:
        word = "other"
    return Column(
        kind=word,
        is_picture=feature.get("_type") == "Image" and word != "other",
        names=tuple(map(str, names)) if isinstance(names, list) and names else None,
    )


@final
class ArrowRows(Rows):
    """A table of pyarrow, in memory or mapped.

    Args:
        table: pyarrow's.
        where: what messages call it.
        identity: what stands for its content.
        folder: from where paths in it are taken.
    """

    def __init__(self, table: Any, *, where: str, identity: str, folder: str) -> None:
        self._table, self._where, self._identity, self._folder = table, where, identity, folder
        try:
            table.validate(full=True)  # offsets that point elsewhere would be followed
        except Exception as error:
            raise FromnoiseError(f"{where} is damaged ({one_line(error)}); make or fetch it again") from None
        self.columns = described(table.schema)

    def __len__(self) -> int:
        return self._table.num_rows

    def name(self, row: int) -> str:
        return f"{self._where}[{row}]"

    def identity(self, row: int) -> str:
        return f"{self._identity}\0{row}"

    def folder(self, row: int) -> str:
        return self._folder

    def cells(self, column: str) -> list[Any]:
        return self._table.column(column).to_pylist()

    def paths(self, column: str) -> Sequence[str | None]:
        cells = self._table.column(column)
        if self.columns[column].kind == "picture":
            cells = pyarrow("compute", self._where).struct_field(cells, "path")
        return cells.to_pylist() if self.columns[column].kind != "bytes" else [None] * len(cells)

    def cell(self, column: str, row: int) -> Any:
        return self._table.column(column)[row].as_py()


def open_arrow(paths: Sequence[str], where: str) -> tuple[ArrowRows, tuple[str, ...]]:
    """The rows of Arrow files (streams, or files with a directory), one after the other, and remarks on them.

    Raises:
        WrongUse: a file is not there, or pyarrow is not.
        FromnoiseError: a file is damaged or cut short, or has other columns than the first.
    """
    arrow, ipc = pyarrow("", where), pyarrow("ipc", where)
    tables, stamps, endless = [], [], []
    for path in paths:
        try:
            status = os.stat(path)
            mapped = arrow.memory_map(path)
            head = mapped.read(6)
            mapped.seek(0)
            reader = ipc.open_file(mapped) if head == b"ARROW1" else ipc.open_stream(mapped)
            tables.append(reader.read_all())
            mapped.seek(max(0, status.st_size - len(_END)))
            if head != b"ARROW1" and mapped.read(len(_END)) != _END:
                endless.append(path)
        except FileNotFoundError:
            raise WrongUse(f"there is no file {printable(path)}") from None
        except Exception as error:
            raise FromnoiseError(f"{printable(path)} is damaged or cut short ({one_line(error)})") from None
        stamps.append(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}")
    try:
        table = arrow.concat_tables(tables)
    except Exception as error:
        raise FromnoiseError(f"the files of {where} do not have the same columns ({one_line(error)})") from None
    folder = os.path.dirname(os.path.abspath(paths[0]))
    identity = hashlib.blake2b("\n".join(stamps).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    remarks = (f"perhaps cut short, for the mark of the end is missing: {some(endless)}",) if endless else ()
    return ArrowRows(table, where=where, identity=identity, folder=folder), remarks


def is_saved(folder: str) -> bool:
    """Whether ``folder`` was written by ``save_to_disk`` of ``datasets``, with or without splits."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def open_saved(folder: str, where: str, split: str | None) -> tuple[ArrowRows, tuple[str, ...]]:
    """The rows of a data set saved by ``datasets``, and remarks on them.

    Args:
        folder: where it was saved.
        where: what messages call it.
        split: which of its splits; None for "train", or the only one.

    Raises:
        WrongUse: there is no such split, or something else in the folder's description makes no sense.
        FromnoiseError: a file is damaged or missing.
    """
    remarks: tuple[str, ...] = ()
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        splits = [str(name) for name in _described(folder, "dataset_dict.json", "splits", where)]
        chosen = chosen_split(splits, split, where)
        if len(splits) > 1:
            remarks = (f"of {where}, the split {printable(chosen)} is taken; there are {', '.join(splits)}",)
        folder, where = os.path.join(folder, os.path.basename(chosen)), f"{where}/{printable(chosen)}"
    elif split is not None:
        raise WrongUse(f"{where} has no splits, and {printable(split)} is asked for")
    entries = _described(folder, "state.json", "_data_files", where)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(name, str) and name == os.path.basename(name) for name in names):
        raise FromnoiseError(f"{where}: its state.json does not name the files of the data set")
    rows, more = open_arrow([os.path.join(folder, str(name)) for name in names], where)
    return rows, remarks + more


def chosen_split(splits: Sequence[str], asked: str | None, where: str) -> str:
    """The split asked for; else "train", else the only one. Raises ``WrongUse`` if it is not there."""
    if asked is not None and asked not in splits:
        raise WrongUse(f"{where} has no split {printable(asked)}; {nearest(asked, map(printable, splits))}")
    if asked is None and "train" not in splits and len(splits) != 1:
        raise WrongUse(f"{where} has the splits {', '.join(map(printable, splits)) or 'none'}; say which to take")
    return asked or ("train" if "train" in splits else splits[0])


def _described(folder: str, file: str, key: str, where: str) -> list[Any]:
    """The list under ``key`` of a JSON file in ``folder``."""
    try:
        with open(os.path.join(folder, file), "rb") as opened:
            value = json.load(opened)[key]
    except OSError as error:
        raise FromnoiseError(f"{where}: cannot read {file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise FromnoiseError(f"{where}: its {file} is damaged")
    return value
