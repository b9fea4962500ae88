"""The samples of webdataset's shards: files of one key, one of them the picture and the others what is said of it.

The key of a file is its path up to the first dot of its name, what follows is its kind: ``000/17.left.png`` is the
"left.png" of ``000/17``. Read are .cls (a label: a number or a word), .txt (a caption) and .json (an object whose keys
are columns as in a table). Everything else, pickled arrays among it, is left alone.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

from fromnoise.data.conditions import (
    USUAL_CAPTIONS,
    USUAL_LABELS,
    USUAL_VALUES,
    Conditions,
    as_values,
    from_labels,
    joined,
)
from fromnoise.data.decode import SUFFIXES
from fromnoise.data.listing import Wish, suffix_of
from fromnoise.data.manifest import some
from fromnoise.data.source import printable
from fromnoise.data.tar import Member, read_member
from fromnoise.errors import WrongUse

_LARGEST = 2**20  # bytes of a note
_NOTES = ("cls", "txt", "json")


class Sample(NamedTuple):
    """The files of one key in one shard, by their kinds, of which at least one is a picture."""

    shard: int
    key: str
    parts: Mapping[str, Member]

    @property
    def has_notes(self) -> bool:
        return any(kind in self.parts for kind in _NOTES)


class Annotated(NamedTuple):
    """The pictures of samples, each with the number of its shard, and what their notes say."""

    pictures: list[tuple[int, Member]]
    said: Conditions
    remarks: tuple[str, ...]


class _Said(NamedTuple):
    """The notes of one sample."""

    label: Any
    caption: str | None
    table: Mapping[str, Any]
    is_broken: bool


def samples(files: Iterable[tuple[int, Member]]) -> list[Sample]:
    """The samples among ``files`` (of numbered shards), in the order of their first files."""
    found: dict[tuple[int, str], dict[str, Member]] = {}
    for shard, member in files:
        folder, name = posixpath.split(member.name)
        stem, _, kind = name.partition(".")
        found.setdefault((shard, posixpath.join(folder, stem)), {})[kind.lower()] = member
    return [Sample(shard, key, parts) for (shard, key), parts in found.items() if any(map(_is_picture, parts))]


def annotated(found: Sequence[Sample], wish: Wish, paths: Sequence[str], shown: Sequence[str]) -> Annotated:
    """The pictures of the samples ``found`` and what is said of them.

    Args:
        found: in the order of their shards.
        wish: whether labels are to be taken, and how notes and keys are called.
        paths: of the shards.
        shown: how messages call the shards.

    Raises:
        WrongUse: a sample has several pictures, or none of the kind asked for; or labels or values make no sense.
    """
    pictures = [(sample.shard, _picture(sample, wish.columns.picture, shown)) for sample in found]
    said: list[_Said] = []
    for shard, group in groupby(found, key=lambda sample: sample.shard):
        with open(paths[shard], "rb") as file:
            said += [_read(file, sample, wish) for sample in group]

    def name(index: int) -> str:
        return f"{shown[found[index].shard]}/{printable(found[index].key)}"

    conditions = Conditions()
    if wish.columns.label is not None and all(one.label is None for one in said):
        raise WrongUse(f"none of the {len(said)} samples has a note or a key {printable(wish.columns.label)}")
    if any(one.label is not None for one in said):
        conditions = from_labels([one.label for one in said], name)
    if any(one.caption is not None for one in said):
        conditions = replace(conditions, captions=tuple(one.caption or "" for one in said))
    usual = [key for key in USUAL_VALUES if any(key in one.table for one in said)]
    for key in usual if wish.columns.values is None else wish.columns.values:
        rows = as_values([one.table.get(key) for one in said], name)
        names = (printable(key),) if len(rows[0]) == 1 else tuple(f"{printable(key)} {k}" for k in range(len(rows[0])))
        conditions = joined(conditions, values=rows, value_names=names)
    broken = [name(index) for index, one in enumerate(said) if one.is_broken]
    remarks = (f"notes that cannot be read: {some(broken)}",) if broken else ()
    return Annotated(pictures, conditions, remarks)


def _is_picture(kind: str) -> bool:
    return suffix_of(f"x.{kind}") in SUFFIXES


def _picture(sample: Sample, asked: str | None, shown: Sequence[str]) -> Member:
    kinds = [kind for kind in sample.parts if _is_picture(kind)]
    if asked is not None and asked in sample.parts:
        return sample.parts[asked]
    if len(kinds) > 1 or asked is not None:
        where = f"the sample {printable(sample.key)} of {shown[sample.shard]}"
        several = ", ".join(map(printable, kinds))
        if asked is not None:
            raise WrongUse(f"{where} has no {printable(asked)}; its pictures are {several}")
        raise WrongUse(f"{where} has several pictures, name one as the column of pictures: {several}")
    return sample.parts[kinds[0]]


def _read(file: BinaryIO, sample: Sample, wish: Wish) -> _Said:
    """The notes of a sample of the shard that ``file`` is."""
    broken = False

    def text(kind: str) -> str | None:
        nonlocal broken
        member = sample.parts.get(kind)
        if member is None:
            return None
        data = read_member(file, member) if member.size <= _LARGEST else b""
        try:
            if len(data) == member.size:
                return data.decode("utf-8").strip()
        except UnicodeDecodeError:
            pass
        broken = True
        return None

    table: Mapping[str, Any] = {}
    content = text("json")
    if content is not None:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        broken |= not isinstance(value, dict)
        table = value if isinstance(value, dict) else {}
    columns, label = wish.columns, None
    if columns.label is not None:
        label = text(columns.label) if columns.label in sample.parts else table.get(columns.label)
    elif wish.classes:
        label = text("cls") if "cls" in sample.parts else _first(table, USUAL_LABELS)
    if columns.caption is not None:
        caption = text(columns.caption) if columns.caption in sample.parts else table.get(columns.caption)
    else:
        caption = text("txt") if "txt" in sample.parts else _first(table, USUAL_CAPTIONS)
    return _Said(label, None if caption is None else str(caption), table, broken)


def _first(table: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((table[name] for name in names if table.get(name) is not None), None)
