"""A copy of a data set with only what can be used: the files as they are, wherever they lay, else PNGs of the pixels.

The folder is made aside and renamed when it is whole. Pictures lie in it as they lay in their source, but below a
folder named for their class where they have one and did not lie there before, so that ``--classes`` finds the same
classes again. What a folder cannot say (captions, numbers, names of classes that no folder may have) is in
``metadata.jsonl``. Names are made harmless: no control characters, nothing hidden, none twice.
"""

import io
import json
import os
import posixpath
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fromnoise.data import SUFFIXES, Source, Unreadable
from fromnoise.data.survey import file_path, raw_bytes, usual_suffix
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.files import explained
from fromnoise.task.inspect import Inspected

TABLE = "metadata.jsonl"
_UNSAFE = frozenset('/\\:*?"<>|')
_LONGEST = 200  # bytes of one part of a name, for file systems allow 255


@dataclass(frozen=True)
class Cleaning:
    """``done`` of ``total`` pictures are copied."""

    done: int
    total: int


@dataclass(frozen=True)
class Cleaned:
    """The folder stands: ``pictures`` of ``nbytes`` in all are in it, ``left_out`` of the source are not."""

    path: Path
    pictures: int
    left_out: int
    nbytes: int


CleanEvent = Cleaning | Cleaned


def write_clean(
    source: Source, found: Inspected, out: Path, *, copies: bool = True, near_copies: bool = True
) -> Iterator[CleanEvent]:
    """Copy the usable pictures of ``source`` into the new folder ``out``.

    Args:
        source: what was inspected.
        found: the last event of its inspection, whose ``facts.source`` is the path of the data.
        out: a folder that is not there yet, or is empty.
        copies: keep also pictures with the same pixels as an earlier one.
        near_copies: keep also pictures that look almost the same as an earlier one.

    Raises:
        WrongUse: ``out`` is taken, or lies in the data; or nothing is usable.
        FromnoiseError: the disk refuses; or near copies are to be left out, and there was no memory to look for them.
    """
    if not found.usable:
        raise WrongUse(f"nothing in {found.facts.source} can be used, so there is nothing to copy")
    refuse_place(out, found.facts.source)
    if not near_copies and found.facts.near_copies is None:
        raise FromnoiseError("near copies were not looked for, memory being short, so they cannot be left out")
    unwanted = (frozenset() if copies else frozenset(found.copies)) | (
        frozenset() if near_copies else frozenset(found.near_copies)
    )
    wanted = [index for index in found.kept if index not in unwanted]
    aside = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.part")
    names, rows, nbytes = _Names(source, found.facts.source), [], 0
    try:
        with explained(f"cannot write to {out}"):
            aside.mkdir(parents=True)
        for done, index in enumerate(wanted):
            try:
                data, suffix, is_file = _file(source, index)
            except Unreadable as error:  # it could be read a moment ago
                raise FromnoiseError(f"the data have changed since they were inspected: {error}") from error
            path = names.of(index, suffix, keep=is_file)
            with explained(f"cannot write to {out}"):
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                (aside / path).write_bytes(data)
            nbytes += len(data)
            rows.append({"file_name": path, **_said(source, index)})
            yield Cleaning(done + 1, len(wanted))
        with explained(f"cannot write to {out}"):
            if source.captions is not None or source.values is not None or names.changed_a_class:
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (aside / TABLE).write_text(text, encoding="utf-8")
            os.replace(aside, out)  # an empty folder gives way
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    yield Cleaned(out, len(wanted), len(source) - len(wanted), nbytes)


def refuse_place(out: Path, data: str) -> None:
    """Raise ``WrongUse`` where no copy of ``data`` may be written: ``out`` is taken, or lies in the data."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise WrongUse(f"{out} is there already, and not an empty folder; name a new one")
    place, root = out.resolve(), Path(os.path.expanduser(data)).resolve()
    if root.exists() and place.is_relative_to(root):  # what holds the data is not empty
        raise WrongUse(f"{out} lies in the data, {data}; name a folder elsewhere")


def _file(source: Source, index: int) -> tuple[bytes, str, bool]:
    """The bytes for a file of picture ``index``, how its name should end, and whether it is a file of the source."""
    data = raw_bytes(source, index)
    if data is not None:
        return data, usual_suffix(data), True
    pixels = source.read(index)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels)).save(content, "PNG")
    return content.getvalue(), ".png", False


def _said(source: Source, index: int) -> dict[str, Any]:
    """What the source says of picture ``index``, as a row of a table."""
    row: dict[str, Any] = {}
    if source.labels is not None:
        row["label"] = source.classes[source.labels[index]]
    if source.captions is not None:
        row["caption"] = source.captions[index]
    if source.values is not None:
        row["values"] = list(source.values[index])
    return row


class _Names:
    """Paths in the new folder, each once also where upper and lower case are the same."""

    def __init__(self, source: Source, root: str) -> None:
        self._source = source
        self._root = os.path.expanduser(root)
        self._taken = {TABLE}
        self._folders = {name: _safe(name) for name in source.classes}
        self.changed_a_class = any(name != folder for name, folder in self._folders.items())
        if len({folder.lower() for folder in self._folders.values()}) < len(self._folders):
            self._folders = {name: f"{number:04d}" for number, name in enumerate(source.classes)}
            self.changed_a_class = True

    def of(self, index: int, suffix: str, *, keep: bool) -> str:
        """The path for picture ``index``, with slashes; it ends in ``suffix`` unless it may ``keep`` its own."""
        parts = [_safe(part) for part in self._below(index).split("/") if part]
        if self._source.labels is not None:
            folder = self._folders[self._source.classes[self._source.labels[index]]]
            if len(parts) < 2 or parts[0] != folder:
                parts.insert(0, folder)
        stem, own = posixpath.splitext(parts.pop())
        if own.lower() not in SUFFIXES:
            stem, own = f"{stem}{own}", suffix
        ending, folders, number = own if keep else suffix, "".join(f"{part}/" for part in parts), 1
        path = f"{folders}{stem}{ending}"
        while path.lower() in self._taken:
            number += 1
            path = f"{folders}{stem}-{number}{ending}"
        self._taken.add(path.lower())
        return path

    def _below(self, index: int) -> str:
        """The path of picture ``index`` from the source's root; its number where it has none."""
        path = file_path(self._source, index)
        if path is not None:
            path = os.path.relpath(path, os.path.abspath(self._root)).replace(os.sep, "/")
        else:
            name, above = self._source.name(index), f"{self._root}/"
            path = name.removeprefix(above) if name.startswith(above) else ""
        return path if path and not path.startswith("../") else f"{index:06d}"


def _safe(part: str) -> str:
    """``part`` as the name of a file or folder on any system: printable, not hidden, not too long."""
    kept = "".join("_" if char in _UNSAFE or not char.isprintable() else char for char in part).strip(" ")
    if kept.startswith("."):
        kept = f"_{kept[1:]}"
    stem, suffix = posixpath.splitext(kept.rstrip(". ") or "_")
    if len(suffix) > 10:
        stem, suffix = f"{stem}{suffix}", ""
    return f"{stem.encode()[:_LONGEST].decode(errors='ignore')}{suffix}"
